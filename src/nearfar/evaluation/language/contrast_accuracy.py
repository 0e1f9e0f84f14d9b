"""Two pictures that hardly differ, with a text each: does a model that writes find each text's picture, and does it
take it from the picture?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar import console
from nearfar.data.pictures.images import load_image, reading_size
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.skipped import BadRecord, Skipped
from nearfar.errors import UserError, at_least
from nearfar.evaluation.measures.bootstrap import mean_interval
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.protocols.picture_batches import as_source
from nearfar.modes import evaluating

CHANCE = {"paired_accuracy": 0.25, "accuracy": 0.5, "pictures": 0.5, "ordering": 1 / 6, "attend": 0.5, "reject": 0.5}


class Pair(NamedTuple):
    """A pair that can be read: two pictures, two texts, what stands before both, and of which kind it is."""

    pictures: tuple[Any, Any]
    texts: tuple[str, str]
    prompt: str | None
    kind: str | None


def contrasts(
    model: Any,
    source: Any,
    *,
    prompt: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    max_skipped: float = 0.1,
) -> Result:
    """How well a model that writes tells two pictures apart that hardly differ, by the likelihoods of their texts.

    Args:
        model: one with `likelihoods`, such as a `nearfar.models.VisionLanguageModel`.
        source: records with `image`, `image2`, `text` and `text2`; their `prompt` stands before both texts, and figures
            are given by `kind` where they have one.
        prompt: stands before all texts, in the place of their own; None: theirs, or the model's.
        limit: records that are read, from the first; None: all.
        seed: of the bootstrap, which resamples pairs.
        batch_size: pairs at a time.
        max_skipped: the share of pairs that cannot be read above which this stops.

    Returns:
        `paired_accuracy`: both pictures of a pair find their own text likelier than the other one (MMVP; chance 0.25);
        `accuracy`: a picture does. `pictures`: a text is likelier with its own picture than with the other one.
        `ordering`: it is likelier with its own than without a picture, and likelier without than with the other one,
        `attend` and `reject` (S-VCO, arXiv 2502.13928). Ties are wrong. `visual_dependency`: nats a token that a text
        gains by its own picture.

    Raises:
        UserError: no pair can be read, or too few.
    """
    at_least(1, batch_size=batch_size, limit=1 if limit is None else limit)
    data, skipped = as_source(source), Skipped()
    values: dict[str, list[Tensor]] = {}
    kinds: list[str | None] = []
    pairs: list[Pair] = []
    total = len(data) if limit is None and hasattr(data, "__len__") else limit
    for number, record in enumerate(console.track(islice(data, limit), f"{data.name}: pairs", total=total), start=1):
        try:
            pairs.append(_pair(record, reading_size(model)))
        except BadRecord as problem:
            skipped.add(f"{data.name}, record {number - 1}", str(problem))
        if len(pairs) == batch_size:
            _add(values, kinds, model, pairs, prompt)
            pairs = []
    if pairs:
        _add(values, kinds, model, pairs, prompt)
    count = len(kinds) + skipped.count
    skipped.check(count, limit=max_skipped, name=data.name, total=count)
    if not kinds:
        raise UserError(f"{data.name} holds no pair of pictures that can be read\n{skipped.reasons(5)}")
    figures = {name: torch.cat(each).numpy() for name, each in values.items()}
    metrics = {name: _metric(name, each, seed) for name, each in figures.items()}
    return Result("contrasts", metrics, _by_kind(figures, kinds, seed), {"skipped": skipped.count})


def _pair(record: Mapping[str, Any], near: int | None) -> Pair:
    texts = []
    for key in ("text", "text2"):
        if not (own := captions(record.get(key))):
            raise BadRecord(f"no {key}")
        texts.append(own[0])
    first, second = (load_image(record.get(key), near=near) for key in ("image", "image2"))
    prompt, kind = record.get("prompt"), record.get("kind")
    return Pair((first, second), (texts[0], texts[1]), prompt, None if kind is None else str(kind))


def _add(
    values: dict[str, list[Tensor]], kinds: list[str | None], model: Any, pairs: Sequence[Pair], prompt: str | None
) -> None:
    """The figures of some pairs, `[B, 2]` float64 each."""
    pixels = model.preprocess([pair.pictures[side] for side in (0, 1) for pair in pairs])
    tokens = model.tokenize([pair.texts[side] for side in (0, 1) for pair in pairs])
    own_prompts = [pair.prompt for pair in pairs] * 2
    before = own_prompts if prompt is None and all(each is not None for each in own_prompts) else prompt
    with evaluating(model):
        own, mask = model.likelihoods(pixels, tokens, before)
        other = model.likelihoods(pixels.roll(len(pairs), 0), tokens, before).log_likelihood
        alone = model.likelihoods(None, tokens, before).log_likelihood
    own, other, alone = (each.double().sum(1).view(2, -1).mT.cpu() for each in (own, other, alone))
    right = own > other.flip(1)
    attend, reject = own > alone, alone > other
    figures = {
        "paired_accuracy": right.all(1, keepdim=True).expand(-1, 2),
        "accuracy": right,
        "pictures": own > other,
        "ordering": attend & reject,
        "attend": attend,
        "reject": reject,
        "visual_dependency": (own - alone) / mask.sum(1).view(2, -1).mT.cpu(),
    }
    for name, each in figures.items():
        values.setdefault(name, []).append(each.double())
    kinds += [pair.kind for pair in pairs]


def _metric(name: str, values: NDArray[np.float64], seed: int) -> Metric:
    """The mean over texts `[N, 2]`; both of a pair are drawn together."""
    low, high = mean_interval(values.mean(1), seed=seed)
    chance = CHANCE.get(name, 0.0)
    unit = "%" if name in CHANCE else ""
    n = len(values) if name == "paired_accuracy" else values.size
    return Metric(float(values.mean()), float(low[0]), float(high[0]), chance, n, unit)


def _by_kind(
    figures: Mapping[str, NDArray[np.float64]], kinds: Sequence[str | None], seed: int
) -> dict[str, dict[str, dict[str, Metric]]]:
    names = sorted({kind for kind in kinds if kind is not None})
    if not names:
        return {}
    of_kind = {name: np.array([kind == name for kind in kinds]) for name in names}
    return {
        "kind": {
            name: {figure: _metric(figure, each[rows], seed) for figure, each in figures.items()}
            for name, rows in of_kind.items()
        }
    }
