"""The vectors of an index made block by block, by one process or by many workers, before the index takes them in.

A worker embeds the pictures of its block that the index does not hold yet, or holds otherwise, and writes them with
what the index keeps of each. `build` then reads all records as ever, and asks here before it asks the model.
"""

from __future__ import annotations

import json
from bisect import bisect
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar import files
from nearfar.data.sources.open_source import open_source
from nearfar.data.sources.skipped import Skipped
from nearfar.data.sources.source import Stream
from nearfar.embedding.blocks.block_folder import BlockResult, MadeOf, stem
from nearfar.embedding.blocks.block_records import BlockPlan, check_same
from nearfar.embedding.blocks.embed_blocks import Engine, load_planned, run_job, weights_digest
from nearfar.embedding.blocks.source_stamp import source_stamp
from nearfar.embedding.embed_source import shared_sides
from nearfar.errors import UserError, at_least
from nearfar.models.video.frame_mean import for_videos
from nearfar.search.index.building import BatchIndexer, cut_alike, read
from nearfar.search.index.digests import Digests
from nearfar.search.index.item_store import ItemStore
from nearfar.search.index.items import Item
from nearfar.search.index.manifest import NAME, load_manifest
from nearfar.search.index.records import as_moving

THREADS = 4
FOLDER = ".blocks"
"""Where the blocks lie within an index, until it has taken them in."""


@dataclass(frozen=True)
class IndexJob:
    """To embed what the index in `index` lacks of a source, which it calls `name`, in blocks in the folder `out`."""

    made_of: MadeOf
    out: str
    index: str
    name: str

    def worker(self) -> BlockVectors:
        return BlockVectors(self)


class BlockVectors:
    """A worker: opens the data and the model once, then embeds any block.

    Raises:
        UserError: the data or the model here are not those that were planned with.
    """

    def __init__(self, job: IndexJob) -> None:
        made_of = job.made_of
        self.job, source = job, open_source(made_of.source, **made_of.options)
        check_same(made_of.plan, source)
        self.source = as_moving(source)
        self.encoder = for_videos(cut_alike(load_planned(made_of), Path(job.index), made_of.dim), self.source)
        shared = shared_sides(self.encoder, self.source)
        self.side = next(side for side in ("image", "video", "audio", "text") if side in shared)
        self.known = known_items(Path(job.index))

    def __call__(self, number: int) -> BlockResult:
        """Embed one block and write it; nothing of it is there before it is whole."""
        made_of, out, skipped = self.job.made_of, Path(self.job.out), Skipped()
        part = self.source.select(made_of.plan.range_of(number))
        collected = _Collected(self.known)
        indexer = BatchIndexer(
            self.encoder,
            collected,
            self.side,
            batch_size=made_of.batch_size,
            checkpoint=float("inf"),
        )
        with ThreadPoolExecutor(THREADS) as pool:
            for _, items in read(part, self.job.name, pool, skipped, self.side, count=4 * made_of.batch_size):
                indexer.take(items, pool, skipped)
            indexer.flush(pool, skipped)
        collected.save(stem(out, number).with_suffix(".safetensors"))
        result = BlockResult(
            number=number,
            read=len(part),
            kept=len(part) - skipped.count,
            vectors={self.side: len(collected.vectors)},
            own_groups=False,
            left_out=skipped.count,
            problems=[(problem.where, problem.why) for problem in skipped],
        )
        result.save(out)
        return result


class _Collected:
    """What stands in for the index's writer: it collects what is put in."""

    def __init__(self, known: ItemStore | None) -> None:
        self.items = _BlockItems(known)
        self.words: list[tuple[str, str]] = []
        self.vectors: list[np.ndarray] = []
        self.pictures: list[bytes | None] = []

    def put(self, item: Item, vector: np.ndarray, picture: bytes | None = None) -> None:
        self.refresh(item)
        self.words.append((item.key, item.stamp))
        self.vectors.append(vector)
        self.pictures.append(picture)

    def refresh(self, item: Item) -> None:
        self.items.new[item.key] = item

    def save(self, path: Path) -> None:
        """One safetensors file: `vectors` `[n, D]` float32, `pictures`, all bytes that are kept, and `words`, JSON of
        keys, stamps and lengths (-1 where nothing is kept)."""
        from safetensors.numpy import save

        lengths = [-1 if picture is None else len(picture) for picture in self.pictures]
        blob = json.dumps({"items": self.words, "lengths": lengths}).encode()
        content = {
            "vectors": np.stack(self.vectors) if self.vectors else np.zeros((0, 1), np.float32),
            "pictures": np.frombuffer(b"".join(picture or b"" for picture in self.pictures), np.uint8),
            "words": np.frombuffer(blob, np.uint8),
        }
        files.write(path, save(content))


class _BlockItems:
    """The items of a block, beside those that the index holds, as `ItemStore` answers of them."""

    def __init__(self, known: ItemStore | None) -> None:
        self._known = known
        self.new: dict[str, Item] = {}

    def __getitem__(self, key: str) -> Item:
        return self.new[key]

    def is_new(self, key: str) -> bool:
        return key in self.new

    def known(self, item: Item) -> bool:
        return self._known is not None and self._known.known(item)

    def unchanged(self, item: Item) -> bool:
        return self._known is not None and self._known.unchanged(item)


class StoredVectors:
    """What blocks hold, by key and stamp: `stored(item)` is its vector `[D]` float32 and the bytes to keep, or None.

    Args:
        folder: where the blocks lie.
        count: how many there are.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._places, self._ends = Digests(), [0]
        self._open: tuple[int, Mapping[str, Any]] | None = None
        for number in range(count):
            words = self._words(number)["items"]
            for row, each in enumerate(words, self._ends[-1]):
                self._places.setdefault("\0".join(each), row)
            self._ends.append(self._ends[-1] + len(words))

    def __call__(self, item: Item) -> tuple[Tensor, bytes | None] | None:
        place = self._places.get(f"{item.key}\0{item.stamp}")
        if place is None:
            return None
        number = bisect(self._ends, place) - 1
        row = place - self._ends[number]
        block = self._block(number)
        first, last = block["ends"][row], block["ends"][row + 1]
        kept = None if block["lengths"][row] < 0 else block["pictures"][first:last].tobytes()
        return torch.from_numpy(block["vectors"][row].copy()), kept

    def _words(self, number: int) -> Any:
        from safetensors import safe_open

        with safe_open(stem(self._folder, number).with_suffix(".safetensors"), framework="numpy") as file:
            return json.loads(file.get_tensor("words").tobytes())

    def _block(self, number: int) -> Mapping[str, Any]:
        """A block; the one that was read last is kept, as items come in the order of blocks."""
        from safetensors.numpy import load_file

        if self._open is None or self._open[0] != number:
            lengths = self._words(number)["lengths"]
            ends = np.cumsum([0, *(max(0, length) for length in lengths)]).tolist()
            content = load_file(stem(self._folder, number).with_suffix(".safetensors"))
            self._open = number, {**content, "lengths": lengths, "ends": ends}
        return self._open[1]


def vectors_by_blocks(
    encoder: Any,
    model: str,
    source: str,
    index: Path,
    *,
    name: str,
    options: Mapping[str, Any],
    block: int,
    batch_size: int,
    dim: int | None,
    max_skipped: float,
    engine: Engine,
    progress: bool | None = None,
) -> StoredVectors:
    """Have an engine embed, block by block, what an index lacks of a source; what is finished in `index/.blocks` is
    kept. `encoder` is the `model` as it was loaded here, and gives its digest; the other arguments are as of
    `nearfar.embedding.embed_blocks`.

    Raises:
        UserError: the data are a stream; the blocks there are of another model, of data that has changed since or of
            other settings; too many records are broken.
    """
    at_least(1, block=block, batch_size=batch_size)
    opened = open_source(source, **options)
    if isinstance(opened, Stream):
        raise UserError(f"{opened.name} is a stream, which is indexed without blocks: leave out --block and --ray")
    made_of = MadeOf(
        model=model,
        weights=weights_digest(encoder),
        source=source,
        options=dict(options),
        stamp=source_stamp(source, options),
        plan=BlockPlan.of(opened, block=block, batch_size=batch_size),
        batch_size=batch_size,
        dim=dim,
    )
    folder = index.absolute() / FOLDER
    run_job(IndexJob(made_of, str(folder), str(index.absolute()), name), opened, max_skipped, engine, progress)
    return StoredVectors(folder, len(made_of.plan))


def known_items(index: Path) -> ItemStore | None:
    """The items of the index in a folder; None where there is none."""
    if not (index / NAME).exists():
        return None
    manifest = load_manifest(index)
    return ItemStore(index, manifest, manifest.removed)
