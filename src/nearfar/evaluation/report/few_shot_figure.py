"""The drawing of few-shot episodes: accuracy by the number of shots, one line a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.report.blocks import Block, Figure, Figures, Note
from nearfar.evaluation.report.figures import PALETTE, draw

CALLED = {"prototypes": "prototypes", "opta": "OpTA", "relaxed_opta": "OpTA, no balance presumed"}


def few_shot_figure(results: Mapping[str, Result], source: Any) -> list[Block]:
    """The figure of the protocol `few_shot`, with its intervals, and what was drawn."""
    result = results["few_shot"]
    shots = list(map(str, result.details["shots"]))
    series = {
        name: [result.metrics[f"{kind}_{count}_shot"] for count in shots]
        for kind, name in CALLED.items()
        if all(f"{kind}_{count}_shot" in result.metrics for count in shots)
    }
    if not series:
        return []
    legend = {name: colour for colour, name in zip(PALETTE, series, strict=False)}
    words = "; ".join(f"{name} {', '.join(m.show(m.value) for m in metrics)} %" for name, metrics in series.items())

    def paint(axes: Any) -> None:
        middle = (len(series) - 1) / 2
        for place, (name, metrics) in enumerate(series.items()):
            at = [column + 0.12 * (place - middle) for column in range(len(shots))]
            _bars(axes, at, metrics, legend[name])
        axes.axhline(100 / result.details["ways"], linewidth=1, linestyle="--", color="#8b939c")
        axes.set_xticks(range(len(shots)), shots)
        axes.set_xlim(-0.5, len(shots) - 0.5)
        axes.set_xlabel("examples of each class")
        axes.set_title("accuracy, %")
        axes.grid(axis="y")

    describe = f"accuracy by the number of examples, {', '.join(shots)}: {words}"
    drawn = draw(paint, width=4.2, height=2.8, describe=describe, name="few-shot")
    return [Note(_about(result)), Figures([Figure(drawn, legend)])]


def _bars(axes: Any, at: list[float], metrics: list[Metric], colour: str) -> None:
    values = [100 * metric.value for metric in metrics]
    below = [100 * (metric.value - (metric.value if metric.low is None else metric.low)) for metric in metrics]
    above = [100 * ((metric.value if metric.high is None else metric.high) - metric.value) for metric in metrics]
    axes.errorbar(at, values, yerr=[below, above], color=colour, marker="o", markersize=4, linewidth=1.2, capsize=3)


def _about(result: Result) -> str:
    details = result.details
    queries = sorted(set(details["queries"]), reverse=True)
    many = f"{queries[0]} queries each" if len(queries) == 1 else f"{', '.join(map(str, details['queries']))} queries"
    return (
        f"{details['episodes']:,} episodes of {details['ways']} of {details['classes']} classes, {many}; the dashed "
        "line is chance. Intervals are over episodes: of other classes they say nothing. OpTA moves the class means "
        "onto the queries; it presumes that the classes have equally many, and its relaxed form does not."
    )
