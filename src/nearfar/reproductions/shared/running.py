"""Runs seeds, and the trials of a grid, in this process or several at a time, each in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

from nearfar import console
from nearfar.reproductions.shared.code_state import commit, loaded
from nearfar.reproductions.shared.per_query import split

Job = tuple[Any, ...]
"""The arguments of one call."""


def each_done(
    work: Callable[..., Any], jobs: Sequence[Job], *, workers: int, threads: int
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Each job's arguments and what it gave, as soon as it is there: `{"result", "seconds", "cpu_seconds", "commit",
    "files"}`."""
    if workers == 1 or len(jobs) < 2:
        for job in console.track(jobs, "runs"):
            yield job, _measure(work, job)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_set_threads, initargs=(threads,)) as pool:
        waiting = {pool.submit(_measure, work, job): job for job in jobs}
        for done in console.track(as_completed(waiting), "runs", total=len(waiting)):
            yield waiting[done], done.result()


def as_run(done: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """A seed's measurement as it is recorded. Groups of queries and the loaded files are the same for most seeds: they
    are kept once, in the record."""
    figures, queries, groups = split(done["result"])
    code = hashlib.sha256(json.dumps(done["files"]).encode()).hexdigest()[:8]
    record["queries"].update(groups)
    record["code"].setdefault(code, done["files"])
    cost = {name: done[name] for name in ("seconds", "cpu_seconds", "commit")}
    return {"arms": figures, **({"queries": queries} if queries else {}), **cost, "code": code}


def _measure(work: Callable[..., Any], job: Job) -> dict[str, Any]:
    started, spent = time.perf_counter(), os.times()
    result = work(*job)
    seconds = time.perf_counter() - started
    cpu = sum(after - before for before, after in zip(spent[:4], os.times()[:4], strict=True))
    cost = {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}
    return {"result": result, **cost, "commit": commit(), "files": loaded()}


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
