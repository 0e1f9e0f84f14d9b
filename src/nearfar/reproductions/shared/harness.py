"""The reproduction harness: runs a paper's arms over seeds, records them, and computes the verdict of each claim.

A seed's result is written as soon as it is there, so that a killed run goes on where it stopped. The verdict is
read off the paired differences over seeds and never written by hand.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from nearfar import files
from nearfar.errors import UserError

Arms = dict[str, dict[str, float]]
"""What one seed measured: arm -> metric -> value."""

# Two-sided 95 % quantiles of Student's t, by degrees of freedom.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


@dataclass(frozen=True)
class Claim:
    """One claim of a paper: on `metric`, `method` beats `baseline`.

    Args:
        text: the claim in words.
        method, baseline: names of arms.
        metric: what is compared.
        direction: whether "higher" or "lower" is better.
        margin: the difference that is claimed. 0: method is better. Negative: method is worse by no more than that
            ("at no loss in retrieval"). Positive: better by at least that.
    """

    text: str
    method: str
    baseline: str
    metric: str
    direction: Literal["higher", "lower"] = "higher"
    margin: float = 0.0


@dataclass(frozen=True)
class Reproduction:
    """How a paper is re-run.

    Args:
        slug: the paper's.
        run: `run(seed) -> {arm: {metric: value}}`, all arms on one seed.
        claims: what is to be judged.
        seeds: at least three.
        config: everything that was chosen (data, sizes, steps), recorded beside the figures.
        note: what a reader should know of the result: what differs from the paper, what was tried.
    """

    slug: str
    run: Callable[[int], Arms]
    claims: Sequence[Claim]
    seeds: Sequence[int] = (0, 1, 2)
    config: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


def reproduce(
    reproduction: Reproduction, path: Path, *, workers: int = 1, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Run what is missing of a reproduction, write the record to `path` and return it.

    A record of the same configuration is continued; one of another configuration is begun afresh. Seeds run one after
    the other, or `workers` at a time, each in a process of its own with its share of the threads.
    """
    if len(reproduction.seeds) < 3:
        raise UserError(f"{reproduction.slug}: a reproduction needs at least 3 seeds, got {len(reproduction.seeds)}")
    if workers < 1:
        raise UserError(f"workers={workers}: at least 1")
    record = _begin(reproduction, path, workers)
    missing = []
    for seed in reproduction.seeds:
        known = str(seed) in record["runs"]
        say(f"{reproduction.slug}: seed {seed}{' is recorded already' if known else ''}")
        missing += [] if known else [seed]
    for seed, run in _measured(reproduction.run, missing, workers, record["threads"]):
        record["runs"][str(seed)] = run
        _write(path, record)
    record["runs"] = dict(sorted(record["runs"].items(), key=lambda item: int(item[0])))
    record["arms"] = summarise(record["runs"])
    record["claims"] = [judge(claim, record["runs"]) for claim in reproduction.claims]
    record["note"] = reproduction.note
    _write(path, record)
    return record


def _measured(
    run: Callable[[int], Arms], seeds: Sequence[int], workers: int, threads: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """What each seed gave, as soon as it is there."""
    if workers == 1 or len(seeds) < 2:
        for seed in seeds:
            yield seed, _measure(run, seed)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_set_threads, initargs=(threads,)) as pool:
        waiting = {pool.submit(_measure, run, seed): seed for seed in seeds}
        for done in as_completed(waiting):
            yield waiting[done], done.result()


def _measure(run: Callable[[int], Arms], seed: int) -> dict[str, Any]:
    started, spent = time.perf_counter(), os.times()
    arms = run(seed)
    seconds = time.perf_counter() - started
    cpu = sum(after - before for before, after in zip(spent[:4], os.times()[:4], strict=True))
    return {"arms": arms, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "commit": commit()}


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def judge(claim: Claim, runs: Mapping[str, Any]) -> dict[str, Any]:
    """The claim with its paired difference over seeds (positive: in the claimed direction), its 95 % interval and the
    verdict: 'holds' when the interval lies above the margin, 'reversed' when it lies below, else 'not shown'.

    >>> runs = {str(s): {"arms": {"a": {"r": 0.5 + s / 100}, "b": {"r": 0.4}}} for s in range(3)}
    >>> judge(Claim("a beats b", "a", "b", "r"), runs)["verdict"]
    'holds'
    """
    sign = 1 if claim.direction == "higher" else -1
    differences = [
        sign * (run["arms"][claim.method][claim.metric] - run["arms"][claim.baseline][claim.metric])
        for run in runs.values()
    ]
    mean, low, high = interval(differences)
    if low > claim.margin:
        verdict = "holds"
    elif high < claim.margin:
        verdict = "reversed"
    else:
        verdict = "not shown"
    return {**asdict(claim), "difference": mean, "low": low, "high": high, "verdict": verdict}


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % t-interval.

    >>> [round(v, 3) for v in interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    mean = statistics.fmean(values)
    freedom = len(values) - 1
    t = _T95[freedom - 1] if freedom <= len(_T95) else 1.96
    half = t * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def summarise(runs: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean and standard deviation over seeds, by arm and metric."""
    collected: dict[str, dict[str, list[float]]] = {}
    for run in runs.values():
        for arm, metrics in run["arms"].items():
            for metric, value in metrics.items():
                collected.setdefault(arm, {}).setdefault(metric, []).append(value)
    return {
        arm: {
            metric: {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}
            for metric, values in metrics.items()
        }
        for arm, metrics in collected.items()
    }


def commit() -> str:
    """The git commit of the code, with '+' where the tree has changes to it; '' outside a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # Recorded results are what a run changes itself, so they do not count as a change.
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "..", ":!results")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _write(path: Path, record: Any) -> None:
    files.write(path, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _begin(reproduction: Reproduction, path: Path, workers: int) -> dict[str, Any]:
    """The record on disk if it is of this configuration, else a new one."""
    import torch
    import transformers

    config = json.loads(json.dumps(dict(reproduction.config)))
    if path.is_file():
        record = json.loads(path.read_text("utf-8"))
        if record.get("config") == config:
            return record
    return {
        "slug": reproduction.slug,
        "config": config,
        "seeds": list(reproduction.seeds),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "threads": max(1, torch.get_num_threads() // workers),
        "runs": {},
    }
