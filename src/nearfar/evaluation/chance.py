"""What to know before believing a figure: not shown to be above chance, or measured on what was fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nearfar.evaluation.measures.result import Result, label
from nearfar.evaluation.protocols import PROTOCOLS


def warnings(results: Mapping[str, Result]) -> Iterator[str]:
    """What to know before believing a figure: those at chance, and the notes of protocols, one sentence each."""
    yield from at_chance(results)
    for protocol, result in results.items():
        if note := result.details.get("note"):
            yield f"{protocol}: {note}"


def at_chance(results: Mapping[str, Result]) -> Iterator[str]:
    """The main figures whose 95 % interval reaches down to chance, one sentence a protocol.

    >>> from nearfar.evaluation.measures.result import Metric
    >>> found = Metric(0.037, 0.0, 0.111, chance=0.037, n=27, unit="%")
    >>> print(*at_chance({"zero_shot": Result("zero_shot", {"top1": found})}))
    zero_shot, not shown to be above chance: top1 3.7 (0.0 to 11.1), chance 3.7, n 27
    """
    for protocol, result in results.items():
        names = PROTOCOLS[protocol].headlines if protocol in PROTOCOLS else {}
        metrics = {name: result.metrics[name] for name in names if name in result.metrics}
        low = [
            f"{label(name, metric).removesuffix(', %')} {metric}, chance {metric.show(metric.chance)}, n {metric.n:,}"
            for name, metric in metrics.items()
            if metric.low is not None and metric.chance is not None and metric.low <= metric.chance
        ]
        if low:
            yield f"{protocol}, not shown to be above chance: " + "; ".join(low)
