"""A reproduction's record as tables: for the terminal and for the paper's docs page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from nearfar.reproductions.shared.choosing import at_the_edge
from nearfar.reproductions.shared.code_state import changed
from nearfar.reproductions.shared.fresh_seeds import fresh_words
from nearfar.reproductions.shared.planning import sentence

COLUMNS = ("claim", "metric", "difference", "interval", "over other", "p", "verdict")
SECTIONS = {"claims": "claim", "constants": "claim against a constant", "premises": "premise"}
"""Claims of the paper, those against a constant, and premises, each under a heading of its own."""


def metrics_of(record: Mapping[str, Any]) -> list[str]:
    """All metrics of a record, in the order in which arms name them."""
    return list(dict.fromkeys(metric for metrics in record["arms"].values() for metric in metrics))


def cell(record: Mapping[str, Any], arm: str, metric: str) -> str:
    """Mean ± standard deviation over seeds, or an empty cell."""
    value = record["arms"][arm].get(metric)
    return f"{value['mean']:.3f} ± {value['sd']:.3f}" if value else ""


def arms_table(record: Mapping[str, Any]) -> Table:
    """One row an arm, one column a metric."""
    seeds = len(record["plan"]["judged"])
    table = Table(title=f"{record['slug']}: mean ± standard deviation over {seeds} seeds")
    table.add_column("arm")
    for metric in metrics_of(record):
        table.add_column(metric, justify="right")
    for arm in record["arms"]:
        table.add_row(arm, *(cell(record, arm, metric) for metric in metrics_of(record)))
    return table


def claims_table(record: Mapping[str, Any]) -> Table:
    """One row a claim; premises and claims against a constant stand apart."""
    table = Table(title="claims")
    for column in COLUMNS:
        table.add_column(column)
    for title, rows in sections(record):
        table.add_section()
        if title != "claim":
            table.add_row(f"[dim]{title}s[/]")
        for row in rows:
            table.add_row(*claim_row(row))
    return table


def sections(record: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The kinds of claims that there are, each with its claims."""
    for name, title in SECTIONS.items():
        if rows := [claim for claim in record["claims"] if kind_of(claim) == name]:
            yield title, rows


def kind_of(claim: Mapping[str, Any]) -> str:
    """A key of `SECTIONS`."""
    return "premises" if claim["premise"] else "constants" if claim["constant"] else "claims"


def claim_row(claim: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of one claim, in the order of `COLUMNS`."""
    margin = f" (margin {claim['margin']:+g})" if claim["margin"] else ""
    return (
        claim["text"],
        claim["metric"],
        f"{claim['difference']:+.3f}{margin}",
        f"{claim['low']:+.3f} to {claim['high']:+.3f}",
        claim["about"],
        "< 0.001" if claim["p"] < 0.001 else f"{claim['p']:.3f}",
        claim["verdict"],
    )


def remark(claim: Mapping[str, Any]) -> str:
    """What a claim that is not shown leaves open, or its floor; '' where there is nothing to add.

    >>> remark({"text": "a beats b", "verdict": "not shown", "margin": 0.0, "low": -0.02, "high": 0.05,
    ...         "detectable": 0.041})
    'a beats b: above +0.050 and below -0.020 is excluded; +0.041 would have been found with 80 % power'
    """
    parts = []
    if claim["verdict"] == "not shown":
        detectable = claim["margin"] + claim["detectable"]
        parts.append(
            f"above {claim['high']:+.3f} and below {claim['low']:+.3f} is excluded; "
            f"{detectable:+.3f} would have been found with 80 % power"
        )
    if floor := claim.get("above_floor"):
        under = claim["floor"]  # an arm's name, or a number
        parts.append(
            f"the better arm, {floor['arm']!r}, is {floor['difference']:+.3f} above the floor of "
            f"{repr(under) if isinstance(under, str) else f'{under:.3g}'} "
            f"({floor['low']:+.3f} to {floor['high']:+.3f})"
        )
    return f"{claim['text']}: {'; '.join(parts)}" if parts else ""


def as_markdown(record: Mapping[str, Any]) -> str:
    """All of a record in Markdown: what `tools/write_tables.py` puts into the paper's page."""
    metrics = metrics_of(record)
    lines = [
        "| arm | " + " | ".join(metrics) + " |",
        "|---|" + "---:|" * len(metrics),
        *(f"| {arm} | " + " | ".join(cell(record, arm, m) for m in metrics) + " |" for arm in record["arms"]),
    ]
    for title, rows in sections(record):
        lines += ["", "| " + " | ".join((title, *COLUMNS[1:])) + " |", "|---|---|---:|---:|---|---:|---|"]
        lines += ["| " + " | ".join(cells[:-1]) + f" | **{cells[-1]}** |" for cells in map(claim_row, rows)]
    if remarks := [f"- {words}." for words in map(remark, record["claims"]) if words]:
        lines += ["", *remarks]
    return "\n".join([*lines, "", *(f"{words}." for words in facts(record))])


def facts(record: Mapping[str, Any]) -> list[str]:
    """How the seeds and settings were chosen, and where the figures come from."""
    of_plan = sentence(record["plan"])
    sentences = [of_plan[0].upper() + of_plan[1:]]
    if grid := record["grid"]:
        choices = "; ".join(f"{arm}: {_setting(setting)}" for arm, setting in grid["chosen"].items())
        edge = f" (at the edge of the grid: {', '.join(names)})" if (names := at_the_edge(grid)) else ""
        where = "" if "validation" in grid["metric"] else " on validation data"
        sentences.append(f"Chosen for each arm by {grid['metric']}{where}: {choices}{edge}")
    if words := fresh_words(record):
        sentences.append(words)
    commits = ", ".join(dict.fromkeys(run["commit"] or "unknown" for run in record["runs"].values()))
    sentences.append(f"Commit {commits}; {changed_words(record)}; {_cost(record)}")
    return sentences


def changed_words(record: Mapping[str, Any]) -> str:
    """How far the code has gone on since. `tools/write_tables.py --check` does not compare these words."""
    since = changed(record)
    return "files changed since: not known" if since is None else f"files changed since: {since[0]} of {since[1]}"


def _setting(setting: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in setting.items()
    )


def _cost(record: Mapping[str, Any]) -> str:
    """What all seeds took. The clock also counts what else the machine did; older records have nothing better."""
    runs, threads = record["runs"].values(), record["threads"]
    on = f"{threads} CPU thread{'s' if threads > 1 else ''}"
    if all("cpu_seconds" in run for run in runs):
        return f"{sum(run['cpu_seconds'] for run in runs) / 60:.0f} CPU minutes, each seed on {on}"
    return f"{sum(run['seconds'] for run in runs) / 60:.0f} minutes on {on}"
