"""The report of a run of several stages: how the figures went from one to the next, and the curves and figures of each.
Pictures are in the report that each stage has of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nearfar import files, templates
from nearfar.evaluation.chance import warnings
from nearfar.evaluation.measures.result import Metric, Result, label, load_results
from nearfar.evaluation.report import figures, tables
from nearfar.evaluation.report.blocks import Block, Cell, Figure, Figures, Note, Section, Table, TableRow, Verbatim


def write_stages_report(run_dir: str | Path, stages: Mapping[str, Path], *, title: str | None = None) -> Path:
    """Write `report.html` into the folder of a run of stages.

    Args:
        run_dir: the run folder; its `config.yaml` is shown.
        stages: the run folder of each stage by name, in their order.
        title: the heading. Default: the folder's name.

    Returns:
        The path of the file, which refers to nothing outside itself.
    """
    from nearfar import __version__

    folder = Path(run_dir)
    results = {name: _results(stage) for name, stage in stages.items()}
    config = folder / "config.yaml"
    sections = [
        Section("By stage", comparison(results)),
        *(Section(f"Stage {name}", _stage(name, stage, results[name])) for name, stage in stages.items()),
        Section("Configuration", [Verbatim(config.read_text("utf-8").strip())] if config.exists() else []),
    ]
    document = templates.render(
        __package__,
        "report.html.jinja",
        title=title or folder.resolve().name,
        lead=f"Trained in {len(stages)} stages, one after the other: {', '.join(stages)}.",
        warnings=list(warnings(list(results.values())[-1])),
        tiles=tables.headline(list(results.values())[-1]),
        sections=[section for section in sections if section.blocks],
        footer=f"nearfar {__version__}",
    )
    return files.write(folder / "report.html", document)


def comparison(results: Mapping[str, Mapping[str, Result]]) -> list[Table]:
    """A table of all figures that stages were measured by, a column a stage; nothing where there are none.

    >>> measured = {"retrieval": Result("retrieval", {"R@1": Metric(0.25, unit="%")})}
    >>> comparison({"heads": {}, "whole": measured})[0].head, comparison({"heads": {}})
    (['metric', 'heads', 'whole'], [])
    """
    columns: list[dict[tuple[str, str], Metric]] = [
        {(protocol, name): metric for protocol, result in protocols.items() for name, metric in result.metrics.items()}
        for protocols in results.values()
    ]
    every = {key: metric for column in columns for key, metric in column.items()}
    rows = [
        TableRow(f"{key[0]}: {label(key[1], metric)}".replace("_", " "), [_cell(column.get(key)) for column in columns])
        for key, metric in every.items()
    ]
    return [Table("after each stage", ["metric", *results], rows)] if rows else []


def _cell(metric: Metric | None) -> Cell:
    return Cell("" if metric is None else metric.show(metric.value))


def _stage(name: str, folder: Path, results: Mapping[str, Result]) -> list[Block]:
    """A stage's curves and figures."""
    rows = _rows(folder / "history.jsonl")
    steps = f"{max((row.get('step', 0) for row in rows), default=0):,.0f} steps"
    own = f"; pictures and maps are in {folder.name}/report.html" if (folder / "report.html").exists() else ""
    drawn = figures.curves(rows, name=f"{name}-curve")
    curves = [Figures([Figure(svg, colours) for svg, colours in drawn])] if drawn else []
    return [Note(f"{steps}{own}."), *curves, *tables.metric_tables(results)]


def _results(folder: Path) -> dict[str, Result]:
    path = folder / "results.json"
    return load_results(path) if path.exists() else {}


def _rows(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]
