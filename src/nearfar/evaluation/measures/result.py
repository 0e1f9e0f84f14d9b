"""What every protocol returns: named figures, each with its interval, its chance level and its sample size."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfar.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Metric:
    """One figure of an evaluation.

    Args:
        value: the figure; shares lie in 0 to 1.
        low, high: its 95 % interval, or None where none is defined.
        chance: what a model that knows nothing would reach on the same data, or None.
        n: how many queries (images, pairs, classes) it was measured over.
        unit: "%" for shares, printed as percentages; "" for plain numbers.

    >>> print(Metric(0.312, 0.28, 0.35, chance=0.003, n=319, unit="%"))
    31.2 (28.0 to 35.0)
    """

    value: float
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    n: int = 0
    unit: str = ""

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return self.show(self.value)
        return f"{self.show(self.value)} ({self.show(self.low)} to {self.show(self.high)})"

    def show(self, number: float | None) -> str:
        """`number` printed in this metric's unit: percent with one decimal, or three significant digits."""
        if number is None or math.isnan(number):
            return "-"
        if self.unit == "%":
            return f"{100 * number:.1f}"
        return f"{number:.0f}" if abs(number) >= 1000 else f"{number:.3g}"


@dataclass
class Result:
    """The outcome of one protocol.

    Args:
        name: the protocol's name.
        metrics: figures by name, in the order they are printed.
        by: the same figures for parts of the data: `by["domain"]["Noto"]["top1"]`.
        details: anything else worth keeping, as plain values: the settings that were used, what was left out.

    >>> result = Result("retrieval", {"text_to_image_R@1": Metric(0.25, 0.2, 0.3, 0.01, 100, "%")})
    >>> result["text_to_image_R@1"]
    0.25
    >>> Result.from_dict(result.to_dict()) == result
    True
    """

    name: str
    metrics: dict[str, Metric]
    by: dict[str, dict[str, dict[str, Metric]]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, metric: str) -> float:
        return self.metrics[metric].value

    def __str__(self) -> str:
        width = max(map(len, self.metrics), default=0)
        lines = [f"  {name:<{width}}  {metric}" for name, metric in self.metrics.items()]
        return "\n".join([self.name, *lines])

    def scalars(self) -> dict[str, float]:
        """The bare values, as `{"retrieval/text_to_image_R@1": 0.25}`: what a logger or a comparison wants."""
        return {f"{self.name}/{name}": metric.value for name, metric in self.metrics.items()}

    def tables(self) -> list[Table]:
        """Tables for the terminal: all figures with interval and chance, then one table for each breakdown of at
        most 20 parts."""
        few = [kind for kind, parts in self.by.items() if len(parts) <= 20]
        return [_table(self), *(table for kind in few for table in _breakdowns(self, kind))]

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, ready for JSON; `from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Result:
        """The result that `to_dict` was called on."""
        return cls(
            name=values["name"],
            metrics=_metrics(values["metrics"]),
            by={
                kind: {part: _metrics(metrics) for part, metrics in parts.items()}
                for kind, parts in values.get("by", {}).items()
            },
            details=dict(values.get("details", {})),
        )


def save_results(results: Mapping[str, Result], path: str | Path, **about: Any) -> Path:
    """Write results to a JSON file, atomically. `about` (the model, the data, the seed) is kept beside them.

    NaN and infinity have no JSON form: they are written as null, and read back as NaN.
    """
    from nearfar import files

    document = {"about": about, "results": {name: result.to_dict() for name, result in results.items()}}
    text = json.dumps(_finite(document), indent=2, ensure_ascii=False, default=str, allow_nan=False)
    return files.write(path, text + "\n")


def load_results(path: str | Path) -> dict[str, Result]:
    """Read what `save_results` wrote.

    Raises:
        UserError: the file is not such a JSON file.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        return {name: Result.from_dict(values) for name, values in document["results"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} holds no evaluation results: write it with `nearfar evaluate --json`") from error


def _metrics(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Metric]:
    return {
        name: Metric(**{**metric, "value": math.nan if metric["value"] is None else metric["value"]})
        for name, metric in values.items()
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def label(metric_name: str, metric: Metric) -> str:
    """A metric's name as tables print it.

    >>> label("text_to_image_R@1", Metric(0.5, unit="%"))
    'text to image R@1, %'
    """
    return metric_name.replace("_", " ") + (", %" if metric.unit == "%" else "")


def as_markdown(results: Iterable[Result]) -> str:
    """All figures as one Markdown table, for a model's card.

    >>> print(as_markdown([Result("retrieval", {"text_to_image_R@1": Metric(0.25, 0.2, 0.3, 0.01, 100, "%")})]))
    | figure | value (95 % interval) | chance | n |
    |---|--:|--:|--:|
    | retrieval: text to image R@1, % | 25.0 (20.0 to 30.0) | 1.0 | 100 |
    """
    rows = [
        f"| {result.name}: {label(name, metric)} | {metric} | {metric.show(metric.chance)} | {metric.n:,} |"
        for result in results
        for name, metric in result.metrics.items()
    ]
    return "\n".join(["| figure | value (95 % interval) | chance | n |", "|---|--:|--:|--:|", *rows])


def _table(result: Result) -> Table:
    from rich.table import Table

    table = Table(title=result.name.replace("_", " "), title_justify="left", title_style="bold")
    table.add_column("metric")
    for heading in ("value", "95 % interval", "chance", "n"):
        table.add_column(heading, justify="right")
    for name, metric in result.metrics.items():
        interval = "" if metric.low is None else f"{metric.show(metric.low)} to {metric.show(metric.high)}"
        chance = "" if metric.chance is None else metric.show(metric.chance)
        table.add_row(
            label(name, metric), f"[bold]{metric.show(metric.value)}[/bold]", interval, chance, f"{metric.n:,}"
        )
    return table


def directions(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of metrics by their direction, so that a table need not be twice as wide; without the MRR, which few read
    part by part.

    >>> directions(["text_to_image_R@1", "text_to_image_MRR", "image_to_text_R@1"])
    {'text_to_image_': ['text_to_image_R@1'], 'image_to_text_': ['image_to_text_R@1']}
    >>> directions(["top1", "top5"])
    {'': ['top1', 'top5']}
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        if not name.endswith("MRR"):
            direction = re.match(r"[a-z]+_to_[a-z]+_", name)
            groups.setdefault(direction[0] if direction else "", []).append(name)
    return groups


def _breakdowns(result: Result, kind: str) -> Iterator[Table]:
    from rich.table import Table

    parts = result.by[kind]
    units = {name: metric for metrics in parts.values() for name, metric in metrics.items()}
    for prefix, names in directions(units).items():
        title = " ".join(f"{result.name} {prefix}".replace("_", " ").split())
        table = Table(title=f"{title} by {kind} (chance in brackets)", title_justify="left", title_style="bold")
        table.add_column(kind)
        for name in names:
            table.add_column(label(name.removeprefix(prefix), units[name]), justify="right")
        for part, metrics in parts.items():
            table.add_row(part, *(_cell(metrics.get(name)) for name in names))
        yield table


def _cell(metric: Metric | None) -> str:
    if metric is None:
        return ""
    chance = "" if metric.chance is None else f" ({metric.show(metric.chance)})"
    return metric.show(metric.value) + chance
