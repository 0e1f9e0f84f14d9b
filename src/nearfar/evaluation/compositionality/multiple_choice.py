"""The compositionality report: multiple-choice tasks for any encoder, each beside its blind baselines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nearfar.evaluation.compositionality.blind import cross_fitted
from nearfar.evaluation.compositionality.choice import ChoiceQuestion, choice_accuracy
from nearfar.evaluation.compositionality.scorer import Scorer, blank, cosine_scorer, image_key
from nearfar.evaluation.measures.result import Metric, Result

Blind = Callable[[str], float]
"""Scores a caption without its image."""


def compositionality(
    encoder: Any,
    tasks: Mapping[str, Iterable[ChoiceQuestion]],
    *,
    fewest: Mapping[str, int] | None = None,
    **settings: Any,
) -> Result:
    """Score several tasks as one result.

    Args:
        encoder: anything with `encode_image`, `encode_text`, `preprocess` and `tokenize`.
        tasks: cases by the name of their task (`scene_tasks`, `aro_tasks`). Tasks without cases are left out.
        fewest: for a task, the smallest group that counts in its macro mean; all count where none has so many cases.
        settings: the others of `multiple_choice`.

    Returns a `Result` with the figures of each task, `relation_accuracy` and so on; `by` holds for each task the
    accuracy of its groups (relations, pairs of attributes) or, where it has one group only, of its kinds of false
    captions; `details` its settings and failures.

    Raises:
        ValueError: no task has a case.
    """
    metrics: dict[str, Metric] = {}
    by: dict[str, dict[str, dict[str, Metric]]] = {}
    details: dict[str, Any] = {"flawed_cases": {}, "failures": {}}
    for task, cases in tasks.items():
        questions = list(cases)
        if not questions:
            continue
        largest = max(Counter(case.group for case in questions).values())
        least = min((fewest or {}).get(task, 1), largest)
        result = multiple_choice(encoder, questions, name=task, fewest=least, **settings)
        metrics |= {f"{task}_{name}": metric for name, metric in result.metrics.items()}
        groups, options = result.by["group"], result.by.get("option", {})
        by |= {task: groups} if len(groups) > 1 else {task: options} if options else {}
        for key in ("flawed_cases", "failures"):
            details[key][task] = result.details[key]
    if not metrics:
        raise ValueError("no task has a case to score")
    return Result("compositionality", metrics, by, details)


def multiple_choice(
    encoder: Any,
    cases: Iterable[ChoiceQuestion],
    *,
    name: str = "multiple_choice",
    blind: Blind | None = None,
    scorer: Scorer | None = None,
    batch_size: int = 64,
    fewest: int = 1,
    failures: int = 12,
    seed: int = 0,
) -> Result:
    """Score one task.

    Args:
        encoder: anything with `encode_image`, `encode_text`, `preprocess` and `tokenize`.
        cases: the task's questions; a bag of words ties on them and scores at chance.
        name: of the result.
        blind: a text-only scorer of captions, such as an `NgramBaseline` fitted on training captions. None fits one on
            the true captions of one half of the images and scores the other half with it, and the other way round.
        scorer: scores cases in place of the encoder's cosine (a fusion encoder's matching score); the blank-image
            baseline goes through it too.
        batch_size: for embedding.
        fewest: groups of fewer cases are left out of the macro mean.
        failures: how many wrongly answered cases to keep in `details["failures"]` for the report.
        seed: of the bootstrap, which resamples whole images.

    Returns a `Result`: `accuracy` (macro, as in the paper), `micro`, `tied`, `blank_image` (the same model on
    white), `text_only` (left out where there are no two images to fit it across), all with chance; accuracy by group,
    and by kind of false caption (`by["option"]`, each against the true caption alone); `details` counts flawed cases,
    in which a perturbation left the caption as it was.

    Raises:
        ValueError: there are no cases.
    """
    questions = list(cases)
    score = scorer or cosine_scorer(encoder, batch_size=batch_size)
    groups, images = [case.group for case in questions], _numbered([image_key(case) for case in questions])
    both = score([*questions, *map(blank, questions)])  # in one call, so that each caption is embedded once
    picture_scores, blank_scores = both[: len(questions)], both[len(questions) :]
    result = choice_accuracy(picture_scores, groups, name=name, cluster=images, fewest=fewest, seed=seed)
    baselines = {"blank_image": blank_scores}
    if blind is not None:
        baselines["text_only"] = [[blind(caption) for caption in case.captions] for case in questions]
    elif len(set(images)) > 1:
        baselines["text_only"] = cross_fitted(questions, images)
    for kind, scores in baselines.items():
        baseline = choice_accuracy(scores, groups, name=kind, cluster=images, fewest=fewest, seed=seed)
        result.metrics[kind] = baseline.metrics["accuracy"]
    if options := _by_option(questions, picture_scores, images, seed):
        result.by["option"] = options
    result.details["flawed_cases"] = sum(case.flawed for case in questions)
    wrong = [i for i, s in enumerate(picture_scores) if max(s) > s[0]]
    result.details["failures"] = [_failure(questions[i], picture_scores[i]) for i in wrong[:failures]]
    return result


def _by_option(
    cases: Sequence[ChoiceQuestion], scores: Sequence[Sequence[float]], images: Sequence[int], seed: int
) -> dict[str, dict[str, Metric]]:
    """For each kind of false caption the accuracy of choosing between it and the true one."""
    pairs: dict[str, list[tuple[Sequence[float], int]]] = {}
    for case, options, image in zip(cases, scores, images, strict=True):
        for kind, false in zip(case.kinds, options[1:], strict=False):  # kinds may be empty
            pairs.setdefault(kind, []).append(((options[0], false), image))
    return {
        kind: {
            "accuracy": choice_accuracy(
                [pair for pair, _ in scored], [kind] * len(scored), cluster=[image for _, image in scored], seed=seed
            ).metrics["accuracy"]
        }
        for kind, scored in pairs.items()
    }


def _failure(case: ChoiceQuestion, scores: Sequence[float]) -> dict[str, Any]:
    best = max(range(len(scores)), key=lambda k: scores[k])
    entry: dict[str, Any] = {"true": case.captions[0], "chosen": case.captions[best], "group": case.group}
    if case.row is not None:
        entry["row"] = case.row
    if isinstance(case.image, str | Path):
        entry["path"] = str(case.image)
    if case.box is not None:
        entry["box"] = list(case.box)
    return entry


def _numbered(keys: Sequence[Any]) -> list[int]:
    number: dict[Any, int] = {}
    return [number.setdefault(key, len(number)) for key in keys]
