"""Rounds of interleaved timings, and the peak memory of one step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Event, Thread


@dataclass(frozen=True)
class Timing:
    """Medians over the rounds: seconds of all cores, seconds on the clock, and both as multiples of the yardstick
    that was timed in the same round; and the rounds themselves."""

    cpu_s: float
    wall_s: float
    cpu_ratio: float
    wall_ratio: float
    cpu_rounds: list[float]
    wall_rounds: list[float]


def interleave(runs: Mapping[str, Callable[[], object]], yardstick: str, rounds: int) -> dict[str, Timing]:
    """Time every run once a round, in turn, so that whatever else the machine does falls on all of them alike."""
    for run in runs.values():
        run()
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            c, w = time.process_time(), time.perf_counter()
            run()
            cpu[name].append(time.process_time() - c)
            wall[name].append(time.perf_counter() - w)
    return _timings(cpu, wall, yardstick)


def pooled(parts: Sequence[Mapping[str, Timing]], yardstick: str) -> dict[str, Timing]:
    """The rounds of several processes as one: where memory lies differs between processes more than between rounds."""
    cpu = {name: [t for part in parts for t in part[name].cpu_rounds] for name in parts[0]}
    wall = {name: [t for part in parts for t in part[name].wall_rounds] for name in parts[0]}
    return _timings(cpu, wall, yardstick)


def _timings(cpu: dict[str, list[float]], wall: dict[str, list[float]], yardstick: str) -> dict[str, Timing]:
    def timing(c: list[float], w: list[float]) -> Timing:
        return Timing(median(c), median(w), median(ratios(c, cpu[yardstick])), median(ratios(w, wall[yardstick])), c, w)

    return {name: timing(cpu[name], wall[name]) for name in cpu}


def ratios(rounds: list[float], yardstick: list[float]) -> list[float]:
    """Each round's time as a multiple of what the yardstick took in the same round."""
    return [a / b for a, b in zip(rounds, yardstick, strict=True)]


def spread(rounds: Sequence[float]) -> str:
    """The rounds in a cell of a table: their median, the lowest and the highest."""
    return f"{median(rounds):.2f} ({min(rounds):.2f} to {max(rounds):.2f})"


def peak_of(run: Callable[[], object]) -> int:
    """Bytes by which the process grew at most while `run` ran (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = status_of("VmRSS")
    run()
    return status_of("VmHWM") - before


def private_peak_of(run: Callable[[], object]) -> int:
    """Bytes by which the process's own memory grew at most while `run` ran (Linux), looked at every 5 ms: pages of
    mapped files, which the system drops when it needs room, are not in it."""
    before = peak = status_of("RssAnon")
    over = Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.005):
            peak = max(peak, status_of("RssAnon"))

    watching = Thread(target=watch)
    watching.start()
    try:
        run()
    finally:
        over.set()
        watching.join()
    return max(peak, status_of("RssAnon")) - before


def status_of(field: str) -> int:
    """Bytes that the system counts for this process (Linux): `VmRSS`, `RssAnon`, ..."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this system does not report {field}")
