"""Questions and answers as VQA publishes them (arXiv 1612.00837): two JSON files and a folder of pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.data.sources.source import Record, Source
from nearfar.errors import UserError


def vqa(
    questions: str | os.PathLike[str],
    *,
    annotations: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    pattern: str | None = None,
) -> Source:
    """The questions of a VQA v2 file, with the answers of its annotators, ten each.

    Args:
        questions: `v2_OpenEnded_mscoco_train2014_questions.json`, say.
        annotations: by default the file of the usual name beside it; without one (the test split) no answers.
        images: the folder of pictures; by default the one named like the split (`train2014`) beside the questions, else
            their own folder.
        pattern: a picture's file, with `{image_id}` and `{split}` in it; by default COCO's,
            `COCO_{split}_{image_id:012}.jpg`.

    Returns:
        records with `image` (its path), `text` (the question), `answers` (one an annotator), `question_type`,
        `answer_type`, `group` (the picture: its questions are not independent) and `question_id`.

    Raises:
        UserError: a file that is missing or is not VQA's, or a question without annotation.

    A table with columns for image, question and answers does as well, and needs no file of this kind.
    """
    file = Path(questions)
    content = _read(file, "questions")
    split = str(content.get("data_subtype", ""))
    beside = file.with_name(file.name.replace("OpenEnded_", "").replace("questions", "annotations"))
    answered = Path(annotations) if annotations is not None else beside if beside != file and beside.is_file() else None
    annotation_of = (
        {each["question_id"]: each for each in _read(answered, "annotations")["annotations"]} if answered else None
    )
    own = file.parent / split
    named = _namer(pattern or COCO, split)
    folder = Path(images) if images is not None else own if split and own.is_dir() else file.parent
    return VQASource(file.name, content["questions"], annotation_of, lambda image_id: str(folder / named(image_id)))


COCO = "COCO_{split}_{image_id:012}.jpg"
"""What COCO calls its pictures."""


class VQASource(Source):
    """What `vqa` returns."""

    def __init__(
        self,
        name: str,
        questions: list[dict[str, Any]],
        answered: dict[int, dict[str, Any]] | None,
        path: Callable[[int], str],
    ) -> None:
        self.name, self._questions, self._answered, self._path = name, questions, answered, path
        self.columns = ["image", "text", "group", "question_id"]
        if answered is not None:
            self.columns += ["answers", "question_type", "answer_type"]
            missing = [q["question_id"] for q in questions if q["question_id"] not in answered]
            if missing:
                raise UserError(
                    f"{name}: {len(missing)} questions have no annotation, number {missing[0]} the first: are the two "
                    "files of the same split?"
                )

    def __len__(self) -> int:
        return len(self._questions)

    def record(self, index: int) -> Record:
        question = self._questions[index]
        record: Record = {
            "image": self._path(question["image_id"]),
            "text": question["question"],
            "group": question["image_id"],
            "question_id": question["question_id"],
        }
        if self._answered is not None:
            annotation = self._answered[question["question_id"]]
            record["answers"] = [each["answer"] for each in annotation["answers"]]
            record |= {key: annotation.get(key) for key in ("question_type", "answer_type")}
        return record


def _namer(pattern: str, split: str) -> Callable[[int], str]:
    def name(image_id: int) -> str:
        return pattern.format(image_id=image_id, split=split)

    try:
        name(0)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"pattern={pattern!r} may hold {{image_id}} and {{split}}, such as {COCO!r}") from error
    return name


def _read(file: Path, key: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: {files.json_fault(error)}") from None
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise UserError(
            f"{file} holds no list of {key!r}, as VQA's files do: for rows of your own use .jsonl, a line each"
        )
    return content
