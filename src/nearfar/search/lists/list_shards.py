"""Lists of more vectors than memory holds: learnt from a sample, filled shard by shard, merged.

A folder keeps what is finished: what was learnt, and a file for each shard of the vectors, with checksums of what it
was made of. A build that is killed goes on there, and what other vectors left is made anew. Shards are cut at blocks of
65,536 rows, and a block is compared with the centres as a whole, so the merged file is the same to the byte, however
many shards there were.
"""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nearfar import console, files
from nearfar.errors import UserError, need
from nearfar.search.index.damage import checksum, file_fault, graph_fault
from nearfar.search.kinds.graphs import open_graph, sample_of, trained_graph
from nearfar.search.kinds.neighbours import neighbour_sample, recall_of
from nearfar.search.lists.list_files import MadeLists, StoredLists, head_of, write_lists
from nearfar.search.lists.stacked_vectors import StackedVectors

BLOCK = 65_536
SHARD = 8 * BLOCK
"""Vectors a shard: 128 MiB of codes of one byte for 256 numbers."""
COMPARED = 4096
"""Vectors that are compared with all centres at a time."""
ENOUGH, NEARLY = 0.95, 0.01
"""Recall@10 from which on a search compares no more lists; where no number of lists finds as much, so near to what all
lists find it is enough."""
LEAST_PROBES = 8
"""Lists that a search compares in any case, so that a few hits more than ten are among them."""
FOLDER = ".shards"
"""Where the shards lie within an index until they are merged."""


def build_lists(
    kind: str,
    vectors: Any,
    path: Path,
    folder: Path,
    *,
    shard: int = SHARD,
    trained: Any = None,
    enough: float = ENOUGH,
    progress: bool | None = None,
) -> tuple[int, float]:
    """Make the faiss file of a kind of `LISTED`.

    Args:
        kind: "ivf", "ivf-sq8" or "ivf-pq".
        vectors: `[N, D]` float32, N > 0; memory-mapped, or `StackedVectors`.
        path: the file to write.
        folder: keeps what is finished; it is gone when the file is there.
        shard: vectors a shard, a multiple of 65,536.
        trained: an empty faiss index that has learnt already. Default: one that learns from a sample of `vectors`.
        enough: recall@10 that a search is to have: it compares as few lists as reach it.
        progress: show a progress bar; None: within a command only.

    Returns:
        The bytes that the file has before its lists, and its recall@10, a sample of the vectors as queries.

    Raises:
        UserError: a vector holds NaN or infinity, the folder is a link, or the disk refuses.
    """
    if folder.is_symlink():
        raise UserError(f"{folder} is a link, and what is written to an index must stay in its folder: remove the link")
    shards = Shards(kind, vectors, folder, shard, trained)
    with console.progress("sorting vectors into lists", len(vectors), progress) as step:
        for number in range(shards.count):
            step(shards.make(number))
    head = write_lists(path, shards.trained, [StoredLists(shards.file(n), shards.trained) for n in range(shards.count)])
    recall = choose_probes(kind, vectors, path, shards.trained, enough)
    shutil.rmtree(folder)
    return head, recall


class Shards:
    """The shards of some vectors in a folder."""

    def __init__(self, kind: str, vectors: Any, folder: Path, shard: int, trained: Any = None) -> None:
        if shard % BLOCK or shard < 1:
            raise UserError(f"a shard has a multiple of {BLOCK:,} vectors, not {shard:,}")
        self.kind, self.vectors, self.folder, self.shard = kind, vectors, folder, shard
        self.count = -(-len(vectors) // shard)
        self.trained = self._learnt(trained)
        self._learnt_sum = zlib.crc32(head_of(self.trained, 0))
        faiss = need("faiss", "search")
        quantizer = faiss.downcast_index(self.trained.quantizer)
        centres = faiss.rev_swig_ptr(quantizer.get_xb(), self.trained.nlist * self.trained.d)
        self._centres = torch.from_numpy(centres.reshape(self.trained.nlist, self.trained.d).copy())

    def file(self, number: int) -> Path:
        """The file of a shard: a faiss index of its own, with the rows that its vectors have among all."""
        return self.folder / f"shard-{number:05d}.faiss"

    def make(self, number: int) -> int:
        """Make a shard unless it is there; returns how many vectors it has."""
        start, stop = number * self.shard, min(len(self.vectors), (number + 1) * self.shard)
        path, noted = self.file(number), self.file(number).with_suffix(".json")
        known = read_note(noted)
        there = known.get("learnt") == self._learnt_sum and file_fault(path, 1) is None
        if there and known == self._note(path, sum_of_rows(self.vectors, start, stop)):
            return stop - start
        rows_sum = 0
        cluster = np.empty(stop - start, np.int64)
        codes = np.empty((stop - start, self.trained.code_size), np.uint8)
        for first in range(start, stop, BLOCK):
            block = np.ascontiguousarray(self.vectors[first : min(first + BLOCK, stop)], np.float32)
            check_finite(self.vectors, block, first)
            rows_sum = zlib.crc32(block.data, rows_sum)
            here = slice(first - start, first - start + len(block))
            cluster[here] = nearest_centres(block, self._centres)
            codes[here] = codes_of(self.trained, block, cluster[here])
        write_lists(path, self.trained, [MadeLists(cluster, codes, self.trained.nlist, start)])
        files.write(noted, json.dumps(self._note(path, rows_sum)))
        return stop - start

    def _note(self, path: Path, rows_sum: int) -> dict[str, int]:
        return {"learnt": self._learnt_sum, "rows": rows_sum, "file": checksum(path)}

    def _learnt(self, trained: Any) -> Any:
        """What the kind learns of the sample: as it lies in the folder, if it was learnt from the same, else anew."""
        if trained is not None:
            files.folder(self.folder)
            return trained
        faiss = need("faiss", "search")
        path, noted = self.folder / "trained.faiss", self.folder / "trained.json"
        rows = sample_of(self.kind, self.vectors)
        if not np.isfinite(rows).all():  # nothing can be learnt of them, and faiss would not say which
            for first in range(0, len(self.vectors), BLOCK):
                check_finite(self.vectors, self.vectors[first : first + BLOCK], first)
        sample = zlib.crc32(rows.data)
        note = {"kind": self.kind, "count": len(self.vectors), "sample": sample, "faiss": faiss.__version__}
        known = read_note(noted)
        if file_fault(path, 1) is None and known == {**note, "file": checksum(path)}:
            kept = faiss.read_index(str(path))
            if graph_fault(kept, f"{self.kind}-0.faiss", count=0, dim=self.vectors.shape[1]) is None:
                return kept
        if self.folder.exists():
            shutil.rmtree(self.folder)
        learnt = trained_graph(self.kind, self.vectors)
        files.write(path, faiss.serialize_index(learnt).tobytes())
        files.write(noted, json.dumps({**note, "file": checksum(path)}))
        return learnt


def check_finite(vectors: Any, block: np.ndarray, first: int) -> None:
    """Raise UserError that names the file and the row where a block `[n, D]` of `vectors`, whose first row is `first`
    of all, holds what is no finite number."""
    whole = np.isfinite(block).all(axis=1)
    if not whole.all():
        place = StackedVectors([vectors]).place_of if isinstance(vectors, np.ndarray) else vectors.place_of
        raise UserError(
            f"{place(first + int(whole.argmin()))}: the vector holds NaN or infinity, and cannot be compared: take it "
            "out, or embed it anew"
        )


def read_note(path: Path) -> dict[str, Any]:
    """What a note says; nothing where there is none."""
    try:
        note = json.loads(path.read_text("utf-8")) if not path.is_symlink() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


def sum_of_rows(vectors: Any, start: int, stop: int) -> int:
    """CRC-32 of some rows as float32."""
    total = 0
    for first in range(start, stop, BLOCK):
        total = zlib.crc32(np.ascontiguousarray(vectors[first : min(first + BLOCK, stop)], np.float32).data, total)
    return total


def nearest_centres(block: np.ndarray, centres: torch.Tensor) -> np.ndarray:
    """The centre `[n]` int64, of `[K, D]` float32, of highest inner product with each row of `block` `[n, D]` float32.
    torch's product and maximum take less than half of the time of faiss's search for one."""
    rows = torch.from_numpy(block if block.flags.writeable else block.copy())
    return torch.cat([torch.mm(part, centres.T).argmax(1) for part in rows.split(COMPARED)]).numpy()


def codes_of(trained: Any, block: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """The codes `[n, B]` uint8 of the vectors `block` `[n, D]` float32, each in its list."""
    faiss = need("faiss", "search")
    codes = np.empty((len(block), trained.code_size), np.uint8)
    trained.encode_vectors(len(block), *map(faiss.swig_ptr, (block, cluster, codes)))
    return codes


def choose_probes(kind: str, vectors: Any, path: Path, trained: Any, enough: float = ENOUGH) -> float:
    """Have the file of lists say how many of them a search compares: as few as find `enough` of the ten neighbours of a
    sample. Returns the recall@10 that they find."""
    sample, tried = neighbour_sample(vectors), {}
    graph = open_graph(path)
    before = graph.nprobe
    for probes in steps(graph.nlist):
        graph.nprobe = probes
        tried[probes] = recall_of(kind, vectors, graph, sample)
        if tried[probes] >= enough:
            break
    del graph  # no system writes to a file that is mapped
    most = max(tried.values())
    chosen = next(probes for probes, recall in tried.items() if recall >= (enough if most >= enough else most - NEARLY))
    if chosen != before:
        trained.nprobe = chosen
        with files.writing(path), path.open("r+b") as file:
            file.write(head_of(trained, len(vectors)))
    return tried[chosen]


def steps(lists: int) -> list[int]:
    """How many lists are tried, of so many.

    >>> steps(5), steps(40)
    ([5], [8, 12, 16, 24, 32, 40])
    """
    doubled = [LEAST_PROBES << power for power in range(lists.bit_length())]
    return [*(n for each in doubled for n in (each, each + each // 2) if n < lists), lists]
