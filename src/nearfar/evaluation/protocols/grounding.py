"""Grounding: where on an image a model places a phrase, and whether the thing is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearfar.data.sources.record_groups import Groups
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.skipped import Skipped
from nearfar.errors import UserError
from nearfar.evaluation.measures.bootstrap import mean_interval
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.protocols.picture_batches import read_pictures

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels of the picture."""


def grounding(
    model: Any,
    source: Any,
    *,
    layer: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    max_skipped: float = 0.1,
) -> Result:
    """How often the map of a phrase peaks on its thing, and how often it chooses the thing's box.

    Args:
        model: anything with `locate(pictures, texts, layer=..., batch_size=...)`, which gives maps `[N, H, W]` and what
            each covers in its picture `[N, 4]`: a `nearfar.models.FusionModel`.
        source: records with `image` and `objects`, a list of dicts with `box` (left, top, right, bottom in pixels) and
            `phrase` (or, as in scenes, `name` with `colour`, `size`, `turned`); or with `text` and one `box`.
        layer: which fusion layer's attention; None: the middle one.
        limit: records that are used, from the first; None: all.
        seed: of the bootstrap, which resamples pictures (`group`) with all their phrases.
        batch_size: phrases at a time.
        max_skipped: the share of broken pictures above which this stops.

    Returns:
        `pointing`: the centre of the patch that scores highest lies in the box (the pointing game, arXiv 1608.00507);
            where several do, the share of them.
        Chance: the box's share of the picture. Beside it `centre`, which always points at the middle. Where pictures
        hold several boxes also `choice`: the phrase's box has the most of the map for the root of its size, as ALBEF
        (arXiv 2107.07651) chooses among proposals. Chance: any box; beside it `largest`, which always takes the
        largest. `pointing` and `choice` also by style, where the source has `domains`.

    Raises:
        UserError: a model without `locate`, or data without boxes.
    """
    if not hasattr(model, "locate"):
        raise UserError(f"a {type(model).__name__} gives no maps of phrases: train one with the method albef or tcl")
    phrases = _phrases(source, limit)
    rows = sorted(phrases)
    skipped = Skipped()
    phrase_maps: list[PhraseMap] = []
    reading = read_pictures(source, rows, near=None, batch_size=batch_size, skipped=skipped, max_skipped=max_skipped)
    for places, pictures in reading:
        pairs = [(each, picture) for i, picture in zip(places, pictures, strict=True) for each in phrases[rows[i]]]
        phrase_maps += _phrase_maps(model, pairs, layer, batch_size)
    group = np.array([each.phrase.group for each in phrase_maps])
    domain = np.array([each.phrase.domain for each in phrase_maps])
    scores_of_phrases = [each.scores() for each in phrase_maps]
    scores = {name: np.array([each[name] for each in scores_of_phrases]) for name in scores_of_phrases[0]}

    def metric(name: str, chosen: NDArray[np.bool_]) -> Metric:
        chosen = chosen & ~np.isnan(scores[name])
        values = scores[name][chosen]
        low, high = mean_interval(values, cluster=group[chosen], seed=seed)
        of = f"chance_{'pointing' if name in ('pointing', 'centre') else 'choice'}"
        return Metric(
            float(values.mean()), float(low[0]), float(high[0]), float(scores[of][chosen].mean()), len(values), unit="%"
        )

    everything = np.ones(len(phrase_maps), bool)
    several = not np.isnan(scores["choice"]).all()
    names = ["pointing", "centre", *(("choice", "largest") if several else ())]
    styles = {style: domain == i for i, style in enumerate(getattr(source, "domains", None) or ())}
    styles = {style: chosen for style, chosen in styles.items() if chosen.any()}
    by: dict[str, dict[str, dict[str, Metric]]] = {}
    if len(styles) > 1:
        by["domain"] = {
            style: {name: metric(name, chosen) for name in names if name in ("pointing", "choice")}
            for style, chosen in styles.items()
        }
    details = {"skipped": skipped.count, "looks": [each.as_dict() for each in phrase_maps[:12]]}
    return Result("grounding", {name: metric(name, everything) for name in names}, by, details)


@dataclass(frozen=True)
class Phrase:
    """A phrase, its box, and the boxes of the same picture."""

    row: int
    text: str
    box: Box
    boxes: Sequence[Box]
    group: Any
    domain: int


def overlap(heat: NDArray[np.floating], box: Box) -> float:
    """How much of a map `[H, W]` over the unit square lies in a box (left, top, right, bottom).

    >>> overlap(np.array([[1.0, 0.0], [0.0, 3.0]]), (0.25, 0.25, 1.0, 1.0))
    3.25
    """
    left, top, right, bottom = box

    def shares(low: float, high: float, count: int) -> NDArray[np.float64]:
        """Of each of `count` cells along the side, the share between the two."""
        edges = np.arange(count + 1) / count
        return np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None) * count

    return float(shares(top, bottom, heat.shape[0]) @ heat @ shares(left, right, heat.shape[1]))


@dataclass(frozen=True)
class PhraseMap:
    """The map of a phrase `[H, W]`, the window that it covers in a picture of this size."""

    phrase: Phrase
    size: tuple[int, int]
    heat: NDArray[np.floating]
    window: Box

    def scores(self) -> dict[str, float]:
        """Hits of the model and of the baselines, and their chances; NaN where there is nothing to choose."""
        left, top, right, bottom = self.window
        own, boxes = self.phrase.box, self.phrase.boxes
        across, down = right - left, bottom - top
        rows, columns = np.nonzero(self.heat == self.heat.max())  # a map without a peak points everywhere alike
        xs = left + (columns + 0.5) / self.heat.shape[1] * across
        ys = top + (rows + 0.5) / self.heat.shape[0] * down
        scores = {
            "pointing": float(np.mean([_lies_in(own, x, y) for x, y in zip(xs, ys, strict=True)])),
            "centre": _lies_in(own, self.size[0] / 2, self.size[1] / 2),
            "chance_pointing": min(1.0, _area(own) / (self.size[0] * self.size[1])),
            "choice": np.nan,
            "largest": np.nan,
            "chance_choice": np.nan,
        }
        if len(boxes) > 1:
            areas = [_area(box) for box in boxes]
            on_map = [
                ((a - left) / across, (b - top) / down, (c - left) / across, (d - top) / down) for a, b, c, d in boxes
            ]
            inside = [overlap(self.heat, box) / max(area, 1e-9) ** 0.5 for box, area in zip(on_map, areas, strict=True)]
            place = boxes.index(own)
            scores |= {"choice": _best(inside, place), "largest": _best(areas, place), "chance_choice": 1 / len(boxes)}
        return scores

    def as_dict(self) -> dict[str, Any]:
        """For the report: plain values, the map in thousandths of its peak."""
        heat = np.rint(1000 * self.heat / max(float(self.heat.max()), 1e-12)).astype(int)
        entry = {"row": self.phrase.row, "phrase": self.phrase.text, "box": self.phrase.box, "window": self.window}
        return {**entry, "map": heat.tolist(), "pointing": self.scores()["pointing"] == 1}


def _phrase_maps(
    model: Any, pairs: Sequence[tuple[Phrase, Any]], layer: int | None, batch_size: int
) -> list[PhraseMap]:
    pictures, texts = [picture for _, picture in pairs], [phrase.text for phrase, _ in pairs]
    maps, windows = model.locate(pictures, texts, layer=layer, batch_size=batch_size)
    return [
        PhraseMap(phrase, picture.size, heat, tuple(window))
        for (phrase, picture), heat, window in zip(pairs, maps.float().numpy(), windows.tolist(), strict=True)
    ]


def _lies_in(box: Box, x: float, y: float) -> float:
    return float(box[0] <= x <= box[2] and box[1] <= y <= box[3])


def _best(scores: Sequence[float], own: int) -> float:
    """Whether one's own is the highest; a share of it where several are."""
    top = max(scores)
    return float(scores[own] == top) / sum(score == top for score in scores)


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _phrases(source: Any, limit: int | None) -> dict[int, list[Phrase]]:
    """The phrases of each record that has any."""
    phrases_of: dict[int, list[Phrase]] = {}
    group_of = Groups(source)
    for row, record in enumerate(islice(source, limit)):
        boxed = _boxed_phrases(record)
        boxes = list(dict.fromkeys(box for _, box in boxed))
        group = group_of(record, row, row)
        domain = record["domain"] if record.get("domain") is not None else -1
        phrases = [Phrase(row, text, box, boxes, group, domain) for text, box in boxed if text and _area(box)]
        if phrases:
            phrases_of[row] = phrases
    if not phrases_of:
        name = getattr(source, "name", "the data")
        raise UserError(
            f"{name} holds no phrase with a box: records need 'text' and 'box', or 'objects' with 'phrase' and 'box'"
        )
    return phrases_of


def _boxed_phrases(record: Mapping[str, Any]) -> list[tuple[str, Box]]:
    if record.get("objects") is not None:
        return [(_phrase(each), _box(each["box"])) for each in record["objects"] if each.get("box") is not None]
    if record.get("box") is not None:
        return [(text, _box(record["box"])) for text in captions(record.get("text"))[:1]]
    return []


def _phrase(thing: Mapping[str, Any]) -> str:
    from nearfar.data.scenes.captions import indefinite
    from nearfar.data.scenes.layout import SceneObject

    if thing.get("phrase"):
        return str(thing["phrase"])
    if not thing.get("name"):
        return ""
    named = SceneObject(
        str(thing["name"]), colour=thing.get("colour"), size=thing.get("size"), turned=thing.get("turned")
    )
    return indefinite(named)


def _box(box: Sequence[float]) -> Box:
    try:
        left, top, right, bottom = map(float, box)
    except (TypeError, ValueError):
        raise UserError(f"box={box!r}: four numbers, left, top, right and bottom in pixels") from None
    return left, top, right, bottom
