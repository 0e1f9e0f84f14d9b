"""Results as tables and tiles."""

from __future__ import annotations

from collections.abc import Mapping

from nearfar.evaluation.measures.result import Metric, Result, directions, label
from nearfar.evaluation.protocols import PROTOCOLS
from nearfar.evaluation.report.blocks import Cell, KeyFigure, Table, TableRow

MOST_PARTS = 20
"""A breakdown into more parts is shown by its best and worst."""


def headline(results: Mapping[str, Result]) -> list[KeyFigure]:
    """The figures that one looks for first."""
    figures = [
        (name, results[protocol.name].metrics[metric])
        for protocol in PROTOCOLS.values()
        for metric, name in protocol.headlines.items()
        if protocol.name in results and metric in results[protocol.name].metrics
    ]
    return [KeyFigure(name, f"{m.show(m.value)} %", f"chance {m.show(m.chance)} %") for name, m in figures]


def metric_tables(results: Mapping[str, Result]) -> list[Table]:
    """All figures of all protocols, with interval, chance and n."""
    head = ("metric", "value", "95 % interval", "chance", "n")
    return [
        Table(
            result.name.replace("_", " "),
            head,
            [TableRow(label(name, metric), _cells(metric)) for name, metric in result.metrics.items()],
        )
        for result in results.values()
    ]


def breakdowns(results: Mapping[str, Result], kinds: Mapping[str, str]) -> list[Table]:
    """Tables by domain, by class and the like; `kinds` says what to call each kind ("domain" may be styles)."""
    return [
        table
        for result in results.values()
        for kind in result.by
        if result.by[kind]
        for table in _breakdown(result, kind, kinds.get(kind, kind))
    ]


def _breakdown(result: Result, kind: str, called: str) -> list[Table]:
    parts = result.by[kind]
    units = {name: metric for metrics in parts.values() for name, metric in metrics.items()}
    first, note = next(iter(units)), ""
    if len(parts) > MOST_PARTS:
        order, half = sorted(parts, key=lambda part: -parts[part][first].value), MOST_PARTS // 2
        note = f"; the {half} best and {half} worst of {len(order)} by {first.replace('_', ' ')}"
        parts = {part: parts[part] for part in (*order[:half], *order[-half:])}
    return [
        Table(
            " ".join(f"{result.name} {prefix}".replace("_", " ").split()) + f" by {called}; chance in grey{note}",
            [called, *(label(name.removeprefix(prefix), units[name]) for name in names)],
            [TableRow(part, [_with_chance(metrics.get(name)) for name in names]) for part, metrics in parts.items()],
        )
        for prefix, names in directions(units).items()
    ]


def _cells(metric: Metric) -> list[Cell]:
    interval = "" if metric.low is None else f"{metric.show(metric.low)} to {metric.show(metric.high)}"
    chance = "" if metric.chance is None else metric.show(metric.chance)
    return [Cell(metric.show(metric.value), strong=True), Cell(interval), Cell(chance), Cell(f"{metric.n:,}")]


def _with_chance(metric: Metric | None) -> Cell:
    if metric is None:
        return Cell()
    return Cell(metric.show(metric.value), remark="" if metric.chance is None else metric.show(metric.chance))
