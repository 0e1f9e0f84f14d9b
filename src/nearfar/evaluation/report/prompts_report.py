"""The report of a search of class texts: fitness by generation, accuracies beside plain texts, the texts themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfar import files, templates
from nearfar.evaluation.measures.result import Result
from nearfar.evaluation.report import figures
from nearfar.evaluation.report.blocks import (
    Block,
    Cell,
    Figure,
    Figures,
    KeyFigure,
    Listing,
    Note,
    Section,
    Table,
    TableRow,
)
from nearfar.prompting.proapo import ProAPO

if TYPE_CHECKING:
    from rich.table import Table as ConsoleTable

MOST = 300
"""Classes whose texts the report lists; prompts.json has all."""


def write_prompts_report(folder: str | Path, search: ProAPO, results: Mapping[str, Result], *, title: str) -> Path:
    """Write `report.html` of a finished search.

    Args:
        folder: where to.
        search: after `fit`.
        results: `zero_shot` of each of its `compared_` texts on pictures that took no part, by name; may be empty.
        title: the heading.

    Returns:
        The path of the file, which refers to nothing outside itself.
    """
    from nearfar import __version__

    first, *_, last = results.values() if len(results) > 1 else (None, None)
    tiles = [
        KeyFigure(name, f"{result['top1'] * 100:.1f} %", f"n {result.metrics['top1'].n:,}")
        for name, result in zip(("plain template", "searched texts"), (first, last), strict=True)
        if result is not None
    ]
    document = templates.render(
        __package__,
        "report.html.jinja",
        title=title,
        lead=f"{search.scored_:,} sets of texts were scored on {_counted(search)}; no gradient was taken.",
        warnings=[],
        tiles=tiles,
        sections=[
            Section("Accuracy", [comparison(search, results)]),
            Section("The search", _curves(search)),
            Section("Templates", [Listing(f"{len(search.templates_):,} templates", search.templates_)]),
            Section("Texts", _texts(search)),
        ],
        footer=f"nearfar {__version__}",
    )
    return files.write(Path(folder) / "report.html", document)


def comparison(search: ProAPO, results: Mapping[str, Result]) -> Table:
    """A row for each way to write the classes: on the drawn pictures, and on those that took no part."""
    head = ["class texts", "texts", "top 1, drawn", "cross-entropy", "top 1, others"]
    rows = []
    for name, texts in search.compared_.items():
        measured = search.measured_[name]
        other = results[name].metrics["top1"] if name in results else None
        interval = "" if other is None or other.low is None else f"{other.show(other.low)} to {other.show(other.high)}"
        cells = [
            Cell(f"{len(texts.texts):,}"),
            Cell(f"{100 * measured.top1:.1f} %"),
            Cell(f"{measured.cross_entropy:.4f}"),
            Cell("" if other is None else f"{other.show(other.value)} %", remark=interval, strong=True),
        ]
        rows.append(TableRow(name, cells))
    return Table(
        "on the pictures that texts were scored on, which were drawn, and on others; in grey the 95 % interval",
        head,
        rows,
    )


def accuracy_table(search: ProAPO, results: Mapping[str, Result]) -> ConsoleTable:
    """The same for a terminal."""
    from rich.table import Table as ConsoleTable
    from rich.text import Text

    table = comparison(search, results)
    shown = ConsoleTable(box=None, pad_edge=False, header_style="bold")
    for i, word in enumerate(table.head):
        shown.add_column(word, justify="right" if i else "left")
    for row in table.rows:
        cells = [f"{cell.text} ({cell.remark})" if cell.remark else cell.text for cell in row.cells]
        shown.add_row(Text(row.name), *cells)
    return shown


def _counted(search: ProAPO) -> str:
    return f"labelled pictures of {len(search.texts_):,} classes"


def _curves(search: ProAPO) -> list[Block]:
    """The best fitness by generation: of the templates, and of the groups one after the other."""
    blocks: list[Block] = []
    for stage in dict.fromkeys(row.stage for row in search.history_):
        rows: list[dict[str, Any]] = [
            {"step": i, "fitness": row.fitness} for i, row in enumerate(r for r in search.history_ if r.stage == stage)
        ]
        drawn = figures.curves(rows, name=f"{stage}-curve")
        about = "by generation" if stage == "templates" else "by generation, group after group, round after round"
        blocks.append(
            Note(f"{stage}: the best fitness {about}; {rows[0]['fitness']:.4f} to {rows[-1]['fitness']:.4f}.")
        )
        if drawn:
            blocks.append(Figures([Figure(svg, {}) for svg, _ in drawn]))
    return blocks


def _texts(search: ProAPO) -> list[Block]:
    listed = list(search.texts_)[:MOST]
    more = [Note(f"the first {MOST} of {len(search.texts_):,} classes")] if len(search.texts_) > MOST else []
    return [*more, *(Listing(f"{name} ({len(own)})", own) for name, own in listed)]
