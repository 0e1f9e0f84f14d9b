"""SugarCrepe (arXiv 2306.14610): a true caption or one in which a thing, an attribute or a relation was replaced,
swapped or added. A picture counts as right only where the true caption is strictly nearer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nearfar import files as reading
from nearfar.errors import UserError
from nearfar.evaluation.compositionality.blind import NgramBaseline, cross_fitted
from nearfar.evaluation.compositionality.choice import ChoiceQuestion, choice_accuracy
from nearfar.evaluation.compositionality.scenes import scene_tasks, training_captions
from nearfar.evaluation.compositionality.scorer import cosine_scorer, image_key
from nearfar.evaluation.measures.result import Metric, Result

KINDS = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att")
"""The published files, `KIND.json` each."""


def sugarcrepe(
    encoder: Any,
    source: Any,
    *,
    folder: str | Path | None = None,
    pictures: str | Path | None = None,
    limit: int | None = 2000,
    seed: int = 0,
    batch_size: int = 64,
) -> Result:
    """How often the true caption is strictly nearer to its picture than the false one, by kind of false caption.

    Args:
        encoder: anything with `encode_image`, `encode_text`, `preprocess` and `tokenize`.
        source: records with `image`, `text` and `negative_text`; `negative_kind` names the kinds. Not used with
            `folder`.
        folder: one with SugarCrepe's published files.
        pictures: the folder of their pictures, COCO's `val2017`; by default that name inside `folder`.
        limit: records of `source` that are used; None: all.
        seed: of the bootstrap.
        batch_size: for embedding.

    Returns:
        A `Result` with `accuracy`, the mean over kinds, `micro` over cases, `tied`, the share that a tie makes wrong,
        `text_only`, the mean over kinds of a model that reads captions alone, and `replace`, `swap` and `add`, the
        means over the kinds of that name; by kind its `accuracy` and `text_only`.

    Raises:
        UserError: no such files, a damaged one, or no false captions.
    """
    if folder is not None:
        questions, train = sugarcrepe_cases(folder, pictures), None
    else:
        if pictures is not None:
            raise UserError("pictures are those of SugarCrepe's files: name their folder too")
        if not hasattr(source, "__getitem__"):
            raise UserError("sugarcrepe shows captions beside images: give it records that can be read by number")
        tasks = {kind: cases for kind, cases in scene_tasks(source, seed=seed, limit=limit).items() if kind != "order"}
        questions = [_of_kind(case, kind) for kind, cases in tasks.items() for case in cases]
        train = training_captions(source)
    if not questions:
        raise UserError(f"sugarcrepe needs false captions, and {source.name} has none: give records 'negative_text'")
    scores = cosine_scorer(encoder, batch_size=batch_size)(questions)
    return strict_choice(questions, scores, captions=train, seed=seed)


def strict_choice(
    questions: Sequence[ChoiceQuestion],
    scores: Sequence[Sequence[float]],
    *,
    captions: Sequence[str] | None = None,
    seed: int = 0,
) -> Result:
    """The figures of `sugarcrepe` for scores that are at hand.

    Args:
        questions: the cases, each with its kind as `group`.
        scores: of the options of each, the true one first.
        captions: what the model that reads captions alone is fitted on. None: on the true captions of half of the
            pictures, for the other half.
        seed: of the bootstrap.

    >>> cases = [ChoiceQuestion("a.png", ("a red cat", "a blue cat"), "replace_att")] * 2
    >>> strict_choice(cases, [[0.2, 0.1], [0.3, 0.3]])["accuracy"]
    0.5
    """
    kinds = [case.group for case in questions]
    number: dict[Any, int] = {}
    images = [number.setdefault(image_key(case), len(number)) for case in questions]

    def scored(values: Sequence[Sequence[float]]) -> Result:
        return choice_accuracy(values, kinds, name="sugarcrepe", cluster=images, ties="last", seed=seed)

    result = scored(scores)
    by_kind = result.by.pop("group")
    if captions is not None or len(number) > 1:
        blind = _blind(questions, images, captions)
        without = scored(blind)
        result.metrics["text_only"] = without.metrics["accuracy"]
        for kind, metrics in by_kind.items():
            metrics["text_only"] = without.by["group"][kind]["accuracy"]
    for family in ("replace", "swap", "add"):
        of_it = [metrics["accuracy"] for kind, metrics in by_kind.items() if kind.startswith(f"{family}_")]
        if of_it:
            value = sum(metric.value for metric in of_it) / len(of_it)
            result.metrics[family] = Metric(value, chance=0.5, n=sum(metric.n for metric in of_it), unit="%")
    result.by["kind"] = by_kind
    return result


def sugarcrepe_cases(folder: str | Path, pictures: str | Path | None = None) -> list[ChoiceQuestion]:
    """The cases of those of SugarCrepe's files that lie in `folder`, each with its kind as `group`.

    Args:
        folder: it holds some of `KINDS`, as .json: of each case a `filename`, a `caption`, a `negative_caption`.
        pictures: the folder of the pictures; by default `val2017` inside.

    Raises:
        UserError: none of the files is there, one is damaged, or the pictures are not there.
    """
    root = Path(folder)
    images = root / "val2017" if pictures is None else Path(pictures)
    there = [kind for kind in KINDS if (root / f"{kind}.json").is_file()]
    if not there:
        listed = ", ".join(f"{kind}.json" for kind in KINDS)
        raise UserError(f"{root}: no file of SugarCrepe there; it may hold any of {listed}")
    if not images.is_dir():
        raise UserError(f"{images}: no such folder; it is to hold the pictures of COCO's val2017")
    return [case for kind in there for case in _cases(root / f"{kind}.json", images, kind)]


def _cases(path: Path, images: Path, kind: str) -> list[ChoiceQuestion]:
    try:
        rows = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {reading.json_fault(error)}") from None
    rows = list(rows.values()) if isinstance(rows, dict) else rows
    keys = ("filename", "caption", "negative_caption")
    for number, row in enumerate(rows if isinstance(rows, list) else [None]):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in keys):
            raise UserError(
                f"{path}, row {number}: not a row of SugarCrepe ({', '.join(keys)}); is it the published file?"
            )
    return [ChoiceQuestion(images / row[keys[0]], (row[keys[1]], row[keys[2]]), kind) for row in rows]


def _of_kind(case: ChoiceQuestion, kind: str) -> ChoiceQuestion:
    return ChoiceQuestion(case.image, case.captions, kind, case.box, row=case.row)


def _blind(
    questions: Sequence[ChoiceQuestion], images: Sequence[int], captions: Sequence[str] | None
) -> list[list[float]]:
    """Scores of all options without their pictures."""
    if captions is None:
        return cross_fitted(questions, images)
    model = NgramBaseline().fit(captions)
    return [[model(caption) for caption in case.captions] for case in questions]
