"""The report of captions that were chosen for pictures: some of them side by side, and the classes at a glance."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from nearfar import files, templates
from nearfar.data.mining.kept_pairs import curated
from nearfar.errors import UserError
from nearfar.evaluation.report.blocks import (
    Block,
    Cell,
    FoundText,
    KeyFigure,
    Listing,
    Picture,
    PictureExample,
    PictureExamples,
    Section,
    Table,
    TableRow,
)
from nearfar.evaluation.report.retrieval_gallery import thumbnail
from nearfar.prompting.image_texts.caption_source import TABLE, CaptionReport

SHOWN, MOST = 24, 300
"""Pictures that are shown; classes, and cut texts, that are listed."""

Example = tuple[dict[str, Any], dict[str, Any]]
"""What is written of a picture, and its record."""


def write_captions_report(folder: str | Path, report: CaptionReport, *, title: str, seed: int = 0) -> Path:
    """Write `report.html` beside the captions of a folder.

    Args:
        folder: what `caption_source` wrote.
        report: what it returned.
        title: the heading.
        seed: of the pictures that are drawn.

    Returns:
        The path of the file, which refers to nothing outside itself.
    """
    from nearfar import __version__

    folder = Path(folder)
    pairs, best = _read(folder, curated(folder), report.captioned, seed)
    cut = [("Descriptions", report.cut_descriptions), ("Captions", report.cut_captions)]
    lists = [Listing(f"{name} whose end is cut off ({len(own):,})", own[:MOST]) for name, own in cut if own]
    document = templates.render(
        __package__,
        "report.html.jinja",
        title=title,
        lead="Each picture was compared with the descriptions of its own class, and of no other.",
        warnings=[],
        tiles=[
            KeyFigure("pictures with captions", f"{report.captioned:,}", f"of {report.pictures:,}"),
            KeyFigure("descriptions in use", f"{report.matched:,}", f"of {report.descriptions:,}"),
            KeyFigure("cosine of the best", f"{report.mean_cosine:.3f}", "mean over pictures"),
        ],
        sections=[
            Section("Pictures and their captions", _examples(pairs, report.captioned)),
            Section("Classes", [_classes(best)]),
            *([Section("Texts that are too long", lists)] if lists else []),
        ],
        footer=f"nearfar {__version__}",
    )
    return files.write(folder / "report.html", document)


def _read(folder: Path, source: Any, count: int, seed: int) -> tuple[list[Example], dict[str, Counter[str]]]:
    """Pictures drawn by a seed, each with its captions; and of each class how often each description fits best."""
    drawn = sorted(Random(seed).sample(range(count), min(SHOWN, count)))
    rows: list[dict[str, Any]] = []
    best: dict[str, Counter[str]] = {}
    with (folder / TABLE).open(encoding="utf-8", newline="\n") as table:
        for place, row in enumerate(map(json.loads, table)):
            best.setdefault(row["label"], Counter())[row["matched"][0]] += 1
            rows += [row] if len(rows) < len(drawn) and place == drawn[len(rows)] else []
    return list(zip(rows, map(source.record, drawn), strict=True)), best


def _examples(pairs: list[Example], count: int) -> list[Block]:
    examples = [
        PictureExample(
            _picture(record, str(row["label"])),
            [row["label"]],
            [FoundText(text, remark=f"{cosine:.2f}") for text, cosine in zip(row["text"], row["cosine"], strict=True)],
        )
        for row, record in pairs
    ]
    return [PictureExamples(examples, remark=f"{len(examples)} of {count:,} pictures, with the cosine of each text")]


def _picture(record: dict[str, Any], name: str) -> Picture:
    try:
        return Picture(thumbnail(record["image"]), alt=name, title=name)
    except (UserError, OSError):
        return Picture("data:,", alt=name, title=name)  # gone since it was embedded


def _classes(best: dict[str, Counter[str]]) -> Block:
    """How evenly the descriptions of each class are used: one that fits all pictures says nothing of a single one."""
    head = ["class", "pictures", "different best descriptions", "share of the commonest"]
    rows = [
        TableRow(
            name,
            [
                Cell(f"{counts.total():,}"),
                Cell(f"{len(counts):,}"),
                Cell(f"{100 * counts.most_common(1)[0][1] / counts.total():.0f} %"),
            ],
        )
        for name, counts in islice(best.items(), MOST)
    ]
    more = f"; the first {MOST} of {len(best):,}" if len(best) > MOST else ""
    return Table(f"how evenly the descriptions of each class are used{more}", head, rows)
