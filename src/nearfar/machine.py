"""Settings of the process that count only before torch is loaded: how threads wait, and what becomes of freed memory;
how much memory is left; and how long something takes.

Every `nearfar` command makes them, and processes that it starts inherit them. A program of your own does so with two
lines at its top:

    from nearfar.machine import prepare
    prepare()  # above `import torch`
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar

KEPT = 1 << 30
"""Bytes of freed memory, at the end of the heap, that the process keeps for its next tensors."""

Result = TypeVar("Result")
_MMAP_MAX, _TRIM_THRESHOLD = -4, -1  # mallopt's own numbers, from glibc's malloc.h


def prepare() -> None:
    """Let waiting threads sleep, and let freed memory be used again. What the user has set stays as it is.

    OpenMP's threads spin while they wait, and beside one other busy process a training then takes ten times as long.

    glibc takes each large block from the system and gives it back when it is freed, so that every large tensor is
    cleared and mapped page by page again, which takes a good part of an image tower's time on a CPU. Here up to `KEPT`
    bytes stay. On other C libraries nothing is changed.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if platform.libc_ver()[0] == "glibc" and not _allocator_is_set():
        _libc().mallopt(_MMAP_MAX, 0)
        _libc().mallopt(_TRIM_THRESHOLD, KEPT)
        # Read by glibc at the start of each process that is started from here.
        os.environ |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(KEPT)}


def give_back() -> None:
    """Give freed memory back to the system, that between blocks in use, too. Between two parts of a long work that need
    tensors of other sizes: what the first left in pieces would lie there while the second takes more. On other C
    libraries than glibc, and beside another allocator, nothing is done."""
    if platform.libc_ver()[0] == "glibc":
        _libc().malloc_trim(0)


def free_memory(root: str | Path = "/") -> int:
    """Bytes of memory that new work may take: what Linux counts as available, within the limit of a container. 0 where
    the system does not say. `root` is where its `proc` and `sys` are.

    >>> free_memory("/nowhere")
    0
    """
    available = _numbers(Path(root, "proc/meminfo")).get("MemAvailable:", 0) * 1024
    group = Path(root, "sys/fs/cgroup")
    for folder, limit, usage, cached in (
        (group, "memory.max", "memory.current", "inactive_file"),
        (group / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):  # without a limit it says "max"
            most, taken = (int((folder / name).read_text("utf-8")) for name in (limit, usage))
            left = most - taken + _numbers(folder / "memory.stat").get(cached, 0)
            available = min(available, max(left, 0))
    return available


def _numbers(path: Path) -> dict[str, int]:
    """The first number of each line, by the line's first word; empty where there is no such file."""
    with suppress(OSError):
        lines = [line.split() for line in path.read_text("utf-8").splitlines()]
        return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
    return {}


def _libc() -> Any:
    return ctypes.CDLL(None)


def _allocator_is_set() -> bool:
    """Whether the environment, the user's or that of a process that has called `prepare`, has settings of its own."""
    chosen = os.environ.get("LD_PRELOAD", "") + os.environ.get("GLIBC_TUNABLES", "")
    return "malloc" in chosen or any(name.startswith("MALLOC_") for name in os.environ)


def processor() -> dict[str, object]:
    """What torch says of this machine's processor, its name and instructions; nothing where its release cannot."""
    import torch

    abilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return abilities


@cache
def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 by instructions of its own."""
    able = processor()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def once(function: Callable[[], Result]) -> Callable[[], Result]:
    """`functools.cache` of a function that threads may call at once: one computes what it returns, the others wait.

    >>> once(lambda: "timed")()
    'timed'
    """
    turn, results = threading.Lock(), list[Result]()

    @wraps(function)
    def in_turn() -> Result:
        if not results:  # later calls take no lock, which a fork in another thread would leave closed in the child
            with turn:
                if not results:
                    results.append(function())
        return results[0]

    in_turn.cache_clear = results.clear  # type: ignore[attr-defined]
    return in_turn


def time_share(run: Callable[[], object], other: Callable[[], object], repeats: int) -> float:
    """The seconds that `run` takes as a share of those of `other`: of each the fastest of so many runs, which take
    turns, behind one that begins threads and fills caches. What slows the machine down for a while slows both.

    >>> 0 < time_share(lambda: None, lambda: None, 3)
    True
    """
    seconds: dict[Callable[[], object], list[float]] = {run: [], other: []}
    for _ in range(1 + repeats):
        for each, taken in seconds.items():
            start = time.perf_counter()
            each()
            taken.append(time.perf_counter() - start)
    return min(seconds[run][1:]) / min(seconds[other][1:])
