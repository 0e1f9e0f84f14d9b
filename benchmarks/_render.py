"""Writes the benchmark page from recorded results: no figure in it is typed by hand."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from _measure import ratios
from _objectives import PRODUCTS

HEAD = """# Benchmarks

## The losses on `nearfar.ops`

Forward and backward, float32, threads: {threads}, torch {torch} ({vectors}); in each round all variants of a form
run in turn. **Products** is the CPU time as a multiple of one N x N x D matrix product timed in the same round, so it
depends little on the machine; **to nearfar** is the CPU time as a multiple of the first row's in the same round,
**on the clock** likewise: the median over the rounds of all processes, and the lowest and highest round. **Extra
memory** is the peak beyond inputs and their gradients, from a process of its own. **Error** is the largest relative
error (norm of the difference over norm) of the loss and the gradients to q and k against the formula in float64. The
system's load average was {load} during the runs; from process to process the ratios move by some 5 % either way.

    make bench        # makes the comparison environment and runs every size; the figures below come from:
    {commands}

The least that each form needs when it keeps no tiles, in products: {products}.
With all tiles kept it is one less (NT-Xent: half of one). The variant "nearfar" is what everyone gets who names no
budget: tiles are kept up to 128 MiB of them.
In NT-Xent, N counts all rows, both views together. The released `SigLipLoss` has no chunked form; "chunk and
checkpoint" is the usual way to save memory: a chunk of rows at a time, computed again in the backward pass.
"""


# Filled in by tools/write_tables.py.
FURTHER = """
## Soft targets over a queue

ALBEF's contrast: a teacher's softmax over batch and queue, mixed into the targets. `nearfar` holds neither logits nor
targets; the plain form holds both.

<!-- table: benchmark soft_targets -->
<!-- end -->

## Hard negatives

One hard negative a query, as ALBEF and TCL draw them for matching. `nearfar` draws in a stream over blocks of keys; the
plain form holds the matrix of similarities and its softmax.

<!-- table: benchmark hard_negatives -->
<!-- end -->

## Two revisions

Is anything slower than it was? Losses at N 4096, D 512, forward and backward, one thread, the fastest of nine rounds in
each of five turns; "product" is one N x N x D product, which no revision changes: its own spread is the machine's. The
training command is the recipe `clip` for twelve steps, two turns.

    python benchmarks/revisions.py BEFORE --turns 5 --rounds 9 --train

<!-- table: benchmark revisions -->
<!-- end -->
"""


def render(results: dict[str, Any], page: Path) -> None:
    machine, rows = results["machine"], results["rows"]
    loads = [row["load"] for row in rows]
    needs = ", ".join(f"{form} {n}" for form, n in PRODUCTS.items())
    commands = "\n    ".join(dict.fromkeys(row["command"] for row in rows))
    text = HEAD.format(**machine, commands=commands, load=f"{min(loads):.1f} to {max(loads):.1f}", products=needs)
    forms = list(PRODUCTS)
    rows = sorted(rows, key=lambda row: (forms.index(row["form"]), row["scale"], row["n"], row["d"]))
    for (form, scale), part in groupby(rows, key=lambda row: (row["form"], row["scale"])):
        text += f"\n### {form}, scale {scale:g}\n\n" + _table(list(part))
    page.write_text(text + FURTHER)


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
