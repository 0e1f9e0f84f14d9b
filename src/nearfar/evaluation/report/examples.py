"""Single examples of a report and their results: wrong choices, answers and sentences, where a model looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from nearfar.data.video.still import picture_of as shown_picture
from nearfar.errors import UserError
from nearfar.evaluation.measures.result import Result
from nearfar.evaluation.report.blocks import Block, Cell, Example, Examples, Note, Picture, Table, TableRow
from nearfar.evaluation.report.retrieval_gallery import data_url, thumbnail

HEAT = (214, 39, 40)
"""The colour of a map that lies over a picture."""


def choices(results: Mapping[str, Result], source: Any) -> list[Examples]:
    """The failures of each task of the protocol `compositionality`. Pictures come from the files that the failures
    name, or by their row from `source`."""
    tasks = _details(results, "compositionality", "failures")
    return [
        Examples([_choice(failure, source) for failure in failures], heading=task.replace("_", " "))
        for task, failures in (tasks or {}).items()
        if failures
    ]


def answers(results: Mapping[str, Result], source: Any) -> list[Examples]:
    """Questions that were answered wrongly, with the answers they had."""

    def example(failure: Mapping[str, Any]) -> Example:
        right = ", ".join(failure["answers"])
        return _example(failure["question"], [f"✗ {failure['given']}", f"right: {right}"], picture_of(failure, source))

    return _examples(example, _details(results, "answering", "failures"))


def verdicts(results: Mapping[str, Result], source: Any) -> list[Examples]:
    """Statements that were judged wrongly, with their classes."""

    def example(failure: Mapping[str, Any]) -> Example:
        remarks = [f"✗ {failure['given']}", f"right: {failure['label']}"]
        return _example(failure["text"], remarks, picture_of(failure, source))

    return _examples(example, _details(results, "entailment", "failures"))


def wrong_sentences(results: Mapping[str, Result], source: Any) -> list[Table]:
    """Sentences that a probe put into a wrong class, a table for each set.

    >>> wrong = {"text": "not bad", "label": "positive", "predicted": "negative"}
    >>> table = wrong_sentences({"sentence_probe": Result("sentence_probe", {}, {}, {"failures": [wrong]})}, None)[0]
    >>> table.rows[0].name, [cell.text for cell in table.rows[0].cells]
    ('not bad', ['negative', 'positive'])
    """
    if "sentence_probe" not in results:
        return []
    details = results["sentence_probe"].details
    sets = {"the first of them": details} if "failures" in details else details
    return [
        Table(
            name,
            ["text", "predicted", "right"],
            [TableRow(each["text"], [Cell(each["predicted"]), Cell(each["label"])]) for each in one["failures"]],
        )
        for name, one in sets.items()
        if one["failures"]
    ]


def phrase_maps(results: Mapping[str, Result], source: Any) -> list[Block]:
    """Phrases with their pictures, the map in red over it and the box around the thing."""

    def example(entry: Mapping[str, Any]) -> Example:
        mark = "✓ points at it" if entry["pointing"] else "✗ points elsewhere"
        return _example(entry["phrase"], [mark], picture_of(entry, source, lambda picture: overlaid(picture, entry)))

    note = Note(
        "The first phrases, each over its picture: the redder, the more a place counts for the match of phrase and "
        "picture. The frame is where the thing is, which the model does not know."
    )
    drawn = _examples(example, _details(results, "grounding", "looks"))
    return [note, *drawn] if drawn else []


def overlaid(picture: Image.Image, entry: Mapping[str, Any], *, side: int = 224) -> Image.Image:
    """A picture with longer side `side`, the map of a phrase in red over its window, and its box in black and white."""
    scale = side / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    ground = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    heat = np.asarray(entry["map"], dtype=np.float64)
    heat = heat / max(float(heat.max()), 1e-12)
    left, top, right, bottom = (round(edge * scale) for edge in entry["window"])
    over = Image.fromarray((heat * 170).astype(np.uint8)).resize(
        (right - left, bottom - top), Image.Resampling.BILINEAR
    )
    mask = Image.new("L", size, 0)
    mask.paste(over, (left, top))
    ground.paste(Image.new("RGB", size, HEAT), mask=mask)
    box = [round(edge * scale) for edge in entry["box"]]
    pen = ImageDraw.Draw(ground)
    pen.rectangle(box, outline="white", width=3)
    pen.rectangle(box, outline="black", width=1)
    return ground


def _choice(failure: Mapping[str, Any], source: Any) -> Example:
    remarks = [f"✗ chosen: {failure['chosen']}", failure["group"]]
    return _example(failure["true"], remarks, picture_of(failure, source))


def _example(text: str, remarks: Sequence[str], url: str) -> Example:
    return Example(text, remarks, [Picture(url, alt="; ".join([text, *remarks]))])


def _examples(made: Callable[[Mapping[str, Any]], Example], entries: Any) -> list[Examples]:
    return [Examples([made(entry) for entry in entries])] if entries else []


def _details(results: Mapping[str, Result], protocol: str, key: str) -> Any:
    return results[protocol].details.get(key) if protocol in results else None


def picture_of(
    example: Mapping[str, Any], source: Any, drawn: Callable[[Image.Image], Image.Image] | None = None
) -> str:
    """The picture of an example as a small data URL: from its file, or by its row from `source`, as `drawn` makes it;
    an empty one where it is gone."""
    from nearfar.data.pictures.images import load_image

    try:
        if "path" in example:
            return thumbnail(example["path"], example.get("box"))
        if "row" in example and hasattr(source, "__getitem__"):
            picture = shown_picture(source[example["row"]])
            return thumbnail(picture) if drawn is None else data_url(drawn(load_image(picture)))
    except (UserError, OSError):
        pass  # gone since it was measured; what was said of it still stands there
    return "data:,"
