"""How well a model that was trained on some classes names those, and others: base-to-new generalisation (CoCoOp, arXiv
2203.05557)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from nearfar import lookup
from nearfar.classifiers.classifier import ROWS
from nearfar.classifiers.zero_shot import class_prototypes
from nearfar.embedding.embeddings import Embeddings
from nearfar.errors import UserError
from nearfar.evaluation.measures.bootstrap import clusters, mean_interval, resample
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.modes import device_of, evaluating
from nearfar.prompting.prompt_templates import templates as sentences

PLAIN = "a photo of a {}."
RESAMPLES = 1000


def base_to_new(
    encoder: Any,
    embeddings: Embeddings,
    *,
    classes: Sequence[str] | None = None,
    base: Sequence[str] | None = None,
    templates: str | Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> Result:
    """Accuracy on the classes that a model was trained on, and on the others of the same data. Pictures of base classes
    are put among the base names alone, pictures of new classes among the new names alone.

    Args:
        encoder: embeds the class names; one with a learned prompt puts them into it, for each picture by itself where
            the prompt depends on the picture.
        embeddings: of the data, with labels and names of classes.
        classes: the name of each label; default: those of the data.
        base: the names of the base classes; None: those that the model was trained on, where it says so, else the first
            half of the data's.
        templates: what names are put into; None: nothing beside a learned prompt, else "a photo of a {}.".
        seed: of the bootstrap over pictures (whole groups, where the data has them).
        batch_size: names at a time.

    Returns:
        `base`, `new`, and `harmonic_mean` of both; the accuracy `by["class"]`. Pictures without a label are left out.

    Raises:
        UserError: no labels or names, a base class that the data has not, or no picture of one of both kinds.
    """
    embeddings.require("image", by="base_to_new")
    called = list(classes or embeddings.classes or ())
    if embeddings.label is None or not called:
        raise UserError(f"{embeddings.source} has no labels with names: use class folders, or name the column (label=)")
    names = [name.replace("_", " ") for name in called]
    if int(embeddings.label.max()) >= len(names):
        most = int(embeddings.label.max())
        raise UserError(f"{embeddings.source} has a label {most}, and there are {len(names)} names of classes")
    known = _base(encoder, base, names, embeddings.source)
    is_base = torch.tensor([name in known for name in names])
    prompted = hasattr(encoder, "class_cosines")
    forms = sentences(templates if templates is not None else "{}" if prompted else PLAIN)
    kept = (embeddings.label >= 0).nonzero().flatten()
    label = embeddings.label[kept]
    image = normalize(embeddings.image[kept].float(), dim=1)
    hit = torch.zeros(len(kept), dtype=torch.bool)
    for side in (True, False):
        places = (is_base == side).nonzero().flatten()
        rows = (is_base[label] == side).nonzero().flatten()
        if not len(rows):
            kind = "base" if side else "new"
            raise UserError(
                f"{embeddings.source} holds no picture of a {kind} class: name the base classes (--base-names), and "
                "take data that hold others, too"
            )
        own = [names[i] for i in places.tolist()]
        scores = _cosines(encoder, image[rows], own, forms, batch_size)
        hit[rows] = places[scores.argmax(1)] == label[rows]
    group = embeddings.image_group[kept].numpy()
    of_base = is_base[label].numpy()
    counts = (int(is_base.sum()), int((~is_base).sum()))
    metrics = _figures(hit.double().numpy(), of_base, group, counts, seed)
    by = {}
    for number in label.unique().tolist():
        rows = label == number
        value = hit[rows].double()
        low, high = mean_interval(value.numpy(), seed=seed)
        chance = 1 / counts[0 if is_base[number] else 1]
        metric = Metric(value.mean().item(), float(low[0]), float(high[0]), chance, len(value), unit="%")
        by[names[number]] = {"top1": metric}
    details = {"base": sorted(known), "new": counts[1], "templates": list(forms)}
    return Result("base_to_new", metrics, {"class": by}, details)


def harmonic_mean(base: float, new: float) -> float:
    """H = 2 base new / (base + new), which is low where one of both is; 0 of two zeros.

    >>> [round(harmonic_mean(*each), 2) for each in ((82.69, 63.22), (80.47, 71.69), (82.28, 75.14), (50, 0))]
    [71.66, 75.83, 78.55, 0.0]
    """
    return 2 * base * new / (base + new) if base + new else 0.0


def _base(encoder: Any, base: Sequence[str] | None, names: list[str], where: str) -> set[str]:
    trained = getattr(encoder, "base", None)
    if base is None and trained:
        base = trained
    if base is None:
        base = names[: (len(names) + 1) // 2]
    chosen = [name.replace("_", " ") for name in base]
    lookup.check("class", chosen, names, where=f"{where}: ")
    return set(chosen)


def _cosines(encoder: Any, image: Tensor, names: list[str], forms: Sequence[str], batch_size: int) -> Tensor:
    """Cosines `[N, C]` of unit embeddings `[N, D]` with names."""
    if not hasattr(encoder, "class_cosines") or len(forms) > 1:
        return image @ class_prototypes(encoder, names, templates=forms, batch_size=batch_size).T
    device = device_of(encoder)
    with evaluating(encoder):
        tokens = encoder.tokenize([forms[0].replace("{}", name) for name in names])
        parts = [encoder.class_cosines(part.to(device), tokens).float().cpu() for part in image.split(ROWS)]
    return torch.cat(parts)


def _figures(
    hit: NDArray[np.float64], of_base: NDArray[np.bool_], group: NDArray[np.int64], counts: tuple[int, int], seed: int
) -> dict[str, Metric]:
    """Both accuracies and their harmonic mean, all on the same resamples of groups."""
    columns = np.stack([hit * of_base, of_base, hit * ~of_base, ~of_base], axis=1).astype(np.float64)
    member, number = clusters(group, len(hit))
    sums = np.stack([np.bincount(member, column, number) for column in columns.T], axis=1)
    drawn = np.concatenate([weights @ sums for weights in resample(number, RESAMPLES, seed)])
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample without one of both kinds is left out
        sides = drawn[:, [0, 2]] / drawn[:, [1, 3]]
    both = np.column_stack([sides, [harmonic_mean(*each) for each in sides]])
    low, high = np.nanpercentile(both, [2.5, 97.5], axis=0)
    totals = columns.sum(0)
    base, new = totals[0] / totals[1], totals[2] / totals[3]
    values = {"base": base, "new": new, "harmonic_mean": harmonic_mean(base, new)}
    chances = (1 / counts[0], 1 / counts[1])
    chance = (*chances, harmonic_mean(*chances))
    sizes = (int(totals[1]), int(totals[3]), len(hit))
    return {
        name: Metric(float(value), float(low[i]), float(high[i]), chance[i], sizes[i], "%")
        for i, (name, value) in enumerate(values.items())
    }
