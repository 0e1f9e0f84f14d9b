"""Runs a function in several real processes that talk over gloo, as `accelerate launch` would start them.

The processes are forked from a server that has torch imported already, so that they start in a fraction of a second.
The function must be importable by name (live in a module beside this one).
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

PRELOAD = [
    *("torch.distributed", "accelerate", "safetensors.torch", "nearfar.training", "nearfar.losses"),
    *("transformers.models.bert.modeling_bert", "transformers.models.vit.modeling_vit", "sklearn.cluster"),
]


def run(function: Callable[..., Any], world: int, *args: Any, env: dict[str, str] | None = None) -> list[Any]:
    """What `function(*args)` returned on each rank."""
    # A test file's own module exists in pytest alone: a new process would look for it in vain, or only in one folder.
    assert not function.__module__.startswith("tests."), f"move {function.__name__} to a module beside its test"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ProcessPoolExecutor(world, mp_context=server()) as pool:
        # A rank waits for the others in its first collective, so that each worker takes one.
        waiting = [pool.submit(_rank, function, rank, world, port, args, env or {}) for rank in range(world)]
        return [future.result(timeout=200) for future in waiting]


def server() -> multiprocessing.context.ForkServerContext:
    """Where processes come from that have torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def _rank(function: Callable[..., Any], rank: int, world: int, port: int, args: tuple, env: dict[str, str]) -> Any:
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

    from nearfar import distributed as processes

    torch.set_num_threads(1)
    processes.start("cpu")
    try:
        return function(*args)
    finally:
        torch.distributed.destroy_process_group()
