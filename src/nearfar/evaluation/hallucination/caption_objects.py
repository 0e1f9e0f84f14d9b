"""Things that are named in captions that a model writes, against those in the pictures (CHAIR, arXiv 1809.02156)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearfar.data.pictures.images import reading_size
from nearfar.data.sources.record_groups import Groups
from nearfar.data.sources.record_text import captions, words
from nearfar.data.sources.skipped import Skipped
from nearfar.errors import UserError, at_least
from nearfar.evaluation.hallucination.chair_scores import ChairScores, ObjectNames, chair_scores
from nearfar.evaluation.measures.bootstrap import mean_interval, ratio_interval
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.protocols.picture_batches import as_source, read_pictures


def chair(
    model: Any,
    source: Any,
    *,
    synonyms: str | Path | None = None,
    prompt: str | None = None,
    max_tokens: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    max_skipped: float = 0.1,
) -> Result:
    """How many of the things that a model's captions name are not in the pictures.

    Args:
        model: one with `caption`, such as a `nearfar.models.VisionLanguageModel`, or
            `nearfar.decoding.ImageConditions(...).on(model)`.
        source: records with `image` and `objects`, a list of mappings with `name`, all that is there; what their
            captions in `text` name is there, too.
        synonyms: a JSON file that maps each thing to a list of its other names; None: the names of all objects.
        prompt: what the model goes on from; None: its own. The paper's: "Please describe this image in detail."
        max_tokens: so many are written at most; None: as the model says.
        limit: pictures that are used, from the first; None: all.
        seed: of the bootstrap, which resamples pictures by `group`.
        batch_size: pictures at a time.
        max_skipped: the share of broken pictures above which this stops.

    Returns:
        `chair_s`, the share of captions that name a thing that is not there, and `chair_i`, the share of all mentions
        that are of such things: both are better when lower. `recall`: the share of what is there that is named. Short
        captions name less that is wrong, and less: read all three.

    Raises:
        UserError: no picture with objects, a bad file of synonyms, or too many broken pictures.
    """
    at_least(1, batch_size=batch_size, limit=1 if limit is None else limit)
    data, skipped = as_source(source), Skipped()
    pictured = _with_objects(data, limit)
    if synonyms is None:
        looked_for = ObjectNames(dict.fromkeys(sorted({name for each in pictured for name in each.objects}), ()))
    else:
        looked_for = ObjectNames.load(synonyms)
    kept: list[_Pictured] = []
    written: list[str] = []
    rows = [each.row for each in pictured]
    reading = read_pictures(
        data, rows, near=reading_size(model), batch_size=batch_size, skipped=skipped, max_skipped=max_skipped
    )
    for places, pictures in reading:
        written += model.caption(model.preprocess(pictures), prompt, max_tokens=max_tokens)
        kept += [pictured[place] for place in places]
    truths = [{*each.objects, *(thing for text in each.texts for thing in looked_for.mentions(text))} for each in kept]
    scores = chair_scores(written, truths, looked_for)
    wrong = [
        {"row": each.row, "written": text, "there": sorted(each.objects)}
        for each, text, invented in zip(kept, written, scores.invented, strict=True)
        if invented
    ]
    metrics = _metrics(scores, np.array([each.group for each in kept]), seed)
    return Result("chair", metrics, {}, {"skipped": skipped.count, "failures": wrong[:12]})


@dataclass(frozen=True)
class _Pictured:
    """What a record says of its picture."""

    row: int
    objects: set[str]
    texts: list[str]
    group: int


def _with_objects(data: Any, limit: int | None) -> list[_Pictured]:
    pictured: list[_Pictured] = []
    group_of = Groups(data)
    for row, record in enumerate(data):
        if limit is not None and len(pictured) >= limit:
            break
        objects = {words(str(name)) for each in record.get("objects") or () if (name := each.get("name"))}
        if objects:
            group = group_of(record, row, row)
            pictured.append(_Pictured(row, objects, captions(record.get("text")), group))
    if not pictured:
        raise UserError(f"{data.name} holds no picture with objects: records need 'objects', a list of 'name'")
    return pictured


def _metrics(scores: ChairScores, group: NDArray[np.int64], seed: int) -> dict[str, Metric]:
    some = np.array(scores.invented) > 0
    low, high = mean_interval(some, cluster=group, seed=seed)
    metrics = {"chair_s": Metric(scores.chair_s, float(low[0]), float(high[0]), n=len(some), unit="%")}
    for name, value, part, whole in (
        ("chair_i", scores.chair_i, scores.invented, scores.mentioned),
        ("recall", scores.recall, scores.recalled, scores.present),
    ):
        bounds = ratio_interval(np.array(part), np.array(whole), cluster=group, seed=seed)
        metrics[name] = Metric(value, *bounds, n=sum(whole), unit="%")
    return metrics
