"""Runs a function in several real processes that talk over gloo, as `accelerate launch` would start them.

The processes are forked from a server that has torch imported already, so that they start in a fraction of a second.
The function must be importable by name (live in a module beside this one).
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

PRELOAD = ["torch.distributed", "accelerate", "safetensors.torch", "nearfar.training"]


def run(function: Callable[..., Any], world: int, *args: Any, env: dict[str, str] | None = None) -> list[Any]:
    """What `function(*args)` returned on each rank."""
    context = server()
    results = context.SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = [
        context.Process(target=_worker, args=(results, function, rank, world, port, args, env or {}), daemon=True)
        for rank in range(world)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    got = {}
    while not results.empty():
        rank, result = results.get()
        got[rank] = result
    for worker in workers:
        if worker.is_alive():
            worker.kill()
    failed = [f"rank {rank}: {result}" for rank, result in got.items() if isinstance(result, _Failure)]
    assert not failed, "\n".join(failed)
    assert len(got) == world, f"only ranks {sorted(got)} of {world} came back"
    return [got[rank] for rank in range(world)]


def server() -> multiprocessing.context.ForkServerContext:
    """Where processes come from that have torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


class _Failure(str):
    """A traceback."""


def _worker(results, function, rank, world, port, args, env) -> None:
    import traceback

    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        **env,
    }
    import torch

    torch.set_num_threads(1)
    try:
        from nearfar.training import processes

        processes.start("cpu")
        result = function(*args)
    except BaseException:
        result = _Failure(traceback.format_exc())
    results.put((rank, result))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
