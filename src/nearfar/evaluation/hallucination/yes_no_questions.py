"""Yes-no questions of pictures, answered in words (POPE, arXiv 2305.10355; MME, arXiv 2306.13394)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearfar.data.fields.answers import answer_counts
from nearfar.data.pictures.images import reading_size
from nearfar.data.sources.record_groups import Groups
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.skipped import Skipped
from nearfar.errors import UserError, at_least
from nearfar.evaluation.hallucination.yes_no_scores import mme_score, pope_scores, says_yes
from nearfar.evaluation.measures.answer_match import plain_counts
from nearfar.evaluation.measures.bootstrap import ratio_interval
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.protocols.picture_batches import as_source, read_pictures


def yes_no(
    model: Any,
    source: Any,
    *,
    prompt: str = "{}",
    max_tokens: int = 8,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    max_skipped: float = 0.1,
) -> Result:
    """How well a model answers yes-no questions, and whether it says "yes" to what is not there.

    Args:
        model: one with `caption`, such as a `nearfar.models.VisionLanguageModel`, or
            `nearfar.decoding.ImageConditions(...).on(model)`.
        source: records with `image`, `text` (the question) and `answers`; those whose commonest answer is neither "yes"
            nor "no" are left out. Their `question_type` breaks the figures down.
        prompt: what the model goes on from; {} stands for the question.
        max_tokens: so many are written at most.
        limit: questions that are used, from the first; None: all.
        seed: of the bootstrap, which resamples pictures (`group`) with all their questions.
        batch_size: questions at a time.
        max_skipped: the share of broken pictures above which this stops.

    Returns:
        `accuracy`, whose chance is the commoner of both answers; `precision`, `recall` and `f1` of "yes"; `yes_ratio`,
        the share of answers that are "yes". An answer is "no" where it has a word "no", "not" or one that ends in
        "n't". Where every picture has two questions also `mme`, from 0 to 200.

    Raises:
        UserError: no such question, or too many broken pictures.
    """
    at_least(1, batch_size=batch_size, limit=1 if limit is None else limit)
    data, skipped = as_source(source), Skipped()
    questions, other = _questions(data, limit)
    if "{}" not in prompt:
        raise UserError(f"prompt={prompt!r}: {{}} must stand where the question is to be")
    kept: list[_Question] = []
    written: list[str] = []
    rows = [each.row for each in questions]
    reading = read_pictures(
        data, rows, near=reading_size(model), batch_size=batch_size, skipped=skipped, max_skipped=max_skipped
    )
    for places, pictures in reading:
        batch = [questions[place] for place in places]
        prompts = [prompt.replace("{}", each.text) for each in batch]
        written += model.caption(model.preprocess(pictures), prompts, max_tokens=max_tokens)
        kept += batch
    said = np.array([says_yes(text) for text in written])
    truth = np.array([each.yes for each in kept])
    picture = np.array([each.picture for each in kept])
    metrics = _metrics(said, truth, picture, seed)
    if set(Counter(picture.tolist()).values()) == {2}:
        metrics["mme"] = Metric(mme_score(said == truth, picture.tolist()), n=len(said) // 2)
    kinds = np.array([each.kind for each in kept])
    parts = {kind: kinds == kind for kind in sorted(set(kinds.tolist()))}
    by = {kind: _metrics(said[own], truth[own], picture[own], seed) for kind, own in parts.items()}
    wrong = [
        {"row": each.row, "question": each.text, "answers": {"yes" if each.yes else "no": 1}, "given": text}
        for each, text, right in zip(kept, written, said == truth, strict=True)
        if not right
    ]
    details = {
        "skipped": skipped.count,
        "left_out": {"with another answer than yes or no": other} if other else {},
        "true_yes_ratio": float(truth.mean()),
        "failures": wrong[:12],
    }
    return Result("yes_no", metrics, {"question_type": by} if len(by) > 1 else {}, details)


@dataclass(frozen=True)
class _Question:
    """A question whose answer is yes or no."""

    row: int
    text: str
    yes: bool
    picture: int
    kind: str


def _questions(data: Any, limit: int | None) -> tuple[list[_Question], int]:
    """The questions, and how many have another answer."""
    questions: list[_Question] = []
    other, group_of = 0, Groups(data)
    for row, record in enumerate(data):
        if limit is not None and len(questions) >= limit:
            break
        texts, answer = captions(record.get("text")), _commonest(answer_counts(record.get("answers")))
        if not texts or answer is None:
            continue
        if answer not in ("yes", "no"):
            other += 1
            continue
        kind = str(record.get("question_type") or "")
        questions.append(_Question(row, texts[0], answer == "yes", group_of(record, row, row), kind))
    if not questions:
        name = getattr(data, "name", "the data")
        raise UserError(
            f"{name} holds no question whose answer is yes or no: name the columns with text=COLUMN and answers=COLUMN"
        )
    return questions, other


def _commonest(counts: Mapping[str, float]) -> str | None:
    """The answer that was given most often, whatever its case; None where there is none."""
    plain = plain_counts(counts)
    return max(plain, key=lambda answer: plain[answer]) if plain else None


def _metrics(
    said: NDArray[np.bool_], truth: NDArray[np.bool_], picture: NDArray[np.int64], seed: int
) -> dict[str, Metric]:
    both, each = said & truth, np.ones(len(said))
    counts = {
        "accuracy": (said == truth, each),
        "precision": (both, said),
        "recall": (both, truth),
        "f1": (2 * both, said.astype(int) + truth),
        "yes_ratio": (said, each),
    }
    chance = {"accuracy": float(max(truth.mean(), 1 - truth.mean()))}
    return {
        name: Metric(
            value,
            *ratio_interval(*counts[name], cluster=picture, seed=seed),
            chance=chance.get(name),
            n=len(said),
            unit="%",
        )
        for name, value in pope_scores(said.tolist(), truth.tolist()).items()
    }
