"""Ray carries the blocks: one actor a worker, each with the model loaded, each given the next block when it is free.

Actors, and not Ray Data: a block's result is a file that is whole or not there, so there is nothing to pass through an
object store, and a worker that is killed costs the block that it had in hand, never a partition of many.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from nearfar.embedding.blocks.block_folder import BlockResult
from nearfar.embedding.blocks.embed_blocks import Engine, Job, in_this_process
from nearfar.errors import UserError, at_least, need

TRIES = 3
"""How often a block is given to a worker again after the one that had it died."""


class BlockWorker:
    """What an actor holds: the worker of a job. It is made with its first block, since Ray hands on what a method
    raises, and of what a constructor raises the text alone."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.work: Callable[[int], BlockResult] | None = None

    def __call__(self, number: int) -> BlockResult:
        self.work = self.work or self.job.worker()
        return self.work(number)


@dataclass(frozen=True)
class RayWorkers:
    """The engine `embed_blocks(..., engine=RayWorkers())`.

    Args:
        address: of a running cluster, as `host:port`, `ray://host:port` or "auto"; None: processes of this machine,
            for as long as the run lasts.
        workers: how many; default: one a core of the cluster.
    """

    address: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        at_least(1, workers=self.workers)
        if self.address is not None and not re.fullmatch(r"auto|(ray://)?[\w.\-\[\]:]+:\d+", self.address):
            raise UserError(
                f"{self.address!r} is no address of a Ray cluster: write HOST:PORT, ray://HOST:PORT or auto"
            )

    def __call__(self, job: Job, numbers: Sequence[int]) -> Iterator[BlockResult]:
        with self.connected() as ray:
            yield from self._results(ray, job, numbers)

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """Ray, connected to the cluster, until the block ends; jobs inside share the connection."""
        ray = need("ray", "ray")
        started = not ray.is_initialized()
        if started:
            self._start(ray)
        try:
            yield ray
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

    def _results(self, ray: Any, job: Job, numbers: Sequence[int]) -> Iterator[BlockResult]:
        cores = int(ray.cluster_resources().get("CPU", 1))
        count = min(self.workers or max(1, cores), len(numbers))
        worker = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=TRIES)(BlockWorker)
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
                raise UserError(
                    f"a worker died {TRIES + 1} times over one block: too little memory, most likely: take fewer"
                ) from error
            give(actor)
            yield result


def connection(engine: Engine) -> AbstractContextManager[Any]:
    """What holds an engine's connection over several jobs; nothing for one that has none."""
    return engine.connected() if isinstance(engine, RayWorkers) else nullcontext()


def engine_of(ray: bool | str, workers: int | None) -> Engine:
    """What the flags --ray and --workers name: workers of a cluster, or this process.

    Raises:
        UserError: no address of a cluster, workers without one, or Ray is not installed.
    """
    if ray:
        engine = RayWorkers(ray if isinstance(ray, str) else None, workers)
        need("ray", "ray")  # before anything is written
        return engine
    if workers is not None:
        raise UserError("--workers says how many of a Ray cluster embed: add --ray")
    return in_this_process


def check_answers(address: str | None) -> None:
    """Raise an `OSError` where nothing listens at `host:port`: Ray would wait for it for minutes."""
    if address not in (None, "auto"):
        host, _, port = address.removeprefix("ray://").rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
