"""Results as tables and tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nearfar.evaluation.measures.result import Metric, Result, directions, label
from nearfar.evaluation.protocols import PROTOCOLS
from nearfar.evaluation.report.blocks import Cell, KeyFigure, Table, TableRow

MOST_PARTS = 20
"""A breakdown into more parts is shown by its best and worst."""

LEAST_IN_PART = 10
"""Queries that a part of a long breakdown must have: a class of one picture is right or wrong, and tells nothing."""

LEAST_OF_FEW = 3
"""Queries that a part of a short breakdown must have."""


def headline(results: Mapping[str, Result]) -> list[KeyFigure]:
    """The figures that one looks for first."""
    figures = [
        (name, results[protocol.name].metrics[metric])
        for protocol in PROTOCOLS.values()
        for metric, name in protocol.headlines.items()
        if protocol.name in results and metric in results[protocol.name].metrics
    ]
    return [_key_figure(name, metric) for name, metric in figures]


def _key_figure(name: str, metric: Metric) -> KeyFigure:
    def written(number: float) -> str:
        return f"{metric.show(number)} {metric.unit}".strip()

    chance = [] if metric.chance is None else [f"chance {written(metric.chance)}"]
    return KeyFigure(name, written(metric.value), ", ".join([*chance, *([f"n {metric.n:,}"] if metric.n else [])]))


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
    parts, left_out = _telling(result.by[kind])
    if not parts:
        return []
    units = {name: metric for metrics in parts.values() for name, metric in metrics.items()}
    first, note = next(iter(units)), left_out
    if len(parts) > MOST_PARTS:
        order, half = sorted(parts, key=lambda part: -parts[part][first].value), MOST_PARTS // 2
        note = f"; the {half} best and {half} worst of {len(order)} by {first.replace('_', ' ')}{left_out}"
        parts = {part: parts[part] for part in (*order[:half], *order[-half:])}
    return [
        Table(
            " ".join(f"{result.name} {prefix}".replace("_", " ").split())
            + f" by {called}; in grey 95 % interval and chance{note}",
            [called, *(label(name.removeprefix(prefix), units[name]) for name in names), "n"],
            [
                TableRow(part, [*(_in_part(metrics.get(name)) for name in names), _number(metrics, names)])
                for part, metrics in parts.items()
            ],
        )
        for prefix, names in directions(units).items()
    ]


def _telling(parts: Mapping[str, Mapping[str, Metric]]) -> tuple[Mapping[str, Mapping[str, Metric]], str]:
    """The parts that are large enough to say something, and a word on the others. Of few parts, which are
    no list of best and worst, only the smallest are left out."""
    least = LEAST_IN_PART if len(parts) > MOST_PARTS else LEAST_OF_FEW
    telling = {name: part for name, part in parts.items() if max(m.n for m in part.values()) >= least}
    few = len(parts) - len(telling)
    return telling, f"; {few:,} with fewer than {least} are left out" if few else ""


def _number(metrics: Mapping[str, Metric], names: Sequence[str]) -> Cell:
    return Cell(f"{max((metrics[name].n for name in names if name in metrics), default=0):,}")


def _cells(metric: Metric) -> list[Cell]:
    interval = "" if metric.low is None else f"{metric.show(metric.low)} to {metric.show(metric.high)}"
    chance = "" if metric.chance is None else metric.show(metric.chance)
    return [Cell(metric.show(metric.value), strong=True), Cell(interval), Cell(chance), Cell(f"{metric.n:,}")]


def _in_part(metric: Metric | None) -> Cell:
    """A figure of a part: its value, and small beside it its interval and chance."""
    if metric is None:
        return Cell()
    interval = "" if metric.low is None else f"{metric.show(metric.low)} to {metric.show(metric.high)}"
    chance = "" if metric.chance is None else metric.show(metric.chance)
    return Cell(metric.show(metric.value), remark="; ".join(filter(None, [interval, chance])))
