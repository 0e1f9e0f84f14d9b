"""Building an index, or bringing one up to date: only what is new or has changed meets the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nearfar import console
from nearfar.data.sources.record_groups import Groups
from nearfar.data.sources.record_text import readable
from nearfar.data.sources.skipped import Skipped
from nearfar.data.tables.cells import SAMPLE, SHARD, cells, check_columns, known_columns
from nearfar.embedding.embed_source import embed_images, embed_media, embed_texts, shared_sides
from nearfar.errors import UserError, at_least
from nearfar.models.shorter import as_stored, shortened
from nearfar.models.video.frame_mean import for_videos
from nearfar.search.index.digests import Digests
from nearfar.search.index.identity import check_model, fingerprint
from nearfar.search.index.items import Item
from nearfar.search.index.kept import plain_row
from nearfar.search.index.manifest import NAME, load_manifest
from nearfar.search.index.records import (
    UnreadItem,
    as_moving,
    decode,
    decode_audio,
    decode_video,
    read_image_record,
    read_text_record,
    with_kept,
)
from nearfar.search.index.stored_index import Index
from nearfar.search.index.writer import IndexWriter
from nearfar.search.kinds.graphs import LISTED, check_count, check_kind, check_recall

Stored = Callable[[Item], tuple[Tensor, bytes | None] | None]
"""The vector `[D]` float32 of an item and the bytes that the index keeps of it, where they were made before."""

DIFFERING = "rows whose kept values differ from their picture's first row"


def build(
    encoder: Any,
    source: Any,
    out: Path | str,
    *,
    model: str | None = None,
    name: str | None = None,
    kind: str | None = None,
    recall: float | None = None,
    keep: Sequence[str] | None = None,
    dim: int | None = None,
    batch_size: int = 64,
    max_skipped: float = 0.1,
    skipped: Skipped | None = None,
    checkpoint: float = 60.0,
    threads: int = 4,
    stored: Stored | None = None,
    progress: bool | None = None,
) -> Index:
    """Index a source's pictures, videos or texts in the directory `out`, or bring the index there up to date.

    Pictures that are new or changed are embedded; captions and labels are read afresh; pictures that the source no
    longer has go. Other sources' pictures stay: one index may hold many sources. What has been embedded is committed
    every `checkpoint` seconds, so that a run that is killed and started again goes on where it was.

    Args:
        encoder: anything with `encode_image` and `preprocess`, `encode_text` and `tokenize`, or both pairs.
        source: a source, a stream, or any iterable of records. Where it has no pictures, or the model takes none, its
            videos are indexed, by a model of pictures as the mean of their frames; without these its texts, of a record
            with several the unit mean of their embeddings.
        out: the index's directory.
        model: how to name the model in the index, so that a search can load it: a path or a name.
        name: the source's name in the index. Default: `source.name`.
        kind: "flat", "exact", "hnsw", "ivf", "fp16", "sq8", "pq", "ivf-sq8" or "ivf-pq"
                (`nearfar.search.kinds.graphs.KINDS`).
            Default: as it is, or "flat".
        recall: recall@10 that a search of the kinds "ivf", "ivf-sq8" and "ivf-pq" is to have (see
            `nearfar.search.VectorIndex.build`). Default: as it is, or 0.95.
        keep: columns of the source whose values (numbers, texts, flags, lists, null) stay with its items and come back
            with hits; where rows share a picture, those of the first that has one. Default: as this source was indexed
            before, or none.
        dim: keep only the first so many numbers of each embedding (see `nearfar.models.shortened`); queries are cut
            alike. Default: as it is, or all.
        batch_size: pictures at a time.
        max_skipped: share of unusable pictures above which this stops.
        skipped: collects what could not be used, and why.
        checkpoint: seconds between commits.
        threads: threads that read and decode.
        stored: what embedded the source before, as `block_vectors.StoredVectors`; asked before the model is.
        progress: show a progress bar; None: within a command only.

    Returns:
        The opened index. `index.manifest.sources[name]` counts what was added, updated, unchanged, removed, skipped.

    Raises:
        UserError: the index was made with another model or is being written, the source is empty or has no column of
            `keep`, or too few records for the kind, `recall` is no share or the kind has none, too many pictures are
            unusable.
    """
    at_least(1, batch_size=batch_size)
    name = readable(name or getattr(source, "name", "source"))
    total = len(source) if hasattr(source, "__len__") else None
    if total == 0:
        raise UserError(f"{name} is empty: there is nothing to index, and the index was left as it is")
    check_chosen(Path(out), kind, recall, total)
    skipped = Skipped() if skipped is None else skipped
    source = checked(source, keep or [], name=name)
    encoder = cut_alike(encoder, Path(out), dim)
    with open_writer(encoder, Path(out), model=model, kind=kind) as writer:
        if recall is not None:
            writer.manifest.target_recall = recall
        elif writer.manifest.kind not in LISTED:  # it was of another kind before
            writer.manifest.target_recall = None
        columns = list(dict.fromkeys(writer.manifest.kept.get(name, []) if keep is None else keep))
        source = checked(source, columns, name=name)
        others = {other: names for other, names in writer.manifest.kept.items() if other != name}
        writer.manifest.kept = {**others, name: columns} if columns else others
        source = as_moving(source)
        reader = for_videos(encoder, source)
        shared = shared_sides(reader, source)
        side = next(name for name in ("image", "video", "audio", "text") if name in shared)
        indexer = BatchIndexer(reader, writer, side, batch_size=batch_size, checkpoint=checkpoint, stored=stored)
        read_count = reported = 0
        with ThreadPoolExecutor(max(1, threads)) as pool, console.progress(f"indexing {name}", total, progress) as step:
            for read_count, items in read(source, name, pool, skipped, side, columns, count=4 * batch_size):
                indexer.take(items, pool, skipped)
                skipped.check(read_count, limit=max_skipped, name=name, total=total)
                step(read_count - reported)
                reported = read_count
            indexer.flush(pool, skipped)
            skipped.check(read_count, limit=max_skipped, name=name, total=read_count)
        if not indexer.taken:
            noun = {"image": "picture"}.get(side, side)
            raise UserError(f"{name} holds no {noun} that can be indexed:\n{skipped.reasons(5)}")
        indexer.counts |= {"removed": writer.items.remove_old(name), "skipped": skipped.count}
        writer.manifest.sources[name] = indexer.counts
        writer.commit(final=True)
    return Index(out)


def check_chosen(out: Path, kind: str | None, recall: float | None, total: int | None) -> None:
    """Raise UserError where the index in `out` cannot be of this kind, with so many items more, or aim at this
    recall."""
    before = load_manifest(out) if (out / NAME).exists() else None
    if kind is not None:
        check_kind(kind)
        if total is not None:
            check_count(kind, (before.held if before else 0) + total)
    if recall is not None:
        check_recall(kind or (before.kind if before else "flat"), recall)


def cut_alike(encoder: Any, out: Path, dim: int | None) -> Any:
    """The encoder, its embeddings cut to `dim` numbers, or to those that the index in `out` has.

    Raises:
        UserError: the index has another number, or the encoder fewer.
    """
    stored = load_manifest(out).dim if (out / NAME).exists() else None
    if dim and stored and dim != stored:
        raise UserError(f"the index {out} has {stored} numbers an item, not {dim}: leave dim out, or make a new index")
    return shortened(encoder, dim) if stored is None else as_stored(encoder, stored)


def open_writer(encoder: Any, out: Path, *, model: str | None, kind: str | None) -> IndexWriter:
    """A writer of the index in `out`, made if it is not there, after a check that the model is the index's own."""
    if not (out / NAME).exists():
        probe = fingerprint(encoder)
        named = model or type(encoder).__name__
        return IndexWriter.create(out, model=named, dim=len(probe[0]), probe=probe, kind=kind or "flat")
    writer = IndexWriter.extend(out)
    try:
        check_model(writer.manifest, encoder, where=str(out))
        writer.manifest.kind = check_kind(kind or writer.manifest.kind)
        writer.manifest.model = model or writer.manifest.model
    except BaseException:
        writer.close()
        raise
    return writer


class BatchIndexer:
    """Takes records in: passes by what is known, gathers the rest into batches, embeds and commits them."""

    def __init__(
        self,
        encoder: Any,
        writer: Any,
        side: str,
        *,
        batch_size: int,
        checkpoint: float,
        stored: Stored | None = None,
    ) -> None:
        self.stored = stored
        self.encoder, self.writer, self.side = encoder, writer, side
        self.batch_size, self.checkpoint = batch_size, checkpoint
        self.taken = False
        self.counts: dict[str, int | str] = {"added": 0, "updated": 0, "unchanged": 0}
        self._waiting: dict[str, UnreadItem] = {}
        self._first_of_bytes = Digests()
        self._committed = time.monotonic()

    def take(self, items: list[UnreadItem], pool: ThreadPoolExecutor, skipped: Skipped) -> None:
        """Take in some records."""
        for one in items:
            key = one.item.key
            if one.by_place:  # rows of a table with the same bytes are one picture, as those of the same path are
                place = self._first_of_bytes.setdefault(one.item.stamp, int(key.rpartition(":")[2]))
                key = f"{one.item.source}:{place}"
                one = replace(one, item=replace(one.item, key=key))
            if key in self._waiting:
                self._waiting[key] = UnreadItem(self._joined(self._waiting[key].item, one.item), one.image)
            elif self.writer.items.is_new(key):
                self.writer.refresh(self._joined(self.writer.items[key], one.item))
            elif self.writer.items.unchanged(one.item):
                self.writer.refresh(one.item)
                self.taken = True
                self._count("unchanged")
            else:
                self._waiting[key] = one
        while len(self._waiting) >= self.batch_size:
            self._embed(pool, skipped)

    def flush(self, pool: ThreadPoolExecutor, skipped: Skipped) -> None:
        """Embed what is waiting still."""
        while self._waiting:
            self._embed(pool, skipped)

    def _joined(self, first: Item, second: Item) -> Item:
        """The item of two rows about one picture."""
        if any(
            None not in (value, first.kept[name]) and value != first.kept[name] for name, value in second.kept.items()
        ):
            self._count(DIFFERING)
        return with_captions(first, second)

    def _embed(self, pool: ThreadPoolExecutor, skipped: Skipped) -> None:
        keys = list(islice(self._waiting, self.batch_size))
        batch = [self._waiting.pop(key) for key in keys]
        stored = {one.item.key: ready for one in batch if self.stored and (ready := self.stored(one.item)) is not None}
        unread = [one for one in batch if one.item.key not in stored]
        good = []
        for one, opened in zip(unread, pool.map(attempt(self._decode), unread), strict=True):
            if isinstance(opened, UserError):
                skipped.add(one.item.path or one.item.key, str(opened))
            else:
                good.append((one.item, *opened))
        if good:
            vectors = self._vectors([item for item, _, _ in good], [image for _, image, _ in good])
            made = zip(good, vectors, strict=True)
            stored |= {item.key: (vector, kept) for (item, _, kept), vector in made}
        for item in (one.item for one in batch if one.item.key in stored):
            vector, kept = stored[item.key]
            self._count("updated" if self.writer.items.known(item) else "added")
            self.writer.put(item, vector.numpy(), kept)
            self.taken = True
        if time.monotonic() - self._committed > self.checkpoint:
            self.writer.commit(final=False)
            self._committed = time.monotonic()

    def _vectors(self, items: list[Item], images: list[Any]) -> Tensor:
        if self.side == "image":
            return embed_images(self.encoder, images, batch_size=self.batch_size)
        if self.side in ("video", "audio"):
            return embed_media(self.encoder, self.side, images, batch_size=self.batch_size)
        texts = [caption for item in items for caption in item.captions]
        embedded = embed_texts(self.encoder, texts, batch_size=self.batch_size)
        parts = embedded.split([len(item.captions) for item in items])
        return normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=1)

    def _decode(self, unread: UnreadItem) -> Any:
        if self.side == "text":
            return None, None
        if self.side == "video":
            return decode_video(unread, self.encoder)
        if self.side == "audio":
            return decode_audio(unread, self.encoder)
        # Twice the model's own size, so that resizing gives what the full picture gives, and enough for a thumbnail.
        size = getattr(self.encoder, "image_size", None)
        return decode(unread, near=max(2 * size, 256) if isinstance(size, int) else None)

    def _count(self, outcome: str) -> None:
        self.counts[outcome] = int(self.counts.get(outcome, 0)) + 1


def checked(source: Any, columns: Sequence[str], *, name: str) -> Any:
    """The source, once it has these columns. Of records that do not say what they hold, the first one says it."""
    if not columns:
        return source
    if hasattr(source, "columns"):
        check_columns(known_columns(source), columns, name=name)
        return source
    records = iter(source)
    first: dict[str, Any] = next(records, {})
    check_columns(list(first), columns, name=name)
    return chain([first], records)


def read(
    source: Any,
    name: str,
    pool: ThreadPoolExecutor,
    skipped: Skipped,
    side: str,
    columns: Sequence[str] = (),
    *,
    count: int,
) -> Iterator[tuple[int, list[UnreadItem]]]:
    """How many records were read so far, and the next items."""
    by_number = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    places: Iterable[tuple[int, Any]] = ((i, None) for i in range(len(source))) if by_number else enumerate(source)

    def one(numbered: tuple[int, Any]) -> UnreadItem:
        place, record = numbered
        record = source[place] if by_number else record
        row = plain_row(values(place, record), columns_read)
        read_record = read_text_record if side == "text" else partial(read_image_record, side=side)
        return with_kept(read_record(record, place, source=source, name=name, groups=groups), row, columns)

    columns_read = [*columns, SAMPLE, SHARD]
    values = cells(source, columns_read)
    groups = Groups(source) if side == "text" else Groups(source).ready()
    read_count, places = 0, iter(places)
    while numbered := list(islice(places, count)):
        items = []
        for (place, _), result in zip(numbered, pool.map(attempt(one), numbered), strict=True):
            if isinstance(result, UserError):
                skipped.add(f"{name}, record {place}", str(result))
            else:
                items.append(result)
        read_count += len(numbered)
        yield read_count, items


def attempt(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The function, with a UserError handed back instead of raised."""

    def tried(argument: Any) -> Any:
        try:
            return function(argument)
        except UserError as error:
            return error

    return tried


def with_captions(first: Item, second: Item) -> Item:
    """The first item with the second's captions too, and with its kept values where the first has none: two rows of a
    table about one picture."""
    kept = {name: second.kept.get(name) if value is None else value for name, value in first.kept.items()}
    return replace(first, captions=tuple(dict.fromkeys([*first.captions, *second.captions])), kept=kept)
