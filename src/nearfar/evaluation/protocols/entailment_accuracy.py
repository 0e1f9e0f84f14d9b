"""Entailment and other classes of pairs: how often the class of picture and statement is predicted, compared with
baselines that do not use the picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearfar.data.pictures.images import reading_size
from nearfar.data.sources.record_groups import Groups
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.skipped import Skipped
from nearfar.errors import UserError
from nearfar.evaluation.compositionality.blind import NgramBaseline
from nearfar.evaluation.measures.bootstrap import mean_interval
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.protocols.picture_batches import as_source, halves, read_pictures


def entailment(
    model: Any,
    source: Any,
    *,
    train: Any = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    max_skipped: float = 0.1,
) -> Result:
    """Accuracy of the classes of pairs: does the picture entail the statement, contradict it, or neither?

    Args:
        model: anything with `judge(pictures, texts, batch_size=...)`, which gives probabilities `[N, classes]`: a
            `nearfar.models.FusionClassifier`.
        source: records with `image`, `text` (the statement; of several the first) and `label`; those without a label
            are left out. A `statement_kind` breaks the figures down.
        train: such records, or what `open_source` takes, for the baselines without pictures. By default the training
            split of generated statements; otherwise one half of the pictures is judged as fitted on the other half.
        limit: records that are used, from the first; None: all.
        seed: of the bootstrap, which resamples pictures (`group`) with all their statements.
        batch_size: pairs at a time.
        max_skipped: the share of broken pictures above which this stops.

    Returns:
        `accuracy`, and that of `blank_image` (the same model on a white image), `text_only` (how likely the words are
        among the statements of each class, by bigrams) and `most_frequent` (one class for all). SNLI-VE's
        statements, for one, give much away without the picture. `accuracy` and `text_only` also by class and kind.

    Raises:
        UserError: a model that does not judge pairs, other classes than the model's, or data without labels.
    """
    if not hasattr(model, "judge"):
        raise UserError(
            f"a {type(model).__name__} does not sort pairs into classes: train one with the method 'entailment'"
        )
    statements = _statements(source, limit)
    fitted = as_source(train) if train is not None else source.training() if hasattr(source, "training") else None
    pool = None if fitted is None else _statements(fitted, None)
    names = list(getattr(source, "classes", None) or [])
    skipped, near = Skipped(), reading_size(model)
    rows, kept, predicted = [each.row for each in statements], [], []
    reading = read_pictures(source, rows, near=near, batch_size=batch_size, skipped=skipped, max_skipped=max_skipped)
    for places, pictures in reading:
        batch = [statements[place] for place in places]
        probabilities = model.judge(pictures, [each.text for each in batch], batch_size=batch_size)
        names = _classes(names, probabilities.shape[1], batch)
        predicted += probabilities.argmax(1).tolist()
        kept += batch
    guesses = {"accuracy": predicted, "blank_image": _blank(model, kept, batch_size), **_text_only_classes(kept, pool)}
    label = np.array([each.label for each in kept])
    right = {name: (np.array(guessed) == label).astype(float) for name, guessed in guesses.items()}
    group = np.array([each.group for each in kept])

    def metric(name: str, chosen: NDArray[np.bool_] | slice = slice(None)) -> Metric:
        values = right[name][chosen]
        low, high = mean_interval(values, cluster=group[chosen], seed=seed)
        return Metric(float(values.mean()), float(low[0]), float(high[0]), 1 / len(names), len(values), unit="%")

    columns = [name for name in ("accuracy", "text_only") if name in right]
    parts = {"class": [names[each.label] for each in kept], "statement_kind": [each.kind for each in kept]}
    by: dict[str, dict[str, dict[str, Metric]]] = {
        kind: {part: {name: metric(name, np.array(of) == part) for name in columns} for part in sorted(set(of))}
        for kind, of in parts.items()
        if len(set(of)) > 1
    }
    details = {
        "fitted_on": "the other half" if pool is None else f"{len(pool)} statements of training",
        "skipped": skipped.count,
        "failures": [
            {"row": each.row, "text": each.text, "label": names[each.label], "given": names[guess]}
            for each, guess in zip(kept, predicted, strict=True)
            if guess != each.label
        ][:12],
    }
    return Result("entailment", {name: metric(name) for name in right}, by, details)


@dataclass(frozen=True)
class Statement:
    """A statement about a picture and its class."""

    row: int
    text: str
    label: int
    group: Any
    kind: str


def _statements(source: Any, limit: int | None) -> list[Statement]:
    statements = []
    group_of = Groups(source)
    for row, record in enumerate(islice(source, limit)):
        texts, label = captions(record.get("text")), record.get("label")
        if texts and label is not None and label >= 0:
            group = group_of(record, row, row)
            statements.append(Statement(row, texts[0], int(label), group, str(record.get("statement_kind") or "")))
    if not statements:
        name = getattr(source, "name", "the data")
        raise UserError(f"{name} holds no statement with a label: name the columns with text=COLUMN and label=COLUMN")
    return statements


def _classes(names: list[str], known: int, statements: Sequence[Statement]) -> list[str]:
    """The names of the model's classes; their numbers, where the data has no names."""
    class_names = names or [str(i) for i in range(known)]
    most = max(len(class_names), 1 + max(each.label for each in statements))
    if most != known:
        raise UserError(
            f"the model sorts into {known} classes, and the data has {most}: {', '.join(names) or 'numbers'}"
        )
    return class_names


def _blank(model: Any, statements: Sequence[Statement], batch_size: int) -> list[int]:
    """The model's classes for a white image: each different statement once."""
    from PIL import Image

    texts = list(dict.fromkeys(each.text for each in statements))
    white = [Image.new("RGB", (64, 64), "white")] * len(texts)
    predicted = dict(zip(texts, model.judge(white, texts, batch_size=batch_size).argmax(1).tolist(), strict=True))
    return [predicted[each.text] for each in statements]


def _text_only_classes(statements: Sequence[Statement], pool: Sequence[Statement] | None) -> Mapping[str, list[int]]:
    """Classes predicted from the words, and the commonest class: of training, or of the other half of the pictures."""
    half = [0] * len(statements) if pool is not None else halves([each.group for each in statements])
    if pool is None and len(set(half)) < 2:
        return {}
    pairs = list(zip(statements, half, strict=True))
    pools = [pool] if pool is not None else [[e for e, h in pairs if h != fold] for fold in (0, 1)]
    blind = [TextOnlyClassifier(each) for each in pools]
    return {
        "text_only": [blind[h](each.text) for each, h in pairs],
        "most_frequent": [blind[h].commonest for _, h in pairs],
    }


class TextOnlyClassifier:
    """Predicts a statement's class from its words: the class whose training statements make them likeliest."""

    def __init__(self, pool: Sequence[Statement]) -> None:
        self.counts = Counter(each.label for each in pool)
        self.commonest = min(self.counts, key=lambda label: (-self.counts[label], label))
        self.taste = {
            label: NgramBaseline(order=2).fit(each.text for each in pool if each.label == label)
            for label in sorted(self.counts)
        }

    def __call__(self, text: str) -> int:
        tokens = len(text.split()) + 1  # the taste is a mean over words and the end

        def score(label: int) -> float:
            return self.taste[label](text) + log(self.counts[label]) / tokens

        return max(self.taste, key=score)
