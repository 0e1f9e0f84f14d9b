"""Visual question answering: how often the likeliest candidate is the right answer, compared with
baselines that do not use the picture."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearfar import files
from nearfar.data.fields.answers import answer_counts
from nearfar.data.pictures.images import reading_size
from nearfar.data.sources.record_groups import Groups
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.skipped import Skipped
from nearfar.errors import UserError
from nearfar.evaluation.measures.answer_match import (
    QuestionPrior,
    exact,
    leave_one_out,
    plain_answer,
    plain_counts,
    soft,
)
from nearfar.evaluation.measures.bootstrap import mean_interval
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.protocols.picture_batches import as_source, halves, read_pictures

Rule = Callable[[str, Mapping[str, float]], float]
"""How right an answer is, given how often each was given."""


def answering(
    model: Any,
    source: Any,
    *,
    train: Any = None,
    candidates: Sequence[str] | str | Path | None = None,
    most: int = 3128,
    k: int = 128,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    max_skipped: float = 0.1,
) -> Result:
    """Accuracy of answers, as VQA measures it.

    Args:
        model: anything with `answer(pictures, questions, candidates, k=..., batch_size=...)` that gives an (answer,
            probability) each: a `nearfar.models.FusionAnswerer` or `VisionLanguageModel`.
        source: records with `image`, `text` (the question) and `answers`; those without answers are left out. Their
            `question_type` and `answer_type` break the figures down; without them the first word does.
        train: such records, or what `open_source` takes: for candidates and baselines. By default the training split of
            generated questions; otherwise the candidates are those of `source`, and the baselines answer one half of
            the pictures as fitted on the other half.
        candidates: the answers to choose from, or a JSON file of a list of them; instead of those of `train`.
        most: the commonest so many answers are candidates (ALBEF, arXiv 2107.07651: 3,128).
        k: candidates a question that are scored to their end.
        limit: questions that are used, from the first; None: all.
        seed: of the bootstrap, which resamples pictures (`group`) with all their questions.
        batch_size: questions at a time.
        max_skipped: the share of broken pictures above which this stops.

    Returns:
        `accuracy`: the answer is the one that was given most often. Where questions have several annotators also
        `soft_accuracy`, min(count / 3, 1), and where all have ten `vqa_v2_accuracy`, its mean over the sets of nine, as
        the server reports it. The last of these is also given for `blank_image` (the same model on a white image),
        `text_only` (a prior of the question's words) and `most_frequent` (one answer to all), and by type.
        `reachable` is what the best candidates would score. Chance: any candidate.

    Raises:
        UserError: a model that gives no answers, or data without questions and answers.
    """
    if not hasattr(model, "answer"):
        raise UserError(
            f"a {type(model).__name__} answers no questions: train one with the method 'answering' or 'instruction'"
        )
    questions = _questions(source, limit)
    fitted = as_source(train) if train is not None else source.training() if hasattr(source, "training") else None
    pool = None if fitted is None else _questions(fitted, None)
    options = _candidates(candidates, questions if pool is None else pool, most)
    skipped = Skipped()
    questions, answers = _answered(model, source, questions, options, skipped, max_skipped, k=k, batch_size=batch_size)
    guesses = {"": answers, "blank_image": _blank(model, questions, options, k=k, batch_size=batch_size)}
    guesses |= _text_only_answers(questions, pool)
    rules = _rules(questions)
    available = Counter(plain_answer(option) for option in options)
    scores = AnswerScores(questions, rules, guesses, available, seed)
    metrics = {name: scores.metric(name) for name in rules}
    head = list(rules)[-1]
    metrics |= {name: scores.metric(head, name) for name in guesses if name}
    metrics["reachable"] = scores.reachable(head)
    wrong = [
        i
        for i, (answer, each) in enumerate(zip(answers, questions, strict=True))
        if not rules[head](answer, each.counts)
    ]
    details = {
        "candidates": len(options),
        "baselines_of": head,
        "fitted_on": "the other half" if pool is None else f"{len(pool)} questions of training",
        "skipped": skipped.count,
        "failures": [questions[i].as_failure(answers[i]) for i in wrong[:12]],
    }
    return Result("answering", metrics, scores.by(head), details)


@dataclass(frozen=True)
class Question:
    """A question and the answers it got, as they are compared."""

    row: int
    question: str
    answers: dict[str, float]
    counts: dict[str, float]
    group: int
    kinds: dict[str, str]

    def as_failure(self, answer: str) -> dict[str, Any]:
        """For the list of failures."""
        return {"row": self.row, "question": self.question, "answers": self.answers, "given": answer}


class AnswerScores:
    """Scores of all guesses by all rules, and figures of some or all questions."""

    def __init__(
        self,
        questions: Sequence[Question],
        rules: Mapping[str, Rule],
        guesses: Mapping[str, Sequence[str]],
        available: Mapping[str, int],
        seed: int,
    ) -> None:
        self.questions, self.rules, self.seed = questions, rules, seed
        self.group = np.array([each.group for each in questions])
        self.scores = {
            (rule, name): np.array(
                [score(plain_answer(g), each.counts) for g, each in zip(answers, questions, strict=True)]
            )
            for rule, score in rules.items()
            for name, answers in guesses.items()
        }
        total = sum(available.values())
        for rule, score in rules.items():
            each = [[(score(a, q.counts), available.get(a, 0)) for a in q.counts] for q in questions]
            self.scores[rule, "chance"] = np.array([sum(s * n for s, n in of_question) / total for of_question in each])
            self.scores[rule, "reachable"] = np.array(
                [max([s for s, n in of_question if n], default=0.0) for of_question in each]
            )

    def metric(self, rule: str, name: str = "", rows: NDArray[np.bool_] | None = None) -> Metric:
        """A guess's mean score, with its interval; of some questions only where `rows` says which."""
        chosen = np.ones(len(self.questions), bool) if rows is None else rows
        values, chance = self.scores[rule, name][chosen], self.scores[rule, "chance"][chosen].mean()
        low, high = mean_interval(values, cluster=self.group[chosen], seed=self.seed)
        return Metric(float(values.mean()), float(low[0]), float(high[0]), float(chance), len(values), unit="%")

    def reachable(self, rule: str) -> Metric:
        """What the best candidate of each question would score."""
        return Metric(float(self.scores[rule, "reachable"].mean()), n=len(self.questions), unit="%")

    def by(self, rule: str) -> dict[str, dict[str, dict[str, Metric]]]:
        """Score and text-only baseline of each part, by each way of parting the questions."""
        metrics: dict[str, dict[str, dict[str, Metric]]] = {}
        columns = ["", *(name for name in ("text_only",) if (rule, name) in self.scores)]
        for kind in self.questions[0].kinds:
            of = np.array([each.kinds.get(kind, "") for each in self.questions])
            metrics[kind] = {
                part: {name or rule: self.metric(rule, name, of == part) for name in columns}
                for part in sorted(set(of))
            }
        return metrics


def _rules(questions: Sequence[Question]) -> dict[str, Rule]:
    """The rules that the annotators allow, the one to compare by last."""
    totals = [sum(each.counts.values()) for each in questions]
    rules: dict[str, Rule] = {"accuracy": exact}
    if max(totals) > 1:
        rules["soft_accuracy"] = soft
    if min(totals) == max(totals) == 10:
        rules["vqa_v2_accuracy"] = leave_one_out
    return rules


def _questions(source: Any, limit: int | None) -> list[Question]:
    """The questions that have answers, without their pictures."""
    questions = []
    group_of = Groups(source)
    for row, record in enumerate(islice(source, limit)):
        texts, counts = captions(record.get("text")), answer_counts(record.get("answers"))
        if not texts or not counts:
            continue
        kinds = {key: str(record[key]) for key in ("question_type", "answer_type") if record.get(key)}
        kinds = kinds or {"first_word": texts[0].split()[0].lower()}
        group = group_of(record, row, row)
        questions.append(Question(row, texts[0], counts, plain_counts(counts), group, kinds))
    if not questions:
        name = getattr(source, "name", "the data")
        raise UserError(
            f"{name} holds no question with an answer: name the columns with text=COLUMN and answers=COLUMN"
        )
    return questions


def _candidates(candidates: Sequence[str] | str | Path | None, pool: Sequence[Question], most: int) -> list[str]:
    if isinstance(candidates, str | Path):
        try:
            candidates = json.loads(Path(candidates).read_text("utf-8"))
        except OSError as error:
            raise UserError(
                f"candidates: {candidates}: {error.strerror}: name a JSON file with a list of answers"
            ) from None
        except (ValueError, RecursionError) as error:
            why = files.json_fault(error)
            raise UserError(f"candidates: {candidates} is not a JSON file with a list of answers: {why}") from None
    if candidates is not None:
        if (
            not isinstance(candidates, Sequence)
            or not candidates
            or not all(isinstance(each, str) for each in candidates)
        ):
            raise UserError("candidates: a list of texts to choose from, or a JSON file that holds one")
        return list(dict.fromkeys(candidates))
    counted: Counter[str] = Counter()
    for each in pool:
        counted.update(each.answers)
    return sorted(counted, key=lambda answer: (-counted[answer], answer))[:most]


def _answered(
    model: Any,
    source: Any,
    questions: Sequence[Question],
    options: list[str],
    skipped: Skipped,
    max_skipped: float,
    *,
    k: int,
    batch_size: int,
) -> tuple[list[Question], list[str]]:
    """The questions whose picture can be read, and the model's answers."""
    rows, near = [each.row for each in questions], reading_size(model)
    kept: list[Question] = []
    answers: list[str] = []
    reading = read_pictures(source, rows, near=near, batch_size=batch_size, skipped=skipped, max_skipped=max_skipped)
    for places, pictures in reading:
        batch = [questions[place] for place in places]
        texts = [each.question for each in batch]
        answers += [answer for answer, _ in model.answer(pictures, texts, options, k=k, batch_size=batch_size)]
        kept += batch
    return kept, answers


def _blank(model: Any, questions: Sequence[Question], options: list[str], *, k: int, batch_size: int) -> list[str]:
    """The model's answers for a white image: each different question once."""
    from PIL import Image

    texts = list(dict.fromkeys(each.question for each in questions))
    white = [Image.new("RGB", (64, 64), "white")] * len(texts)
    answers = [answer for answer, _ in model.answer(white, texts, options, k=k, batch_size=batch_size)]
    answer_to = dict(zip(texts, answers, strict=True))
    return [answer_to[each.question] for each in questions]


def _text_only_answers(questions: Sequence[Question], pool: Sequence[Question] | None) -> dict[str, list[str]]:
    """The answers of the priors: of training, or of the other half of the pictures; none where there is one picture."""
    if pool is not None:
        priors, half = [_prior(pool)], [0] * len(questions)
    else:
        half = halves([each.group for each in questions])
        if len(set(half)) < 2:
            return {}
        priors = [_prior([e for e, h in zip(questions, half, strict=True) if h != fold]) for fold in (0, 1)]
    pairs = list(zip(questions, half, strict=True))
    return {
        "text_only": [priors[h](each.question) for each, h in pairs],
        "most_frequent": [priors[h].commonest for _, h in pairs],
    }


def _prior(pool: Sequence[Question]) -> QuestionPrior:
    return QuestionPrior().fit((each.question, each.counts) for each in pool)
