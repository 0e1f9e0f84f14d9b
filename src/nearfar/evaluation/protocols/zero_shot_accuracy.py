"""Zero-shot classification: an image belongs to the class whose name, put into sentences, is nearest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from nearfar.classifiers.zero_shot import class_prototypes
from nearfar.embedding.embed_source import embed
from nearfar.embedding.embeddings import Embeddings, by_name
from nearfar.errors import UserError
from nearfar.evaluation.measures.bootstrap import mean_interval
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.measures.retrieval_ranks import Ranks, rank
from nearfar.prompting.class_texts import ClassTexts
from nearfar.prompting.prompt_templates import templates as sentences


def zero_shot(
    encoder: Any,
    source: Any,
    *,
    classes: Sequence[str] | None = None,
    templates: str | Sequence[str] = "short",
    texts: str | Path | ClassTexts | None = None,
    candidates: Literal["present", "all"] = "present",
    ks: Sequence[int] = (1, 5),
    seed: int = 0,
    batch_size: int = 64,
) -> Result:
    """Top-k accuracy of class names as classifiers.

    Args:
        encoder: embeds the class names, and `source` unless that is embedded already.
        source: data with labels, or its `Embeddings`.
        classes: the name of each label; default: those of the data.
        templates: `"name"`, `"short"` (7 sentences), `"full"` (80), or sentences of your own with `{}` in them.
        texts: sentences of each class in the place of names in templates: a JSON or YAML file of them by class, as
            `nearfar prompts` writes it, or `ClassTexts`. Classes are known by their names.
        candidates: the classes to choose from: those that the data holds images of, or all that have a name.
        ks: the k of the accuracies.
        seed: of the bootstrap over images (whole groups, where the data has them).
        batch_size: for embedding.

    Returns:
        `top1`, `top5`, `mean_per_class` (top-1, every class counts the same; its interval resamples classes), and
        them `by["domain"]`; top-1 `by["class"]`. Images without a label are left out.

    Raises:
        UserError: the data has no labels, its classes no names, or one of them no texts.
    """
    data = source if isinstance(source, Embeddings) else embed(encoder, source, batch_size=batch_size, captions=0)
    label, names = labelled(data), list(classes or data.classes or ())
    if not names:
        raise UserError(f"{data.source} names no classes: pass classes=[...], one name a label")
    if int(label.max()) >= len(names):
        raise UserError(f"{data.source} has label {int(label.max())}, but only {len(names)} classes are named")
    kept = (label >= 0).nonzero().flatten()
    ids = label[kept].unique() if candidates == "present" else torch.arange(len(names))
    chosen = [names[i] for i in ids.tolist()]
    by_class = _texts_of(chosen, texts, templates)
    prototypes = class_prototypes(encoder, by_class, batch_size=batch_size)
    ranks = rank(normalize(data.image[kept], dim=1), prototypes, label[kept], ids)
    part = data.select(kept)
    assert part.label is not None
    by = {
        "domain": {
            name: accuracies(ranks[rows.numpy()], part.label[rows], part.image_group[rows], ks=ks, seed=seed)
            for name, rows in part.parts().items()
        },
        "class": {
            name: {"top1": accuracies(ranks[rows.numpy()], part.label[rows], None, ks=(1,), seed=seed)["top1"]}
            for name, rows in by_name(part.label, names).items()
        },
    }
    details: dict[str, Any] = {"classes": len(chosen), "candidates": candidates}
    if texts is None:
        details["templates"] = list(sentences(templates))
    else:
        details |= {
            "texts": "ClassTexts" if isinstance(texts, ClassTexts) else str(texts),
            "sentences": len(by_class.texts),
        }
    return Result(
        "zero_shot",
        accuracies(ranks, part.label, part.image_group, ks=ks, seed=seed),
        {kind: parts for kind, parts in by.items() if parts},
        details,
    )


def _texts_of(
    names: Sequence[str], texts: str | Path | ClassTexts | None, templates: str | Sequence[str]
) -> ClassTexts:
    """The sentences of these classes."""
    if texts is None:
        return ClassTexts.of(names, templates)
    where = "" if isinstance(texts, ClassTexts) else f"{texts}: "
    held = texts if isinstance(texts, ClassTexts) else ClassTexts.load(texts)
    return held.for_names(names, where=where)


def accuracies(
    ranks: Ranks, label: Tensor, group: Tensor | None, *, ks: Sequence[int] = (1, 5), seed: int = 0
) -> dict[str, Metric]:
    """Top-k accuracies and the mean over classes, from the rank of each image's true class.

    Args:
        ranks: ranks of n images among the classes.
        label: `[n]`, the true classes.
        group: `[n]`, images resampled together; None: each alone.
        ks: the k; a k that is no smaller than the number of classes is left out.
        seed: of the bootstrap.
    """
    chance, n = ranks.chance(), len(ranks)
    count = int(ranks.candidates[0]) if n else 0
    ks = [k for k in ks if k == 1 or k < count]
    hits = np.stack([ranks.hit(k) for k in ks], axis=1)
    low, high = mean_interval(hits, cluster=None if group is None else group.numpy(), seed=seed)
    metrics = {
        f"top{k}": Metric(
            float(hits[:, i].mean()), float(low[i]), float(high[i]), float(chance.hit(k).mean()), n, unit="%"
        )
        for i, k in enumerate(ks)
    }
    each = per_class(hits[:, 0], label)
    low, high = mean_interval(each, seed=seed)
    metrics["mean_per_class"] = Metric(
        float(each.mean()), float(low[0]), float(high[0]), 1 / count if count else None, len(each), unit="%"
    )
    return metrics


def per_class(values: NDArray[np.float64], label: Tensor) -> NDArray[np.float64]:
    """The mean of `values [n]` within each class that occurs, in order of the labels.

    >>> per_class(np.array([1.0, 0.0, 1.0]), torch.tensor([4, 4, 7]))
    array([0.5, 1. ])
    """
    _, member, count = np.unique(label.numpy(), return_inverse=True, return_counts=True)
    return np.bincount(member.reshape(-1), values) / count


def labelled(data: Embeddings) -> Tensor:
    """The labels of the data's pictures.

    Raises:
        UserError: it has none.
    """
    data.require("image", by="a classifier of pictures")
    if data.label is None or not bool((data.label >= 0).any()):
        raise UserError(f"{data.source} has no labels: name the column with label=NAME, or use class folders")
    return data.label
