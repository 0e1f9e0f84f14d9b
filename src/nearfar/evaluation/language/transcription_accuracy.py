"""Are the class and the words of a sound written as they were said? Accuracy and word error rate."""

from __future__ import annotations

from typing import Any

import numpy as np

from nearfar import console
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.skipped import BadRecord, Skipped
from nearfar.errors import UserError, at_least
from nearfar.evaluation.language.word_errors import word_edits
from nearfar.evaluation.measures.bootstrap import mean_interval
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.protocols.picture_batches import as_source


def transcription(
    encoder: Any,
    source: Any,
    *,
    seed: int = 0,
    batch_size: int = 32,
    max_skipped: float = 0.1,
    beams: int = 1,
    progress: bool = False,
) -> Result:
    """What a model writes of sounds, beside what was said: the share of sounds with the right class, and the word error
    rate, over all sounds, of the words in lower case.

    Args:
        encoder: a model with `transcribe`, such as a `nearfar.models.SoundTranscriber`.
        source: records with `audio`, `text` (the first one is what was said) and `label`.
        seed: of the bootstrap over sounds.
        batch_size: sounds at a time.
        max_skipped: the share of broken records above which this stops.
        beams: of the model's search (arXiv 2310.02699's field measures with some 20); 1 is greedy.
        progress: show a progress bar.

    Returns:
        `top1` and `wer`; both `by["class"]`, and `by["task"]` where the records have `task`, the number of the task
        that their class came in. Sounds without label or text are left out.

    Raises:
        UserError: no sound has both, or too many are broken.
    """
    at_least(1, batch_size=batch_size, beams=beams)
    search = {} if beams == 1 else {"beams": beams}
    data, skipped = as_source(source), Skipped()
    names = list(getattr(data, "classes", None) or ())
    rows: list[tuple[int, str, Any, Any]] = []
    heard: list[Any] = []
    waiting: list[Any] = []
    count = 0
    for record in console.track(
        data, "listening", progress or None, total=len(data) if hasattr(data, "__len__") else None
    ):
        count += 1
        said, label = captions(record.get("text")), record.get("label")
        if not said or label is None or label < 0:
            continue
        try:
            waiting.append(encoder.read_audio(record["audio"]))
        except BadRecord as problem:
            skipped.add(f"{data.name}, record {count - 1}", str(problem))
            continue
        rows.append((int(label), said[0].lower(), record.get("task"), names[label] if label < len(names) else label))
        if len(waiting) == batch_size:
            heard += encoder.transcribe(encoder.preprocess_audio(waiting), **search)
            waiting = []
    skipped.check(count, limit=max_skipped, name=data.name, total=count)
    heard += encoder.transcribe(encoder.preprocess_audio(waiting), **search) if waiting else []
    if not rows:
        raise UserError(f"{data.name} holds no sound with both a label and a text")
    right = np.array([each.label == row[0] for each, row in zip(heard, rows, strict=True)], dtype=np.float64)
    wrong = [word_edits(row[1].split(), each.text.lower().split()) for each, row in zip(heard, rows, strict=True)]
    said_words = [len(row[1].split()) for row in rows]
    counts = np.stack([right, np.array(wrong, dtype=np.float64), np.array(said_words, dtype=np.float64)], axis=1)
    by = {"class": _parts(counts, [str(row[3]) for row in rows], len(names), seed)}
    if all(row[2] is not None for row in rows):
        by["task"] = _parts(counts, [str(row[2]) for row in rows], len(names), seed)
    return Result("transcription", _metrics(counts, len(names), seed), by, {"skipped": skipped.count})


def _parts(counts: np.ndarray, names: list[str], classes: int, seed: int) -> dict[str, dict[str, Metric]]:
    each = np.array(names)
    return {name: _metrics(counts[each == name], classes, seed) for name in sorted(set(names))}


def _metrics(counts: np.ndarray, classes: int, seed: int) -> dict[str, Metric]:
    """Of rows of a hit, wrong words and words that were said."""
    n, (hits, wrong, said) = len(counts), counts.T
    low, high = mean_interval(hits[:, None], seed=seed)
    top1 = Metric(float(hits.mean()), float(low[0]), float(high[0]), 1 / classes if classes else None, n, unit="%")
    generator = np.random.default_rng(seed)
    drawn = generator.integers(n, size=(1000, n))
    rates = wrong[drawn].sum(1) / said[drawn].sum(1)
    bounds = np.quantile(rates, [0.025, 0.975])
    wer = Metric(float(wrong.sum() / said.sum()), float(bounds[0]), float(bounds[1]), None, n, unit="%")
    return {"top1": top1, "wer": wer}
