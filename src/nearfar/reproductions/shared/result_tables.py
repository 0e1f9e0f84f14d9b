"""A reproduction's record as tables: for the terminal and for the paper's docs page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def metrics_of(record: Mapping[str, Any]) -> list[str]:
    """All metrics of a record, in the order in which arms name them."""
    return list(dict.fromkeys(metric for metrics in record["arms"].values() for metric in metrics))


def cell(record: Mapping[str, Any], arm: str, metric: str) -> str:
    """Mean ± standard deviation over seeds, or an empty cell."""
    value = record["arms"][arm].get(metric)
    return f"{value['mean']:.3f} ± {value['sd']:.3f}" if value else ""


def arms_table(record: Mapping[str, Any]) -> Table:
    """One row an arm, one column a metric."""
    seeds = len(record["runs"])
    table = Table(title=f"{record['slug']}: mean ± standard deviation over {seeds} seeds")
    table.add_column("arm")
    for metric in metrics_of(record):
        table.add_column(metric, justify="right")
    for arm in record["arms"]:
        table.add_row(arm, *(cell(record, arm, metric) for metric in metrics_of(record)))
    return table


def claims_table(record: Mapping[str, Any]) -> Table:
    """One row a claim: difference in the claimed direction, its 95 % interval over seeds, verdict."""
    table = Table(title="claims")
    for column in ("claim", "metric", "difference", "95 % interval", "verdict"):
        table.add_column(column)
    for row in claim_rows(record):
        table.add_row(*row)
    return table


def claim_rows(record: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """The cells of the claims table."""
    return [
        (
            claim["text"],
            claim["metric"],
            f"{claim['difference']:+.3f}" + (f" (margin {claim['margin']:+g})" if claim["margin"] else ""),
            f"{claim['low']:+.3f} to {claim['high']:+.3f}",
            claim["verdict"],
        )
        for claim in record["claims"]
    ]


def as_markdown(record: Mapping[str, Any]) -> str:
    """Both tables as Markdown: what `tools/write_tables.py` puts into the paper's page."""
    metrics = metrics_of(record)
    runs = record["runs"].values()
    commits = ", ".join(dict.fromkeys(run["commit"] for run in runs))
    lines = [
        "| arm | " + " | ".join(metrics) + " |",
        "|---|" + "---:|" * len(metrics),
        *(f"| {arm} | " + " | ".join(cell(record, arm, m) for m in metrics) + " |" for arm in record["arms"]),
        "",
        "| claim | metric | difference | 95 % interval | verdict |",
        "|---|---|---:|---:|---|",
        *("| " + " | ".join(row[:4]) + f" | **{row[4]}** |" for row in claim_rows(record)),
        "",
        f"{len(runs)} seeds; commit {commits}; {_cost(record)}.",
    ]
    return "\n".join(lines)


def _cost(record: Mapping[str, Any]) -> str:
    """What all seeds took. The clock also counts what else the machine did; older records have nothing better."""
    runs, threads = record["runs"].values(), record["threads"]
    on = f"{threads} CPU thread{'s' if threads > 1 else ''}"
    if all("cpu_seconds" in run for run in runs):
        return f"{sum(run['cpu_seconds'] for run in runs) / 60:.0f} CPU minutes, each seed on {on}"
    return f"{sum(run['seconds'] for run in runs) / 60:.0f} minutes on {on}"
