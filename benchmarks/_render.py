"""The tables of the losses from recorded results, which `tools/write_tables.py` puts into the page of benchmarks."""

from __future__ import annotations

from itertools import groupby
from statistics import median
from typing import Any

from _measure import ratios
from _objectives import FORMULA


def as_markdown(results: dict[str, Any]) -> str:
    """A table for each form and scale, behind the commands that made them."""
    machine, rows = results["machine"], results["rows"]
    loads = [row["load"] for row in rows]
    commands = dict.fromkeys(row["command"] for row in rows)
    text = (
        f"Threads: {machine['threads']}; torch {machine['torch']} ({machine['vectors']}); "
        f"load average {min(loads):.1f} to {max(loads):.1f}.\n\n"
    ) + "".join(f"    {command}\n" for command in commands)
    forms = list(FORMULA)
    rows = sorted(rows, key=lambda row: (forms.index(row["form"]), row["scale"], row["n"], row["d"]))
    for (form, scale), part in groupby(rows, key=lambda row: (row["form"], row["scale"])):
        text += f"\n### {form}, scale {scale:g}\n\n" + _table(list(part))
    return text


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| N | D | variant | products | to nearfar | on the clock | CPU s | extra memory, MiB | error |",
        "|--:|--:|:--|--:|--:|--:|--:|--:|--:|",
    ]
    ours = {(row["n"], row["d"]): row for row in rows if row["variant"] == "nearfar"}
    for row in rows:
        first = ours[row["n"], row["d"]]
        cpu, wall = (_ratio_words(ratios(row[of], first[of])) for of in ("cpu_rounds", "wall_rounds"))
        lines.append(
            f"| {row['n']} | {row['d']} | {row['variant']} | {row['cpu_ratio']:.2f} | {cpu} | {wall} "
            f"| {row['cpu_s']:.3g} | {row['extra_bytes'] / 2**20:.1f} | {row['error']:.0e} |"
        )
    return "\n".join(lines) + "\n"


def _ratio_words(rounds: list[float]) -> str:
    low, high = min(rounds), max(rounds)
    return "1" if low == high == 1 else f"{median(rounds):.2f} ({low:.2f} to {high:.2f})"
