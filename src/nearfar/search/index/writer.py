"""The index as its builder sees it: put pictures in, take them out, commit.

Embeddings are appended to the vectors' file; rows behind the manifest's count do not exist until a commit says so, and
a later writer cuts off what a killed one left. Where items only went, and few, the manifest names their rows, and no
other file is touched. Else, when items went or changed, the commit copies what remains to a new file, block by block,
so that no hit is ever a ghost.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from nearfar import files
from nearfar.errors import UserError
from nearfar.locks import Lock
from nearfar.search.index.damage import CHECKED, checksum, damaged
from nearfar.search.index.item_file import write_items
from nearfar.search.index.item_store import ItemStore
from nearfar.search.index.items import Item, row_of
from nearfar.search.index.manifest import NAME, Manifest, load_manifest, sync_directory
from nearfar.search.kinds.graphs import EXACT, LISTED, build_graph, check_kind, has_graph, open_graph
from nearfar.search.kinds.neighbours import recall_of

COPY_BYTES = 1 << 24
MOST_REMOVED, REMOVED_SHARE = 1000, 1 / 16
"""So many rows, and such a share of all, may be of items that were taken out, before the files are written anew: a
search passes over them, in some hundredths of its time."""


class IndexWriter:
    """The only writer of an index while it is open; a context manager. Nothing is real before `commit`."""

    def __init__(self, directory: Path, manifest: Manifest, lock: Lock) -> None:
        self.directory = directory
        self.manifest = manifest
        self.rows = manifest.count
        self._lock = lock
        self._committed = deepcopy(manifest)
        self._items: ItemStore | None = None
        self._removed: list[int] = []
        self._sweep()
        self._vectors, self._pictures = self._open_files()

    @classmethod
    def create(
        cls, directory: Path | str, *, model: str, dim: int, probe: list[list[float]], kind: str = "flat"
    ) -> IndexWriter:
        """A new, empty index in `directory`, which is made if need be. Raises UserError when it holds one already."""
        directory = Path(directory)
        check_kind(kind)
        files.folder(directory)
        lock = acquire(directory)
        try:
            if (directory / NAME).exists():
                raise UserError(f"{directory} holds an index already")
            manifest = Manifest(
                model=model, dim=dim, probe=probe, kind=kind, vectors="vectors-0.f32", pictures="pictures-0.bin"
            )
            for name in manifest.files:
                files.write(directory / name, b"")
            manifest.save(directory)
            return cls(directory, manifest, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def extend(cls, directory: Path | str) -> IndexWriter:
        """The index in `directory`, to be changed. Raises UserError when there is none, or another process changes
        it."""
        directory = Path(directory)
        load_manifest(directory)
        lock = acquire(directory)
        try:
            return cls(directory, load_manifest(directory), lock)
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files; what was not committed is gone."""
        for file in (self._vectors, self._pictures, self._items):
            with suppress(OSError):  # a full disk refuses what was not committed
                if file is not None:
                    file.close()
        self._lock.release()

    @property
    def items(self) -> ItemStore:
        """Every item by its key. Read where it is needed first: taking an item out does not need it."""
        if self._items is None:
            self._items = ItemStore(self.directory, self.manifest, [*self.manifest.removed, *self._removed])
        return self._items

    def put(self, item: Item, vector: np.ndarray, picture: bytes | None = None) -> None:
        """Add an item with its embedding `[D]`, in place of any of the same key. `picture` is kept for an item that
        is no file."""
        vector = np.ascontiguousarray(vector, dtype="<f4")
        if vector.shape != (self.manifest.dim,):
            raise ValueError(f"an embedding of this index is [{self.manifest.dim}], not {list(vector.shape)}")
        offset, length = 0, 0
        with files.writing(self.directory):
            if picture is not None:
                offset, length = self._pictures.tell(), len(picture)
                self._pictures.write(picture)
            self._vectors.write(vector.tobytes())
        self.items.put(item, offset, length)
        self.rows += 1

    def refresh(self, item: Item) -> None:
        """Take over captions, labels and the rest of an item whose picture has not changed."""
        self.items.refresh(item)

    def remove(self, key: str) -> None:
        """Take an item out. Raises KeyError for an unknown key."""
        if self._items is not None:
            self._items.remove(key)
        elif (row := row_of(self.directory, self.manifest, key)) in self._removed:
            raise KeyError(key)
        else:
            self._removed.append(row)

    def commit(self, *, final: bool) -> None:
        """Make everything put, refreshed and removed so far real, atomically. `final` also builds the faiss index of
        a kind that has one; until then such an index is searched exactly.

        Raises UserError when the disk refuses; the index is then as it was after the last commit."""
        with files.writing(self.directory):
            if self._only_removes(final=final):
                self._commit_removed()
            else:
                self._commit(final=final)

    def compact(self) -> None:
        """Commit, and write all files anew, so that nothing is left in them of what was taken out."""
        self.items  # noqa: B018 - what has been read is written as a whole
        self.commit(final=True)

    def _only_removes(self, *, final: bool) -> bool:
        """Whether items went and nothing else happened, and so few went that their rows may stay in the files."""
        manifest, rows = self.manifest, len(self.manifest.removed) + len(self._removed)
        finished = not final or bool(manifest.graph) == has_graph(manifest.kind, manifest.count)
        few = rows <= min(MOST_REMOVED, REMOVED_SHARE * manifest.count)
        return self._items is None and manifest == self._committed and finished and few

    def _commit_removed(self) -> None:
        """Say in the manifest which rows went. Where none did there is nothing to say."""
        if not self._removed:
            return
        removed = sorted([*self.manifest.removed, *self._removed])
        manifest = replace(self.manifest, serial=self.manifest.serial + 1, removed=removed)
        manifest.save(self.directory)
        sync_directory(self.directory)
        self.manifest, self._committed, self._removed = manifest, deepcopy(manifest), []

    def _commit(self, *, final: bool) -> None:
        for file in (self._vectors, self._pictures):
            file.flush()
            os.fsync(file.fileno())
        before = self.manifest
        size = self._pictures.tell()
        manifest = replace(before, serial=before.serial + 1, count=self.rows, picture_bytes=size, removed=[])
        items = self.items
        if len(items) < self.rows:
            items = self._compact(items, manifest)
        manifest.items = f"items-{manifest.serial}.parquet"
        write_items(self.directory / manifest.items, items.in_order, manifest.kept_columns)
        manifest.graph = manifest.graph_sum = manifest.graph_head = manifest.recall = None
        if final and has_graph(manifest.kind, manifest.count):
            manifest.graph = f"{manifest.kind}-{manifest.serial}.faiss"
            vectors = np.memmap(
                self.directory / manifest.vectors, "<f4", mode="r", shape=(manifest.count, manifest.dim)
            )
            self._build_graph(manifest, vectors)
        manifest.save(self.directory)
        sync_directory(self.directory)
        self._take_over(manifest, items)
        self._sweep()
        if final:  # shards that a killed writer of another kind left
            shutil.rmtree(self.directory / ".shards", ignore_errors=True)

    def _build_graph(self, manifest: Manifest, vectors: np.ndarray) -> None:
        """Write the faiss file of an index, and say in its manifest what it is."""
        path = self.directory / str(manifest.graph)
        if manifest.kind in LISTED:
            from nearfar.search.lists.list_shards import ENOUGH, FOLDER, build_lists  # no query needs it

            enough = ENOUGH if manifest.target_recall is None else manifest.target_recall
            head, recall = build_lists(manifest.kind, vectors, path, self.directory / FOLDER, enough=enough)
            manifest.graph_head = head if path.stat().st_size > CHECKED else None
        else:
            files.write(path, build_graph(manifest.kind, vectors))
            recall = 1.0 if manifest.kind in EXACT else recall_of(manifest.kind, vectors, open_graph(path))
        manifest.graph_sum = checksum(path, manifest.graph_head)
        manifest.recall = round(recall, 4)

    def _compact(self, items: ItemStore, manifest: Manifest) -> ItemStore:
        """Copy the rows and pictures still in use to new files; returns the items as they lie there."""
        manifest.vectors = f"vectors-{manifest.serial}.f32"
        manifest.pictures = f"pictures-{manifest.serial}.bin"
        manifest.count = len(items)
        self._copy_vectors(items.live_rows(), self.directory / manifest.vectors)
        with (
            (self.directory / self.manifest.pictures).open("rb") as old,
            (self.directory / manifest.pictures).open("xb") as new,
        ):
            for offset, length in items.pictures():
                old.seek(offset)
                new.write(old.read(length))
            new.flush()
            os.fsync(new.fileno())
            manifest.picture_bytes = new.tell()
        return items.compacted()

    def _copy_vectors(self, rows: np.ndarray, path: Path) -> None:
        block = max(1, COPY_BYTES // (4 * self.manifest.dim))
        with path.open("xb") as new:
            if len(rows):
                old = np.memmap(
                    self.directory / self.manifest.vectors, "<f4", mode="r", shape=(self.rows, self.manifest.dim)
                )
                for start in range(0, len(rows), block):
                    new.write(old[rows[start : start + block]].tobytes())
            new.flush()
            os.fsync(new.fileno())

    def _take_over(self, manifest: Manifest, items: ItemStore) -> None:
        moved = manifest.vectors != self.manifest.vectors
        self.manifest, self.rows, self._committed, self._removed = manifest, manifest.count, deepcopy(manifest), []
        self._items = items
        if moved:
            self._vectors.close()
            self._pictures.close()
            self._vectors, self._pictures = self._open_files()

    def _sweep(self) -> None:
        """Delete files that no longer belong, those of a killed writer included. A reader that has them mapped keeps
        them; where the system forbids that, the next writer sweeps again."""
        for pattern in ("vectors-*.f32", "pictures-*.bin", "items-*.parquet", "*.faiss"):
            for path in self.directory.glob(pattern):
                if path.name not in self.manifest.files:
                    with suppress(OSError):
                        path.unlink()

    def _open_files(self) -> tuple[IO[bytes], IO[bytes]]:
        m = self.manifest
        return (
            open_at(self.directory / m.vectors, m.count * m.dim * 4),
            open_at(self.directory / m.pictures, m.picture_bytes),
        )


def open_at(path: Path, size: int) -> IO[bytes]:
    """The file, cut to its committed size, ready to be appended to."""
    with files.writing(path):
        file = path.open("r+b")
        if file.seek(0, os.SEEK_END) > size:
            file.truncate(size)
        file.seek(size)
    return file


def acquire(directory: Path) -> Lock:
    """The directory's lock. Raises UserError when another writer holds it, or nothing can be written there."""
    path = directory / ".lock"
    if path.is_symlink():
        raise damaged(directory, f"{path} is a link, and what is written to an index must stay in its folder")
    return Lock(directory, "writing the index")
