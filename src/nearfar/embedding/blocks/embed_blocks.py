"""Embedding a source block by block: the job, what a worker does with one block, and the run over all of them.

A batch holds the same rows whichever worker embeds it: blocks begin at whole batches, and the texts of a block are
sorted and batched among themselves. So the blocks are the same to the bit for any number of workers that compute with
as many threads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from nearfar import console, files
from nearfar.data.sources.open_source import open_source
from nearfar.data.sources.skipped import Skipped
from nearfar.data.sources.source import Stream
from nearfar.embedding.blocks.block_folder import NAME, BlockResult, MadeOf, finished, stem
from nearfar.embedding.blocks.block_records import BlockPlan, BlockRecords, check_same
from nearfar.embedding.blocks.source_stamp import are_shards, source_stamp
from nearfar.embedding.embed_source import embed, shared_sides
from nearfar.embedding.embeddings import NothingToEmbed
from nearfar.errors import UserError, at_least
from nearfar.locks import Lock
from nearfar.models.loading import load
from nearfar.models.shorter import shortened
from nearfar.models.tokenizer_files import tokenizer_sum
from nearfar.models.video.frame_mean import for_videos

Results = Iterator[BlockResult]
Engine = Callable[["Job", Sequence[int]], Results]
"""What has workers embed the blocks of these numbers, and gives the results as they come."""


class Job(Protocol):
    """What a worker needs to know, and can be sent; `worker` makes, where it is called, what makes a block."""

    @property
    def made_of(self) -> MadeOf: ...

    @property
    def out(self) -> str: ...

    def worker(self) -> Callable[[int], BlockResult]: ...


@dataclass(frozen=True)
class EmbedJob:
    """To embed a source's blocks into the folder `out`."""

    made_of: MadeOf
    out: str

    def worker(self) -> BlockEmbedder:
        return BlockEmbedder(self)


@dataclass(frozen=True)
class BlockRun:
    """What a run did: the blocks that it made and those that were there, all results in order, what was left out."""

    made: int
    kept: int
    results: list[BlockResult] = field(repr=False)
    skipped: Skipped = field(repr=False)


class BlockEmbedder:
    """A worker: opens the data and the model once, then embeds any block.

    Raises:
        UserError: the data or the model here are not those that were planned with.
    """

    def __init__(self, job: EmbedJob) -> None:
        made_of = job.made_of
        self.job, self.source = job, open_for_blocks(made_of.source, made_of.options)
        check_same(made_of.plan, self.source)
        self.encoder = for_videos(shortened(load_planned(made_of), made_of.dim), self.source)
        self.sides = shared_sides(self.encoder, self.source)

    def __call__(self, number: int) -> BlockResult:
        """Embed one block and write it; nothing of it is there before it is whole."""
        made_of, out = self.job.made_of, Path(self.job.out)
        records = BlockRecords(self.source, made_of.plan, number)
        unread = records.skipped
        read, kept, vectors = len(records), 0, dict[str, int]()
        try:
            if not read:
                raise NothingToEmbed(f"block {number} is empty", Skipped())
            made = embed(
                self.encoder, records, self.sides, batch_size=made_of.batch_size, max_skipped=1.0, progress=False
            )
            made.save(stem(out, number).with_suffix(f".{made_of.file_format}"))
            kept, skipped = len(made), made.skipped
            vectors = {name: len(side.vectors) for name, side in made.sides.items()}
        except NothingToEmbed as nothing:
            skipped = nothing.skipped
        skipped = Skipped.merged([unread, skipped])
        result = BlockResult(
            number=number,
            read=read + unread.count,
            kept=kept,
            vectors=vectors,
            own_groups=records.own_groups,
            left_out=skipped.count,
            problems=[(problem.where, problem.why) for problem in skipped.problems],
        )
        result.save(out)
        return result


def in_this_process(job: Job, numbers: Sequence[int]) -> Results:
    """One worker, here: the engine that needs nothing else."""
    return map(job.worker(), numbers)


def embed_blocks(
    model: str,
    source: str,
    out: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    block: int = 4096,
    batch_size: int = 64,
    dim: int | None = None,
    file_format: Literal["safetensors", "parquet"] = "safetensors",
    max_skipped: float = 0.1,
    engine: Engine = in_this_process,
    progress: bool | None = None,
) -> BlockRun:
    """Embed a source block by block into a folder; blocks that are finished there are kept.

    Args:
        model: a folder or a name that `nearfar.models.load` opens, at every worker.
        source: a word that `nearfar.data.open_source` opens, at every worker. Tar shards are read as a stream, a block
            each, and are not listed first.
        out: the folder, which all workers must reach.
        options: of `open_source`: split, columns.
        block: records of a block, rounded up to whole batches.
        batch_size: pictures, and captions, at a time.
        dim: keep only the first so many numbers of each embedding, at unit length again.
        file_format: the kind of the blocks' files; a Parquet table has a row a vector
            (`nearfar.embedding.parquet_vectors`).
        max_skipped: the share of broken records above which this stops.
        engine: who embeds: this process, or `nearfar.embedding.blocks.ray_workers.RayWorkers`.
        progress: show a progress bar; None: within a command only.

    Returns:
        What was made and kept. `nearfar.embedding.load_blocks(out)` reads the embeddings.

    Raises:
        UserError: the folder holds blocks of another model, of data that has changed since or of other settings;
            another process writes there; too many records are broken, or none can be used.
    """
    at_least(1, block=block, batch_size=batch_size)
    out, options = Path(out), dict(options or {})
    opened = open_for_blocks(source, options)
    made_of = MadeOf(
        model=model,
        weights=weights_digest(load(model)),
        source=source,
        options=options,
        stamp=source_stamp(source, options),
        plan=BlockPlan.of(opened, block=block, batch_size=batch_size),
        batch_size=batch_size,
        dim=dim,
        file_format=file_format,
    )
    run = run_job(EmbedJob(made_of, str(out.absolute())), opened, max_skipped, engine, progress)
    if not any(result.kept for result in run.results):
        raise UserError(f"{opened.name} holds nothing that can be embedded:\n{run.skipped.reasons(5)}")
    return run


def run_job(
    job: Job,
    opened: Any,
    max_skipped: float,
    engine: Engine,
    progress: bool | None,
    *,
    doing: str = "embedding blocks of",
) -> BlockRun:
    """Have an engine make the blocks of a job that its folder does not hold yet; `opened` is the source as it was
    planned with, and `doing` what the progress bar says.

    Raises:
        UserError: as `embed_blocks` says.
    """
    out = Path(job.out)
    lock = Lock(out, "writing blocks to")
    try:
        if (out / NAME).exists():
            job.made_of.check(out)
        else:
            job.made_of.save(out)
        files.remove_leftovers(out)
        return _run(job, opened, max_skipped, engine, progress, doing)
    finally:
        lock.release()


def _run(job: Job, opened: Any, max_skipped: float, engine: Engine, progress: bool | None, doing: str) -> BlockRun:
    plan, out = job.made_of.plan, Path(job.out)
    results = finished(out, plan)
    missing = [number for number in range(len(plan)) if number not in results]
    at_opening = Skipped() if isinstance(opened, Stream) else opened.skipped
    with console.progress(f"{doing} {opened.name}", len(plan), progress) as step:
        step(len(results))
        read, unread = sum(each.read for each in results.values()), Skipped.merged(r.skipped for r in results.values())
        for result in engine(job, missing) if missing else ():
            results[result.number] = result
            read, unread = read + result.read, Skipped.merged([unread, result.skipped])
            unread.check(read, limit=max_skipped, name=opened.name, total=plan.records)
            step(1)
    ordered = [results[number] for number in range(len(plan))]
    skipped = Skipped.merged([at_opening, *(result.skipped for result in ordered)])
    return BlockRun(len(missing), len(plan) - len(missing), ordered, skipped)


def open_for_blocks(source: str, options: Mapping[str, Any]) -> Any:
    """The source, tar shards as a stream."""
    streaming: dict[str, Any] = {"streaming": True} if are_shards(source) else {}
    return open_source(source, **options, **streaming)


def load_planned(made_of: MadeOf) -> Any:
    """The model, once its weights are those that were planned with.

    Raises:
        UserError: they are others.
    """
    model = load(made_of.model)
    if weights_digest(model) != made_of.weights:
        raise UserError(f"{made_of.model} is another model where a worker reads it: let all machines read the same")
    return model


def weights_digest(encoder: Any) -> str:
    """A digest of a model's kind, its weights and what prepares its inputs: pixels, frames, the tokenizer and where it
    cuts texts."""
    made = blake2b(type(encoder).__name__.encode(), digest_size=16)
    prepared = [repr(getattr(encoder, name, None)) for name in ("pixels", "frame_choice", "max_length")]
    tokenizer = getattr(encoder, "tokenizer", None)
    if callable(tokenizer) and hasattr(tokenizer, "get_vocab"):
        prepared.append(tokenizer_sum(tokenizer))
    made.update(json.dumps(prepared).encode())
    if isinstance(encoder, torch.nn.Module):
        for name, value in sorted(encoder.state_dict().items()):
            made.update(name.encode())
            made.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return made.hexdigest()
