"""Where a peer takes less time than nearfar, for `docs/benchmarks.md`, of all recorded comparisons with other code.

`write_tables.py` puts the table into the page; nothing is measured here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


@dataclass(frozen=True)
class Comparison:
    """What a peer took in each round, as multiples of what nearfar took in it; and its memory likewise."""

    task: str
    peer: str
    rounds: list[float]
    memory: float | None = None

    @property
    def middle(self) -> float:
        return median(self.rounds)


def table(folder: Path = RESULTS) -> str:
    """The comparisons whose median round shows the peer ahead, the farthest first, and how many there are in all."""
    every = [each for read in READERS for each in read(folder)]
    ahead = sorted((each for each in every if each.middle < 1), key=lambda each: each.middle)
    lines = [
        f"Of {len(every)} recorded comparisons a peer is ahead in {len(ahead)}.",
        "",
        "| task | peer | its CPU seconds to nearfar's, round by round | its memory to nearfar's |",
        "|:--|:--|--:|--:|",
    ]
    for each in ahead:
        low, high = min(each.rounds), max(each.rounds)
        spread = f"{each.middle:.2f} ({low:.2f} to {high:.2f})" if len(each.rounds) > 1 else f"{each.middle:.2f}"
        memory = "-" if each.memory is None else f"{each.memory:.1f}"
        lines.append(f"| {each.task} | {each.peer} | {spread} | {memory} |")
    return "\n".join(lines)


def of_losses(folder: Path) -> Iterator[Comparison]:
    rows = read(folder, "ops")["rows"]
    own = {case(row): row for row in rows if row["variant"] == "nearfar"}
    for row in rows:
        if not row["variant"].startswith("nearfar"):
            ours = own[case(row)]
            task = f"{row['form']}, N {row['n']:,}, D {row['d']}, scale {row['scale']:g}"
            yield Comparison(task, row["variant"], by_round(row, ours), of_memory(row, ours))


def case(row: dict[str, Any]) -> tuple[object, ...]:
    return row["form"], row["n"], row["d"], row["scale"]


def of_half_precision(folder: Path) -> Iterator[Comparison]:
    for name in ("half_precision", "half_precision_two_threads"):
        record = read(folder, name)
        for row in record["rows"]:
            if not row["variant"].startswith("nearfar"):
                task = f"InfoNCE in bfloat16, N {row['n']:,}, scale {row['scale']:g}, threads {record['threads']}"
                yield Comparison(task, row["variant"], row["to_nearfar"])


def of_plain_forms(folder: Path) -> Iterator[Comparison]:
    for name, title in (
        ("multi_view", "{loss}, {views} views"),
        ("global_contrast", "contrast with all data, {form}"),
        ("soft_targets", "soft targets over a queue"),
        ("hard_negatives", "hard negatives"),
    ):
        rows = read(folder, name)["rows"]
        own = {title.format(**row): row for row in rows if row["variant"] == "nearfar"}
        for row in rows:
            if row["variant"] != "nearfar":
                ours = own[title.format(**row)]
                yield Comparison(title.format(**row), row["variant"], by_round(row, ours), of_memory(row, ours))


def of_lightly(folder: Path) -> Iterator[Comparison]:
    for row in read(folder, "beside_lightly")["rows"]:
        for learner, clocks in row["to_lightly"].items():
            task = f"a step of {row['method']} by {learner}, mean over seeds and its interval"
            yield Comparison(task, "lightly", interval(clocks["cpu_s"]))


def interval(of_seeds: dict[str, float]) -> list[float]:
    return [of_seeds["low"], of_seeds["mean"], of_seeds["high"]]


def of_sentence_transformers(folder: Path) -> Iterator[Comparison]:
    seconds = read(folder, "beside_sentence_transformers")["cpu_s"]
    peer = "sentence-transformers"
    rounds = [theirs / ours for theirs, ours in zip(seconds[peer], seconds["nearfar"], strict=True)]
    yield Comparison("training on pairs of texts", peer, rounds)


def of_search(folder: Path) -> Iterator[Comparison]:
    rows = read(folder, "search_limits")["rows"]
    own = {tuple(row["case"]): row for row in rows if row["variant"] == "nearfar flat"}
    for row in rows:
        if row["variant"].startswith("faiss"):
            task, queries, count, dim = row["case"]
            ours = own[tuple(row["case"])]
            rounds = [a / b for a, b in zip(row["cpu"], ours["cpu"], strict=True)]
            yield Comparison(f"{task} of {queries:,} in {count:,} x {dim}", row["variant"], rounds)


def of_videos(folder: Path) -> Iterator[Comparison]:
    for row in read(folder, "video_decoding")["rows"]:
        task = f"frames of {row['videos']}, {row['kept']} kept"
        yield Comparison(task, "bare PyAV", [row["frames_per_cpu_second"] / row["bare_frames_per_cpu_second"]])


def of_loops(folder: Path) -> Iterator[Comparison]:
    rows = {row["variant"]: row for row in read(folder, "training_loop")["rows"]}
    yield Comparison("the training loop", "a bare loop", [1 / ours for ours in rows["nearfar"]["cpu"]])
    for row in read(folder, "first_epoch")["rows"]:
        if row.get("loop") in ("nearfar, a folder", "nearfar, a tar"):
            place = row["loop"].removeprefix("nearfar, ")
            yield Comparison(f"a first epoch over JPEGs, {place}", "a loop of Pillow's", [1 / x for x in row["cpu"]])


def of_views(folder: Path) -> Iterator[Comparison]:
    rates = read(folder, "views")["images_per_cpu_second"]
    for name, rate in rates.items():
        if name.startswith("kornia "):
            views = name.removeprefix("kornia ")
            yield Comparison(f"views {views}", "kornia's generic pipeline", [rates[f"views {views}"] / rate])


READERS: list[Callable[[Path], Iterator[Comparison]]] = [
    of_losses,
    of_half_precision,
    of_plain_forms,
    of_lightly,
    of_sentence_transformers,
    of_search,
    of_videos,
    of_loops,
    of_views,
]


def by_round(theirs: dict[str, Any], ours: dict[str, Any]) -> list[float]:
    return [a / b for a, b in zip(theirs["cpu_rounds"], ours["cpu_rounds"], strict=True)]


def of_memory(theirs: dict[str, Any], ours: dict[str, Any]) -> float | None:
    """Both are what the process grew by; where nearfar grew by nothing there is no ratio."""
    return theirs["extra_bytes"] / ours["extra_bytes"] if ours["extra_bytes"] > 0 else None


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text("utf-8"))
