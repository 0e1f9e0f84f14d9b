"""What nearfar set out to reach, and what the records say, for `docs/benchmarks.md`: quiet and beside a competitor.

`write_tables.py` puts the table into the page; nothing is measured here. Quiet figures are those of the records in
`benchmarks/results`, those beside another process of the records that `benchmarks/with_competitor.py` wrote.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
BESIDE = "with_competitor"
MIB = 2**20


@dataclass(frozen=True)
class Target:
    """One bar, and the record that says whether it is reached: `read` gives the rounds of one record."""

    what: str
    unit: str
    bar: float
    record: str
    read: Callable[[Any], list[float]]
    at_least: bool = False
    beside: bool = True
    """Whether another process changes it: memory is the same."""

    def reached(self, rounds: list[float]) -> bool:
        return median(rounds) >= self.bar if self.at_least else median(rounds) <= self.bar

    @property
    def goal(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.bar:g} {self.unit}"


def table(folder: Path = RESULTS) -> str:
    """Every target with its figure, the median and the range over rounds, and whether the median reaches the bar."""
    lines = ["| what | target | quiet | beside a competitor | reached |", "|:--|:--|--:|--:|:--|"]
    for target in TARGETS:
        quiet = rounds_of(target, folder / f"{target.record}.json")
        beside = rounds_of(target, folder / BESIDE / f"{target.record}.json") if target.beside else None
        verdicts = ["yes" if target.reached(rounds) else "no" for rounds in (quiet, beside) if rounds]
        both = verdicts[0] if len({*verdicts}) == 1 else ", ".join(verdicts)
        cells = [target.what, target.goal, shown(quiet), shown(beside), f"**{both}**"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def rounds_of(target: Target, file: Path) -> list[float] | None:
    """What a record says; none where there is no such record."""
    return target.read(json.loads(file.read_text("utf-8"))) if file.is_file() else None


def shown(rounds: list[float] | None) -> str:
    if not rounds:
        return "-"
    if len(rounds) == 1:
        return f"{rounds[0]:.2f}"
    return f"{median(rounds):.2f} ({min(rounds):.2f} to {max(rounds):.2f})"


def products(n: int, d: int) -> Callable[[Any], list[float]]:
    """Of the symmetric loss, the medians at both scales."""
    return lambda record: [row["cpu_ratio"] for row in of_loss(record, n, d, "nearfar")]


def open_clip(n: int, d: int) -> Callable[[Any], list[float]]:
    def read(record: Any) -> list[float]:
        pairs = zip(of_loss(record, n, d, "open_clip ClipLoss"), of_loss(record, n, d, "nearfar"), strict=True)
        return [a / b for theirs, ours in pairs for a, b in zip(theirs["cpu_rounds"], ours["cpu_rounds"], strict=True)]

    return read


def of_loss(record: Any, n: int, d: int, variant: str) -> list[dict[str, Any]]:
    case = ("InfoNCE, both directions", n, d, variant)
    return [row for row in record["rows"] if (row["form"], row["n"], row["d"], row["variant"]) == case]


def in_half(n: int, column: str, variant: str) -> Callable[[Any], list[float]]:
    return lambda record: [
        ratio for row in record["rows"] if (row["n"], row["variant"]) == (n, variant) for ratio in row[column]
    ]


def by_case(case: list[object], variant: str, column: str = "cpu") -> Callable[[Any], list[float]]:
    return lambda record: next(r[column] for r in record["rows"] if (r["case"], r["variant"]) == (case, variant))


def to_faiss(case: list[object]) -> Callable[[Any], list[float]]:
    def read(record: Any) -> list[float]:
        ours, theirs = (by_case(case, name)(record) for name in ("nearfar flat", "faiss IndexFlatIP"))
        return [a / b for a, b in zip(ours, theirs, strict=True)]

    return read


def memory(case: list[object], *variants: str) -> Callable[[Any], list[float]]:
    return lambda record: [
        sum(row["bytes"] for row in record["memory"] if row["case"] == case and row["variant"] in variants) / MIB
    ]


def named(key: str, name: str, column: str = "cpu") -> Callable[[Any], list[float]]:
    return lambda record: next(row[column] for row in record["rows"] if row.get(key) == name)


def ring(size: int) -> Callable[[Any], list[float]]:
    def read(record: Any) -> list[float]:
        seconds = next(row["cpu_s"] for row in record["rows"] if row["size"] == size)
        return [a / b for a, b in zip(seconds["ring"], seconds["one process"], strict=True)]

    return read


def to_greedy(prompt: int) -> Callable[[Any], list[float]]:
    def read(record: Any) -> list[float]:
        rows = record["models"]["SmolLM2-135M"]
        row = next(row for row in rows if (row["prompt"], row["batch"]) == (prompt, 1))
        ratio = row["arms"]["ours k=4"]["cpu_to_greedy"]
        return ratio if isinstance(ratio, list) else [ratio]  # an older record holds the median alone

    return read


def to_torch(process: str) -> Callable[[Any], list[float]]:
    def read(record: Any) -> list[float]:
        seconds = record["cpu_s"]
        return [a / b for a, b in zip(seconds[process], seconds["import torch"], strict=True)]

    return read


def loaded(name: str, kind: str) -> Callable[[Any], list[float]]:
    """Of the benchmark that measures both by itself."""

    def read(record: Any) -> list[float]:
        row = next(row for row in record["rows"] if row["name"] == name)
        return [a / b for a, b in zip(row["loaded"][kind], row["quiet"][kind], strict=True)]

    return read


ONE, HUNDRED, THOUSAND = (["search", q, n, d] for q, n, d in ((1, 10**6, 256), (100, 10**5, 512), (1000, 10**5, 512)))
RANKS, MANY_RANKS = ["ranks", 20_000, 20_000, 512], ["ranks", 50_000, 50_000, 512]
LOSS = [(n, d) for n in (4096, 8192) for d in (512, 768)]
TARGETS = [
    *(
        Target(
            f"{title} beside a competitor, {clock}", "times quiet", bar, "under_load", loaded(name, kind), beside=False
        )
        for title, name in (("symmetric InfoNCE", "nearfar, prepared"), ("training `clip`", "nearfar train clip"))
        for clock, kind, bar in (("CPU", "cpu_s", 1.3), ("on the clock", "clock_s", 1.6))
    ),
    *(Target(f"symmetric InfoNCE, N {n}, D {d}", "products", 2.1, "ops", products(n, d)) for n, d in LOSS),
    *(
        Target(f"the same, open_clip's time, N {n}, D {d}", "times", 3.4, "ops", open_clip(n, d), at_least=True)
        for n, d in LOSS
    ),
    *(
        Target(f"in bfloat16, N {n}, D 512", "products", 1.4, "half_precision", in_half(n, "products", "nearfar"))
        for n in (4096, 8192)
    ),
    *(
        Target(
            f"in bfloat16, open_clip's time, N {n}",
            "times",
            2.4,
            "half_precision",
            in_half(n, "to_nearfar", "open_clip ClipLoss"),
            at_least=True,
        )
        for n in (4096, 8192)
    ),
    Target("search of 1 in 1,000,000 x 256, `fp16`", "products", 0.5, "search_limits", by_case(ONE, "nearfar fp16")),
    Target(
        "its memory, opening included",
        "MiB",
        40,
        "search_limits",
        memory(ONE, "nearfar fp16, opening", "nearfar fp16, a search"),
        beside=False,
    ),
    Target("search of 100 in 100,000 x 512, `flat`", "of faiss's flat index", 1, "search_limits", to_faiss(HUNDRED)),
    Target("search of 1,000 in 100,000 x 512, `flat`", "of faiss's flat index", 1, "search_limits", to_faiss(THOUSAND)),
    *(
        Target(
            f"first epoch over JPEGs, {place}",
            "of a loop of Pillow's",
            0.65,
            "first_epoch",
            named("loop", f"nearfar, {place}"),
        )
        for place in ("a folder", "a tar")
    ),
    *(
        Target(f"the loss on 2 processes, N {n}", "of one process, CPU of both", 1.1, "two_processes", ring(n))
        for n in (4096, 8192)
    ),
    Target("ranks of 20,000 among 20,000", "products", 1.2, "search_limits", by_case(RANKS, "nearfar")),
    Target("ranks of 50,000 among 50,000", "MiB", 300, "search_limits", memory(MANY_RANKS, "nearfar"), beside=False),
    *(
        Target(f"contrastive search, k = 4, {tokens} tokens", "of greedy", 1.2, "decoding", to_greedy(tokens))
        for tokens in (32, 512)
    ),
    *(
        Target(f"an index of 200,000: {change}", "s of CPU", 0.2, "index_changes", named("change", change, "cpu_s"))
        for change in ("remove one", "commit nothing")
    ),
    *(
        Target(
            f"an index of 200,000: {change}, memory",
            "MiB",
            20,
            "index_changes",
            lambda record, change=change: [b / MIB for b in named("change", change, "bytes")(record)],
            beside=False,
        )
        for change in ("remove one", "commit nothing")
    ),
    Target(
        "`nearfar search`, an index made with `--onnx`",
        "of `import torch`",
        1.5,
        "commands",
        to_torch("nearfar search --index CARRYING"),
    ),
    Target("`nearfar search`, the model itself", "of `import torch`", 1.5, "commands", to_torch("nearfar search")),
    Target("training `clip`", "of a bare loop", 1.03, "training_loop", named("variant", "nearfar")),
]
