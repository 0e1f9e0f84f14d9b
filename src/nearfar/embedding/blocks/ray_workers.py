"""Ray carries the blocks: one actor a worker, each with the model loaded, each given the next block when it is free.

Actors, and not Ray Data: a block's result is a file that is whole or not there, so there is nothing to pass through an
object store, and a worker that is killed costs the block that it had in hand, never a partition of many.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nearfar.embedding.blocks.block_folder import BlockResult
from nearfar.embedding.blocks.embed_blocks import BlockEmbedder, EmbedJob
from nearfar.errors import UserError, at_least, need

TRIES = 3
"""How often a block is given to a worker again after the one that had it died."""


@dataclass(frozen=True)
class RayWorkers:
    """The engine `embed_blocks(..., engine=RayWorkers())`.

    Args:
        address: of a running cluster, as `host:port`, `ray://host:port` or "auto"; None: processes of this machine,
            for as long as the run lasts.
        workers: how many; default: one a GPU where the cluster has some, else one a core.
    """

    address: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        at_least(1, workers=self.workers)
        if self.address is not None and not re.fullmatch(r"auto|(ray://)?[\w.\-\[\]:]+:\d+", self.address):
            raise UserError(
                f"{self.address!r} is no address of a Ray cluster: write HOST:PORT, ray://HOST:PORT or auto"
            )

    def __call__(self, job: EmbedJob, numbers: Sequence[int]) -> Iterator[BlockResult]:
        ray = need("ray", "ray")
        started = not ray.is_initialized()
        if started:
            self._start(ray)
        try:
            yield from self._results(ray, job, numbers)
        finally:
            if started:
                ray.shutdown()

    def _start(self, ray: Any) -> None:
        settings: dict[str, Any] = {"address": self.address}
        if self.address is None:
            settings = {"address": "local", "include_dashboard": False}
            settings |= {"num_cpus": self.workers} if self.workers else {}
        try:
            check_answers(self.address)
            ray.init(logging_level="ERROR", log_to_driver=False, **settings)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"no Ray cluster answers at {self.address or 'this machine'}: is it running?") from error

    def _results(self, ray: Any, job: EmbedJob, numbers: Sequence[int]) -> Iterator[BlockResult]:
        resources = ray.cluster_resources()
        gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        count = min(self.workers or gpus or max(1, cores), len(numbers))
        worker = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_restarts=-1, max_task_retries=TRIES)(
            BlockEmbedder
        )
        actors = [worker.remote(job) for _ in range(count)]
        waiting, running = iter(numbers), dict[Any, Any]()

        def give(actor: Any) -> None:
            if (number := next(waiting, None)) is not None:
                running[actor.__call__.remote(number)] = actor

        for actor in actors:
            give(actor)
        while running:
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            actor = running.pop(ready)
            try:
                result: BlockResult = ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, UserError):
                    raise error.cause from None
                raise
            except ray.exceptions.RayActorError as error:
                raise UserError(_why(error)) from error
            give(actor)
            yield result


def check_answers(address: str | None) -> None:
    """Raise an `OSError` where nothing listens at `host:port`: Ray would wait for it for minutes."""
    if address not in (None, "auto"):
        host, _, port = address.removeprefix("ray://").rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _why(error: BaseException) -> str:
    """Why a worker is gone for good. What it raised while it started stands in Ray's text, on the line of its kind."""
    said = re.search(r"nearfar\.errors\.UserError: (.*)", str(error))
    return said[1] if said else f"a worker died {TRIES + 1} times over one block: too little memory, most likely"
