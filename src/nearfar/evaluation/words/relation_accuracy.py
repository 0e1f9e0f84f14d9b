"""What a model says of the things that phrases name in a picture, and of how they are related (VG-Bert, arXiv
2111.07180): is the right name among the first k?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nearfar import console
from nearfar.data.pictures.images import load_image
from nearfar.data.sources.record_groups import Groups
from nearfar.data.sources.skipped import BadRecord, Skipped
from nearfar.errors import UserError
from nearfar.evaluation.measures.bootstrap import mean_interval
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.modes import evaluating, to_device


class Judged(NamedTuple):
    """Of labelled things, or pairs of them: their labels, the ranks of these from 1 on, and the picture each is of."""

    label: list[int]
    rank: list[int]
    group: list[Any]


def relations(
    encoder: Any,
    source: Any,
    *,
    ks: Sequence[int] = (1, 5, 10),
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    max_skipped: float = 0.1,
) -> Result:
    """How often a relation, and a thing, that is labelled is among the k that a model holds most likely.

    Args:
        encoder: a `nearfar.models.RelationEncoder`, or any model with its `ground`, `down`, `relation`,
            `object_logits`, `fields` and `preprocess`, and the names `relations` and `objects`.
        source: records with `image` and `objects`, and `relations`, as `nearfar.data.fields.phrase_field.PhraseField`
            reads them. What the model has no name for does not count.
        ks: the k; one that is no smaller than the number of choices is left out, but for 1.
        limit: records that are used, from the first; None: all.
        seed: of the bootstrap, which resamples pictures with all their things.
        batch_size: pictures at a time.
        max_skipped: the share of broken records above which this stops.

    Returns:
        `relation_top1`, `relation_top5` ... over labelled pairs, `object_top1` ... over labelled things, among all
        names and "none of them", as the released code has it: chance is k over these. A tie counts against the model.
        `relation_mean` is the mean over relations of their top 1, which the commonest do not rule; `by` has the top 1
        of each relation and of each thing.

    Raises:
        UserError: no pair of the data has a relation that the model knows, a k below 1, or too many broken records.
    """
    if not ks or min(ks) < 1:
        raise UserError(f"ks={list(ks)}: whole numbers from 1 on")
    skipped, name = Skipped(), getattr(source, "name", "the data")
    pairs, things = Judged([], [], []), Judged([], [], [])
    (field,) = encoder.fields(False)
    batches = _batches(encoder, source, field, limit, batch_size, skipped, max_skipped)
    with evaluating(encoder):
        for pixels, batch, groups in batches:
            grounded = encoder.ground(pixels, batch["phrases"])
            b, i = (batch["object_label"] > 0).nonzero(as_tuple=True)
            _judge(things, encoder.object_logits(grounded[b, i]), batch["object_label"][b, i], b, groups)
            b, i, j = (batch["relation_label"] > 0).nonzero(as_tuple=True)
            u = encoder.down(grounded)
            _judge(pairs, encoder.relation.pairs(u[b, i], u[b, j]), batch["relation_label"][b, i, j], b, groups)
    if not pairs.label:
        known = ", ".join(list(encoder.relations)[:5])
        raise UserError(f"{name} has no pair of things with a relation that the model knows ({known} ...)")
    metrics: dict[str, Metric] = {}
    by: dict[str, dict[str, dict[str, Metric]]] = {}
    for what, judged, names in (("relation", pairs, encoder.relations), ("object", things, encoder.objects)):
        if judged.label:
            metrics |= _tops(what, judged, len(names) + 1, ks, seed)
            by[what] = _by_name(judged, names)
    each = [own["top1"].value for own in by["relation"].values()]
    low, high = mean_interval(each, seed=seed)
    chance = 1 / (len(encoder.relations) + 1)
    metrics["relation_mean"] = Metric(float(np.mean(each)), float(low[0]), float(high[0]), chance, len(each), "%")
    details = {"relations": len(encoder.relations), "objects": len(encoder.objects), "skipped": skipped.count}
    return Result("relations", metrics, by, details)


def _batches(
    encoder: Any,
    source: Any,
    field: Any,
    limit: int | None,
    batch_size: int,
    skipped: Skipped,
    max_skipped: float,
) -> Iterator[tuple[Tensor, Mapping[str, Any], list[Any]]]:
    """Pixels, phrases with their labels, and the group of each picture."""
    name, group_of, count = getattr(source, "name", "the data"), Groups(source), 0
    total = len(source) if hasattr(source, "__len__") else None
    pictures, parts, groups = [], [], []  # type: ignore[var-annotated]

    def read() -> tuple[Tensor, Mapping[str, Any], list[Any]]:
        pixels = encoder.preprocess(pictures).to(encoder.device)
        return pixels, to_device(field.collate(parts, None), encoder.device), groups

    for row, record in enumerate(console.track(islice(source, limit), f"{name}: related things", total=total)):
        count += 1
        try:
            part, picture = field.prepare(record, None), load_image(record.get("image"))
        except BadRecord as error:
            skipped.add(f"{name}, record {row}", str(error))
            continue
        parts.append(part)
        pictures.append(picture)
        groups.append(group_of(record, row, row))
        if len(parts) == batch_size:
            yield read()
            pictures, parts, groups = [], [], []
    if parts:
        yield read()
    skipped.check(count, limit=max_skipped, name=name, total=count)


def _judge(judged: Judged, scores: Tensor, label: Tensor, row: Tensor, groups: list[Any]) -> None:
    """Add labelled rows of scores `[K, C]`: a label's rank is the number of scores as high as its own."""
    label = label.to(scores.device)
    rank = (scores >= scores.gather(1, label[:, None])).sum(1)
    judged.label.extend(label.tolist())
    judged.rank.extend(rank.tolist())
    judged.group.extend(groups[each] for each in row.tolist())


def _tops(what: str, judged: Judged, choices: int, ks: Sequence[int], seed: int) -> dict[str, Metric]:
    rank = np.array(judged.rank)
    cluster: NDArray[Any] = np.unique(np.array([str(each) for each in judged.group]), return_inverse=True)[1]
    kept = [k for k in ks if k == 1 or k < choices]
    hits = np.stack([rank <= k for k in kept], axis=1).astype(float)
    low, high = mean_interval(hits, cluster=cluster, seed=seed)
    return {
        f"{what}_top{k}": Metric(
            float(hits[:, n].mean()), float(low[n]), float(high[n]), k / choices, len(rank), unit="%"
        )
        for n, k in enumerate(kept)
    }


def _by_name(judged: Judged, names: Sequence[str]) -> dict[str, dict[str, Metric]]:
    """The top 1 of each name that is there; label 1 is the first."""
    label, right = np.array(judged.label), np.array(judged.rank) == 1
    return {
        names[each - 1]: {"top1": Metric(float(right[label == each].mean()), n=int((label == each).sum()), unit="%")}
        for each in np.unique(label).tolist()
    }
