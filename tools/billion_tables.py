"""What a billion pairs cost, for `docs/billion.md`: arithmetic from the recorded figures in `benchmarks/results`.

`write_tables.py` puts the tables into the page. Nothing is measured here: each row names the record that it follows
from, and everything beyond a record's own size is in proportion, as the row says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from nearfar.search.kinds.graphs import clusters_of

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
PAIRS, BATCH, DIM, BLOCK, PROCESSES, JPEG = 10**9, 65_536, 512, 4096, 64, 50_000
FLOAT = 4
HOUR, YEAR = 3600, 365.25 * 24 * 3600
HEAD = ["| what | follows from | a billion pairs |", "|:--|:--|--:|"]

Row = tuple[str, str, str]


class Records:
    """The recorded figures that the page needs, one property each."""

    def __init__(self, folder: Path = RESULTS) -> None:
        self.folder = folder

    def read(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}.json").read_text("utf-8"))

    @property
    def embedded_a_second(self) -> float:
        """Records that a worker of one core embeds a second."""
        record = self.read("embed_workers")
        return float(median(each["ray 1"] for each in record["rounds"]) * record["block"])

    @property
    def two_workers(self) -> float:
        """How much faster two workers are than one."""
        return float(median(each["ray 2"] / each["ray 1"] for each in self.read("embed_workers")["rounds"]))

    @property
    def picture_s(self) -> float:
        """CPU seconds of reading a JPEG from a tar and making its views."""
        rows = {row.get("loop"): row["ms"] for row in self.read("first_epoch")["rows"]}
        return float(rows["nearfar, a tar"]) / 1e3

    @property
    def trained_s(self) -> float:
        """CPU seconds of a training step of recipe `clip`, a pair: both towers both ways, and the optimiser."""
        record = self.read("training_loop")
        seconds = next(row["cpu_s"] for row in record["rows"] if row["variant"] == "nearfar")
        return float(seconds) / (record["steps"] * record["batch"])

    def loss(self, processes: str) -> tuple[float, float, int]:
        """CPU seconds, seconds on the clock and bytes of the symmetric loss with its gradients at `BATCH` pairs, in the
        record's width."""
        rows = self.read("scaling")["loss"]
        row = next(r for r in rows if r["variant"] == f"nearfar, {processes}" and r["size"] == BATCH)
        return float(row["cpu_s"]), float(row["clock_s"]), int(row["bytes"])

    @property
    def loss_dim(self) -> int:
        return int(self.read("scaling")["dim"])

    @property
    def query_s(self) -> float:
        """CPU seconds of an exact search, a query and a vector of 256 numbers."""
        return self._search(1) / 1_000_000

    @property
    def score_s(self) -> float:
        """CPU seconds of a score of two vectors of 512 numbers, where many are computed at once."""
        return self._search(1000) / (1000 * 100_000)

    def _search(self, queries: int) -> float:
        rows = self.read("search_limits")["rows"]
        of = [row for row in rows if row["variant"] == "nearfar flat" and row["case"][:2] == ["search", queries]]
        return float(of[0]["cpu_s"])

    def index(self) -> dict[str, Any] | None:
        """The largest recorded index on a disk; None where none is recorded."""
        if not (self.folder / "big_index.json").exists():
            return None
        runs: list[dict[str, Any]] = self.read("big_index")["runs"]
        return max(runs, key=lambda run: (run["vectors"], run["kind"] == "ivf-sq8"))


def table(part: str, records: Records | None = None) -> str:
    """The Markdown of one table: `embed`, `train`, `index`, `copies` or `first`."""
    rows = PARTS[part](records or Records())
    head = ["| what | within | breaks at |", "|:--|:--|--:|"] if part == "first" else HEAD
    return "\n".join([*head, *(f"| {what} | {why} | {figure} |" for what, why, figure in rows)])


def embed(records: Records) -> list[Row]:
    rate, both = records.embedded_a_second, records.two_workers / 2
    core = PAIRS / rate
    return [
        ("embedding short captions by MiniLM", f"[{rate:,.0f} records a second and core]{EMBED}", hours(core)),
        (
            "the same on 1,000 cores",
            f"two workers reach {both:.0%} of twice one; taken for all",
            hours(core / 1000 / both),
        ),
        (
            "reading the pictures beside it",
            f"[{1e3 * records.picture_s:.1f} ms a JPEG of 640 x 480]{EPOCH}",
            hours(PAIRS * records.picture_s),
        ),
        (f"vectors of both sides, {DIM} numbers of float32", "arithmetic", size(2 * PAIRS * DIM * FLOAT)),
        ("files", f"two a block of {BLOCK:,} records", f"{2 * -(-PAIRS // BLOCK):,}"),
        ("network", f"pictures come to the workers once, taken at {JPEG // 1000} kB each", size(PAIRS * JPEG)),
    ]


def train(records: Records) -> list[Row]:
    steps = PAIRS // BATCH
    cpu, _, memory = records.loss("one process")
    _, clock, _ = records.loss("two processes")
    wide = DIM / records.loss_dim
    towers, pictures = BATCH * records.trained_s, BATCH * records.picture_s
    ring = ring_bytes(PROCESSES)
    return [
        (f"steps an epoch at batch {BATCH:,}", "arithmetic", f"{steps:,}"),
        (
            f"the loss of a step, {records.loss_dim} numbers, one core",
            f"[recorded at this batch]{SCALING}, gradients included",
            f"{cpu:,.0f} s",
        ),
        ("its memory", "recorded at this batch", size(memory)),
        (
            f"the loss of a step, {DIM} numbers, {PROCESSES} processes",
            f"two take {clock:.0f} s on the clock; in proportion to width and processes",
            f"{clock * 2 / PROCESSES * wide:,.1f} s",
        ),
        (
            "the towers of a step, recipe `clip` (2 M weights), one core",
            f"[{1e3 * records.trained_s:.1f} CPU ms a pair]{LOOP}",
            f"{towers:,.0f} s",
        ),
        (
            "reading the pictures of a step, one core",
            f"[{1e3 * records.picture_s:.1f} CPU ms a JPEG]{EPOCH}",
            f"{pictures:,.0f} s",
        ),
        ("an epoch of all three, one core", "the sum, by the steps", hours(steps * (cpu * wide + towers + pictures))),
        ("the loss's share of that", "the same", f"{cpu * wide / (cpu * wide + towers + pictures):.0%}"),
        (
            f"network of the loss, a step and process of {PROCESSES}",
            "keys go round forward and backward, their gradients home",
            size(ring),
        ),
        (
            "network of the gradients, a step and process, 150 M weights",
            "reduced over a ring: twice the weights",
            size(2 * 150e6 * FLOAT),
        ),
    ]


def ring_bytes(processes: int) -> float:
    """Bytes that each process sends in a step of the loss: the keys of a block to all others, forward and backward, and
    their gradient, which goes all the way home; sums of one number a row beside them are left out."""
    block = BATCH / processes * DIM * FLOAT
    return block * (2 * (processes - 1) + processes)


def index(records: Records) -> list[Row]:
    exact = PAIRS * records.query_s
    rows = [
        ("vectors of 256 numbers, float16", "arithmetic", size(PAIRS * 256 * 2)),
        (
            "an exact search, one query, one core",
            f"[{1e3 * 1e6 * records.query_s:.0f} CPU ms over a million]{LIMITS}, in memory",
            f"{exact:,.0f} s",
        ),
        ("the same from a disk of 2 GB a second", "arithmetic", f"{PAIRS * 256 * 2 / 2e9:,.0f} s"),
    ]
    made = records.index()
    if made is None:
        return [*rows, ("an index on a disk", f"[no run recorded yet]{BIG}", "not known")]
    scale = PAIRS / made["vectors"]
    seconds = made["seconds"]
    builds = seconds["learn"] + scale * (seconds["add"] + seconds["merge"])
    lists = clusters_of(PAIRS)
    parts = ", ".join(f"{part} {seconds[part]:,.0f} s" for part in ("learn", "add", "merge"))
    best = max(made["searches"], key=lambda each: each["recall"])
    name = f"`{made['kind']}` of {made['vectors']:,} vectors"
    return [
        *rows,
        (f"building {name}, in proportion", f"[recorded]{BIG}: {parts}; as many lists", hours(builds)),
        (
            f"adding to the {lists:,} lists that so many vectors get",
            "each vector is compared with all centres, taken for all of the time to add",
            hours(scale * seconds["add"] * lists / made["lists"]),
        ),
        ("its lists on a disk", f"{made['bytes_a_vector']:g} bytes a vector", size(PAIRS * made["bytes_a_vector"])),
        ("memory to build", "recorded; shards of the same size", size(made["build_peak_bytes"])),
        (
            f"recall at 10 of {made['vectors']:,}",
            f"{best['probes']:,} of {made['lists']:,} lists, {best['alone_ms']:.1f} ms a query; not known beyond",
            f"{best['recall']:.3f}",
        ),
    ]


def copies(records: Records) -> list[Row]:
    scores = PAIRS * (PAIRS - 1) / 2
    core = scores * records.score_s
    return [
        ("scores of all pictures with all before them", "arithmetic", f"{scores:.1e}"),
        ("their CPU time, 512 numbers", f"[{1e9 * records.score_s:.0f} ns a score]{LIMITS}", years(core)),
        ("the same on 1,000 cores", "arithmetic", years(core / 1000)),
        *(
            (
                f"read from the shared disk, in blocks of {block:,}",
                "each block meets all before it",
                size(PAIRS / block / 2 * PAIRS * DIM * FLOAT),
            )
            for block in (BLOCK, BATCH)
        ),
        (
            "what 1,000 cores compare in a day",
            "the same score, in proportion",
            f"{rounded((2 * 86_400 * 1000 / records.score_s) ** 0.5):,} pictures",
        ),
    ]


def first(records: Records) -> list[Row]:
    """What breaks first: the number of pairs at which each of these takes a day of 1,000 cores, or 1 TB of memory."""
    day, memory = 86_400 * 1000, 10**12
    epoch = records.loss("one process")[0] * DIM / records.loss_dim / BATCH + records.trained_s + records.picture_s
    limits = {
        "near pictures, all with all (`--near-pictures`)": ("a day of 1,000 cores", (2 * day / records.score_s) ** 0.5),
        "an exact search of 1,000 queries a second": ("1,000 cores", 1000 / (1000 * records.query_s)),
        "all vectors of both sides in one process (`load_blocks`)": ("1 TB of memory", memory / (2 * DIM * FLOAT)),
        "an epoch of recipe `clip` on CPUs": ("a day of 1,000 cores", day / epoch),
        "embedding, pictures read": ("a day of 1,000 cores", day / (1 / records.embedded_a_second + records.picture_s)),
    }
    return [
        (what, by, f"{rounded(pairs):,} pairs") for what, (by, pairs) in sorted(limits.items(), key=lambda e: e[1][1])
    ]


def rounded(count: float) -> int:
    """Two digits.

    >>> rounded(124_921_493)
    120000000
    """
    return int(float(f"{count:.1e}"))


def hours(seconds: float) -> str:
    """
    >>> hours(7200), hours(3.6e6)
    ('2.0 hours', '1,000 hours')
    """
    count = seconds / HOUR
    return f"{count:,.0f} hours" if count >= 10 else f"{count:.1f} hours"


def years(seconds: float) -> str:
    """
    >>> years(YEAR * 30)
    '30 years'
    """
    count = seconds / YEAR
    return f"{count:,.0f} years" if count >= 10 else f"{count:.1f} years"


def size(count: float) -> str:
    """
    >>> size(2.048e12), size(4e8)
    ('2.0 TB', '400 MB')
    """
    unit, name = next(
        (u, n) for u, n in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")) if count >= u or n == "MB"
    )
    return f"{count / unit:,.0f} {name}" if count / unit >= 10 else f"{count / unit:.1f} {name}"


EMBED = "(benchmarks.md#embedding-by-workers)"
EPOCH = "(benchmarks.md#the-first-epoch)"
SCALING = "(benchmarks.md#how-it-grows)"
LOOP = "(benchmarks.md#the-training-loop)"
LIMITS = "(benchmarks.md#search-and-ranking)"
BIG = "(benchmarks.md#more-vectors-than-memory)"

PARTS: dict[str, Callable[[Records], Sequence[Row]]] = {
    "embed": embed,
    "train": train,
    "index": index,
    "copies": copies,
    "first": first,
}
