"""Class names as classifiers of videos, adapted to each video where the model does that, over several of its views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar import console
from nearfar.data.batches.loader import Loader
from nearfar.data.video.video_field import VideoField
from nearfar.embedding.embed_source import as_video_model
from nearfar.errors import UserError, at_least
from nearfar.evaluation.measures.bootstrap import mean_interval
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.protocols.picture_batches import as_source
from nearfar.modes import device_of, evaluating

TEMPERATURE = 0.01
"""What cosines are divided by where a model says nothing: what released CLIPs learned."""


def video_classes(
    encoder: Any,
    source: Any,
    *,
    classes: Sequence[str] | None = None,
    template: str = "{}",
    selections: int = 1,
    crops: int = 1,
    ks: Sequence[int] = (1, 5),
    seed: int = 0,
    batch_size: int = 16,
    max_skipped: float = 0.1,
    progress: bool = False,
) -> Result:
    """Top-k accuracy of class names as classifiers of videos (X-CLIP, arXiv 2208.02816). Any list of names will do, and
    so it is zero-shot where the model was not trained on these classes.

    Each video is seen in several views; the probabilities of its views are added. The same videos in the same views
    give the same figures, and every video counts.

    Args:
        encoder: a model with `similarities`, whose names are adapted to each video, or one that embeds videos or
            pictures, and texts.
        source: records with `video` and `label`.
        classes: the name of each label; default: those of the data.
        template: what a name is put into (X-CLIP: the name alone).
        selections: of frames, spread evenly over each video (X-CLIP: 4).
        crops: squares of each selection along the longer side (X-CLIP: 3).
        ks: the k of the accuracies.
        seed: of the bootstrap over videos (whole groups, where the data has them).
        batch_size: videos at a time.
        max_skipped: the share of broken records above which this stops.
        progress: show a progress bar.

    Returns:
        `top1`, `top5`, and `mean_per_class`, in which every class counts the same; top-1 `by["class"]`. Videos without
        a label are left out.

    Raises:
        UserError: no labels, no names of classes, too many broken videos, or a model that does not say how frames are
            prepared (`image_size`, `mean`, `std`).
    """
    at_least(1, selections=selections, crops=crops, batch_size=batch_size)
    data = as_source(source)
    names = list(classes or getattr(data, "classes", None) or ())
    if not names:
        raise UserError(f"{data.name} names no classes: give them as classes=[...]")
    model = as_video_model(encoder)
    if unsaid := [name for name in ("image_size", "mean", "std") if not hasattr(model, name)]:
        raise UserError(f"a {type(encoder).__name__} does not say how frames are prepared: give it {unsaid[0]}")
    field = VideoField(
        model.image_size, model.frame_choice, mean=model.mean, std=model.std, n_views=selections, crops=crops
    )
    loader = Loader(
        data,
        [field],
        batch_size=batch_size,
        shuffle=False,
        drop_last=False,
        max_skipped=max_skipped,
        device=device_of(model),
        workers=2,
    )
    total = len(loader) if hasattr(data, "__len__") else None
    chances, labels, groups = [], [], []
    with evaluating(model), torch.no_grad():
        texts = model.encode_text(model.tokenize([template.format(name) for name in names]))
        for batch in console.track(loader, "watching videos", progress or None, total=total):
            known = batch["label"] >= 0
            if not known.any():  # transformers refuse a batch of nothing
                continue
            views = batch.get("video_views", batch["video"][None])
            chances.append(torch.stack([_chances(model, view[known], texts) for view in views]).sum(0).cpu())
            labels.append(batch["label"][known].cpu())
            groups.append(batch["group"][known].cpu())
    label = torch.cat(labels) if labels else torch.zeros(0, dtype=torch.long)
    if not len(label):
        raise UserError(f"{data.name} has no labels: name the column with label=NAME, or use class folders")
    if int(label.max()) >= len(names):
        raise UserError(f"{data.name} has a label {int(label.max())}, and there are {len(names)} names of classes")
    details = {"classes": len(names), "selections": selections, "crops": crops, "template": template}
    metrics, by = _accuracies(torch.cat(chances), label, torch.cat(groups), names, ks, seed)
    return Result("video_classes", metrics, {"class": by}, details | {"skipped": loader.skipped.count})


def _chances(model: Any, frames: Tensor, texts: Tensor) -> Tensor:
    """Probabilities `[B, K]` of a view. They are added, not the logits."""
    if hasattr(model, "similarities"):
        cosines = model.similarities(frames, texts)
    else:
        cosines = model.encode_video(frames, normalize=True) @ F.normalize(texts, dim=-1).T
    return (cosines.float() / (getattr(model, "temperature", None) or TEMPERATURE)).softmax(1)


def _accuracies(
    chances: Tensor, label: Tensor, group: Tensor, names: Sequence[str], ks: Sequence[int], seed: int
) -> tuple[dict[str, Metric], dict[str, dict[str, Metric]]]:
    n, count = len(label), len(names)
    own = chances.gather(1, label[:, None])
    # Of equal chances the true class comes last: a model that gives all classes one has found nothing.
    place = (chances >= own).sum(1).numpy()
    ks = [k for k in ks if k == 1 or k < count]
    hits = np.stack([place <= k for k in ks], axis=1).astype(np.float64)
    low, high = mean_interval(hits, cluster=group.numpy(), seed=seed)
    metrics = {
        f"top{k}": Metric(float(hits[:, i].mean()), float(low[i]), float(high[i]), k / count, n, unit="%")
        for i, k in enumerate(ks)
    }
    each = {c: hits[(label == c).numpy(), 0] for c in label.unique().tolist()}
    means = np.array([values.mean() for values in each.values()])
    low, high = mean_interval(means, seed=seed)
    metrics["mean_per_class"] = Metric(
        float(means.mean()), float(low[0]), float(high[0]), 1 / count, len(means), unit="%"
    )
    by = {}
    for c, values in each.items():
        low, high = mean_interval(values, seed=seed)
        by[names[c]] = {
            "top1": Metric(float(values.mean()), float(low[0]), float(high[0]), 1 / count, len(values), "%")
        }
    return metrics, by
