"""What a model writes of pictures, beside their captions, and how much likelier a caption is with its own picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from nearfar.data.pictures.images import reading_size
from nearfar.data.sources.record_groups import Groups
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.skipped import Skipped
from nearfar.errors import UserError, at_least
from nearfar.evaluation.measures.bootstrap import mean_interval
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.protocols.picture_batches import as_source, read_pictures
from nearfar.modes import evaluating

UNITS = {"exact": "%", "token_f1": "%", "log_likelihood": "", "gain": "", "own_picture": "%"}


class Scores(NamedTuple):
    """Of the N pictures: what was written, and the figures of each by name, `[N]` float64, NaN where it has none."""

    written: list[str]
    values: dict[str, NDArray[np.float64]]


def captioning(
    model: Any,
    source: Any,
    *,
    prompt: str | None = None,
    max_tokens: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    max_skipped: float = 0.1,
) -> Result:
    """How well a model writes the captions of pictures, likeliest token by likeliest token.

    Args:
        model: one with `caption` and `likelihoods`, such as a `nearfar.models.VisionLanguageModel`.
        source: records with `image` and `text`.
        prompt: what it goes on from; None: the model's own.
        max_tokens: so many are written at most; None: as the model says.
        limit: records that are read, from the first; None: all.
        seed: of the bootstrap, which resamples pictures by `group`.
        batch_size: pictures at a time.
        max_skipped: the share of broken pictures above which this stops.

    Returns:
        `exact`: what was written is one of the captions, but for case and blanks. `token_f1`: the largest F1 of words
        with one of them. `log_likelihood`: of a picture's first caption, nats a token. `gain`: by how much it is above
        that of the same caption with another picture of the batch, which has other captions; `own_picture`: how often
        it is above, chance 0.5. `gain` is what the model takes from the picture: a model that knows how captions go has
        a high likelihood and no gain.

    Raises:
        UserError: no picture has a caption, or too many are broken.
    """
    at_least(1, batch_size=batch_size, limit=1 if limit is None else limit)
    data = as_source(source)
    rows, texts, groups = _captioned(data, limit)
    skipped, near = Skipped(), reading_size(model)
    kept: list[int] = []
    written: list[str] = []
    values: dict[str, list[NDArray[np.float64]]] = {name: [] for name in UNITS}
    reading = read_pictures(data, rows, near=near, batch_size=batch_size, skipped=skipped, max_skipped=max_skipped)
    for places, pictures in reading:
        scores = scored(model, pictures, [texts[place] for place in places], prompt=prompt, max_tokens=max_tokens)
        kept += places
        written += scores.written
        for name, each in scores.values.items():
            values[name].append(each)
    cluster = np.array([groups[place] for place in kept])
    metrics = {name: _metric(np.concatenate(each), cluster, name, seed) for name, each in values.items()}
    exact = np.concatenate(values["exact"])
    wrong = [
        {"row": rows[place], "captions": texts[place], "written": text}
        for place, text, right in zip(kept, written, exact, strict=True)
        if not right
    ]
    return Result("captioning", metrics, {}, {"skipped": skipped.count, "failures": wrong[:12]})


def scored(
    model: Any, pictures: Sequence[Any], texts: Sequence[Sequence[str]], *, prompt: str | None, max_tokens: int | None
) -> Scores:
    """The figures of some pictures, each with its captions."""
    pixels = model.preprocess(pictures)
    written = model.caption(pixels, prompt, max_tokens=max_tokens)
    others = [_other(texts, place) for place in range(len(texts))]
    with evaluating(model):
        tokens = model.tokenize([each[0] for each in texts])
        own = _a_token(*model.likelihoods(pixels, tokens, prompt))
        other = _a_token(*model.likelihoods(pixels[others], tokens, prompt))
    gain = np.where(np.array(others) == np.arange(len(texts)), np.nan, own - other)
    pairs = list(zip(written, texts, strict=True))
    return Scores(
        written,
        {
            "exact": np.array([plain(text) in map(plain, each) for text, each in pairs], dtype=np.float64),
            "token_f1": np.array([max(token_f1(text, caption) for caption in each) for text, each in pairs]),
            "log_likelihood": own,
            "gain": gain,
            "own_picture": np.where(np.isnan(gain), np.nan, (gain > 0) + 0.5 * (gain == 0)),
        },
    )


def plain(text: str) -> str:
    """In lower case, with one blank between words."""
    return " ".join(text.lower().split())


def token_f1(written: str, caption: str) -> float:
    """The harmonic mean of precision and recall of words, each as often as it stands there.

    >>> token_f1("a red car", "the red car"), token_f1("", "a car"), token_f1("", "")
    (0.6666666666666666, 0.0, 1.0)
    """
    one, other = Counter(plain(written).split()), Counter(plain(caption).split())
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0


def _captioned(data: Any, limit: int | None) -> tuple[list[int], list[list[str]], list[int]]:
    """Rows that have captions, these, and the groups of the pictures."""
    rows: list[int] = []
    texts: list[list[str]] = []
    groups: list[int] = []
    group_of = Groups(data)
    for row, record in enumerate(data):
        if limit is not None and row >= limit:
            break
        if own := captions(record.get("text")):
            rows.append(row)
            texts.append(own)
            groups.append(group_of(record, row, row))
    if not rows:
        raise UserError(f"{data.name} holds no picture with a caption: name the columns with image=NAME and text=NAME")
    return rows, texts, groups


def _other(texts: Sequence[Sequence[str]], place: int) -> int:
    """The place of the next picture, round to the first, that shares no caption with this one; its own where all do."""
    own = {plain(text) for text in texts[place]}
    for step in range(1, len(texts)):
        other = (place + step) % len(texts)
        if own.isdisjoint(plain(text) for text in texts[other]):
            return other
    return place


def _a_token(likelihood: torch.Tensor, mask: torch.Tensor) -> NDArray[np.float64]:
    mean = likelihood.double().sum(1) / mask.sum(1).clamp(min=1)
    return mean.cpu().numpy()


def _metric(values: NDArray[np.float64], cluster: NDArray[Any], name: str, seed: int) -> Metric:
    there = ~np.isnan(values)
    if not there.any():
        return Metric(float("nan"), unit=UNITS[name])
    low, high = mean_interval(values[there], cluster=cluster[there], seed=seed)
    chance = {"own_picture": 0.5, "gain": 0.0}.get(name)
    return Metric(float(values[there].mean()), float(low[0]), float(high[0]), chance, int(there.sum()), UNITS[name])
