"""Approximate search over vectors on a disk: time and memory to build, recall, milliseconds a query.

    python benchmarks/big_index.py                                           # 1,000,000 vectors of 256 numbers, minutes
    python benchmarks/big_index.py --runs 10000000:ivf-sq8 --folder /big/disk       # 5 GB of vectors, 8 GB of lists

The vectors are drawn, directions around centres of falling spread, a thousand around each, and lie in float16 in files
of 500,000; the queries are other draws of the same make. Recall is against exact search of the same vectors. Memory is
the process's own (`RssAnon` of Linux, sampled while it works), without pages of mapped files, which the system drops
when it likes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from _measure import status_of

RESULTS = Path(__file__).resolve().parent / "results" / "big_index.json"
TOP, BATCH = 10, 100
PIECE = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--runs", type=run, nargs="+", default=[run("1000000:ivf-sq8")], help="VECTORS:KIND, any of them"
    )
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--file", type=int, default=500_000, help="vectors a file")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--probes", type=int, nargs="+", default=[4, 8, 16, 32, 64, 128], help="lists compared")
    parser.add_argument("--folder", type=Path, help="where the vectors and indices lie meanwhile")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    for count in dict.fromkeys(count for count, _ in options.runs):
        with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
            for result in measured(options, count, Path(scratch)):
                write(options.output, result)
    print(options.output.with_suffix(".md").read_text())


def run(word: str) -> tuple[int, str]:
    """`1000000:ivf-pq` as a number of vectors and a kind."""
    count, _, kind = word.partition(":")
    return int(count), kind


def write(output: Path, result: dict[str, Any]) -> None:
    """Put a run beside those that were recorded before, in the place of one of as many vectors and the same kind."""
    before = json.loads(output.read_text())["runs"] if output.exists() else []
    runs = {(made["vectors"], made["kind"]): made for made in [*before, result]}
    record = {"runs": [runs[key] for key in sorted(runs)]}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record, indent=1) + "\n")
    output.with_suffix(".md").write_text(table(record))


def words(flags: list[str]) -> Iterator[str]:
    """The flags without those that name places of this machine."""
    left = iter(flags)
    for word in left:
        if word in ("--folder", "--output"):
            next(left)
        else:
            yield word


def measured(options: argparse.Namespace, count: int, scratch: Path) -> Iterator[dict[str, Any]]:
    """The kinds that are to be measured over so many vectors, one after the other."""
    from nearfar.search import exact_search
    from nearfar.search.lists.stacked_vectors import StackedVectors

    started = time.perf_counter()
    arrays = drawn_files(count, options.dim, options.file, scratch)
    print(f"{count:,} vectors drawn in {time.perf_counter() - started:.0f} s", flush=True)
    queries = drawn(options.queries, options.dim, [1, count], count).astype(np.float32)
    started = time.perf_counter()
    _, exact = exact_search(queries, StackedVectors(arrays), TOP)
    print(f"compared exactly in {time.perf_counter() - started:.0f} s", flush=True)
    for kind in (kind for number, kind in options.runs if number == count):
        yield measure(kind, arrays, queries, exact, options, scratch / kind)


def drawn(count: int, dim: int, seed: list[int], whole: int) -> np.ndarray:
    """Unit vectors `[count, dim]` float16 of `whole`, around the same centres; the spread falls from axis to axis."""
    spread = (np.arange(1, dim + 1) ** -0.5).astype(np.float32)
    centres = np.random.default_rng(7).standard_normal((max(10, whole // 1000), dim), np.float32) * spread
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, dim), np.float32)
    vectors *= spread
    vectors += centres[rng.integers(0, len(centres), count)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16)


def drawn_files(count: int, dim: int, size: int, folder: Path) -> list[np.ndarray]:
    """The vectors in files, memory-mapped; each piece has its own seed."""
    arrays = []
    for number, first in enumerate(range(0, count, size)):
        path = folder / f"vectors-{number}.npy"
        shape = (min(size, count - first), dim)
        file = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        for start in range(0, len(file), PIECE):
            stop = min(start + PIECE, len(file))
            file[start:stop] = drawn(stop - start, dim, [0, first + start], count)
        del file
        arrays.append(np.load(path, mmap_mode="r"))
    return arrays


def measure(
    kind: str,
    arrays: list[np.ndarray],
    queries: np.ndarray,
    exact: np.ndarray,
    options: argparse.Namespace,
    folder: Path,
) -> dict[str, Any]:
    """One kind: built shard by shard, merged, searched."""
    import faiss
    import torch

    from nearfar.search import VectorIndex
    from nearfar.search.lists.list_files import StoredLists, write_lists
    from nearfar.search.lists.list_shards import FOLDER, SHARD, Shards
    from nearfar.search.lists.stacked_vectors import StackedVectors

    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        seconds[name] = round(seconds.get(name, 0) + time.perf_counter() - wall, 2)
        seconds[f"{name}_cpu"] = round(seconds.get(f"{name}_cpu", 0) + time.process_time() - cpu, 2)
        print(f"{kind}: {name} {seconds[name]:.1f} s", flush=True)
        return result

    stacked = StackedVectors(arrays)
    with peak() as building:
        shards = timed("learn", lambda: Shards(kind, stacked, folder / FOLDER, SHARD))
        for number in range(shards.count):
            timed("add", partial(shards.make, number))
        parts = [StoredLists(shards.file(number), shards.trained) for number in range(shards.count)]
        timed("merge", partial(write_lists, folder / "merged.faiss", shards.trained, parts))
        (folder / "merged.faiss").unlink()
        del parts, shards
        # Finds the shards finished, as a build that was killed does: compares checksums, merges, measures recall.
        timed("finish", lambda: VectorIndex.build(folder, arrays, kind=kind))
    size = sum(path.stat().st_size for path in folder.glob("*.faiss"))
    with peak() as searching:
        index = timed("open", lambda: VectorIndex(folder, arrays))
        rows = [searched(index, VectorIndex(folder), queries, exact, probes) for probes in options.probes]
    result = {
        "kind": kind,
        "vectors": len(stacked),
        "dim": stacked.shape[1],
        "queries": len(queries),
        "command": "python benchmarks/big_index.py" + "".join(f" {word}" for word in words(sys.argv[1:])),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "faiss": faiss.__version__,
        "torch": torch.__version__,
        "lists": index.graph.nlist,
        "bytes_a_vector": round(size / len(stacked), 1),
        "recall_when_built": index.recall,
        "load": os.getloadavg()[0],
        "probes": index.probes,
        "seconds": seconds,
        "build_peak_bytes": building["bytes"],
        "search_peak_bytes": searching["bytes"],
        "searches": rows,
    }
    del index
    shutil.rmtree(folder)
    return result


def searched(index: Any, codes: Any, queries: np.ndarray, exact: np.ndarray, probes: int) -> dict[str, Any]:
    """Recall with and without the vectors themselves, and the time of a query alone and of one among many."""
    index.search(queries, TOP, probes=probes)  # what it reads is in the system's memory from here on
    wall, cpu = time.perf_counter(), time.process_time()
    alone = np.concatenate([index.search(query, TOP, probes=probes)[1] for query in queries])
    alone_s = time.perf_counter() - wall, time.process_time() - cpu
    wall, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(queries), BATCH):
        index.search(queries[start : start + BATCH], TOP, probes=probes)
    many_s = time.perf_counter() - wall, time.process_time() - cpu
    by_codes = codes.search(queries, TOP, probes=probes)[1]
    row = {
        "probes": min(probes, index.graph.nlist),
        "recall": recall(alone, exact),
        "by_codes": recall(by_codes, exact),
    }
    for name, times in (("alone", alone_s), ("batch", many_s)):
        row |= {f"{name}_ms": round(1000 * times[0] / len(queries), 3)}
        row |= {f"{name}_cpu_ms": round(1000 * times[1] / len(queries), 3)}
    print(row, flush=True)
    return row


def recall(rows: np.ndarray, exact: np.ndarray) -> float:
    """The share of the exact neighbours that were returned."""
    return round(float(np.mean([len({*a} & {*b}) / len(b) for a, b in zip(rows, exact, strict=True)])), 4)


@contextmanager
def peak() -> Iterator[dict[str, int]]:
    """The most memory of its own that the process had in the block, from samples ten times a second."""
    most, ended = {"bytes": 0}, threading.Event()

    def sample() -> None:
        while not ended.wait(0.1):
            most["bytes"] = max(most["bytes"], status_of("RssAnon"))

    most["bytes"] = status_of("RssAnon")
    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def table(record: dict[str, Any]) -> str:
    runs = record["runs"]
    about = runs[0]
    lines = [
        f"Vectors of {about['dim']} numbers, {about['queries']} queries, {about['threads']} thread(s) on "
        f"{about['machine']}, faiss {about['faiss']}, torch {about['torch']}; load average "
        f"{' and '.join(format(made['load'], '.1f') for made in runs)}.",
        "",
        "| vectors | kind | clusters | bytes a vector | s to learn | to add | to merge | CPU s, all | memory to build "
        "| to search | compared by default, recall when built |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for made in runs:
        seconds = made["seconds"]
        lines.append(
            f"| {made['vectors']:,} | `{made['kind']}` | {made['lists']:,} | {made['bytes_a_vector']:.0f} "
            f"| {seconds['learn']:,.0f} | {seconds['add']:,.0f} | {seconds['merge']:.1f} "
            f"| {sum(seconds[part + '_cpu'] for part in ('learn', 'add', 'merge')):,.0f} "
            f"| {made['build_peak_bytes'] / 2**30:.2f} GiB | {made['search_peak_bytes'] / 2**30:.2f} GiB "
            f"| {made['probes']:,}, {made['recall_when_built']:.3f} |"
        )
    lines += [
        "",
        "| vectors | kind | clusters compared | recall@10 | by codes alone | ms a query | CPU ms | CPU ms in batches |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for made in runs:
        for row in made["searches"]:
            lines.append(
                f"| {made['vectors']:,} | `{made['kind']}` | {row['probes']:,} | {row['recall']:.3f} "
                f"| {row['by_codes']:.3f} | {row['alone_ms']:.2f} | {row['alone_cpu_ms']:.2f} "
                f"| {row['batch_cpu_ms']:.2f} |"
            )
    return "\n".join([*lines, "", *(f"    {line}" for line in dict.fromkeys(made["command"] for made in runs))]) + "\n"


if __name__ == "__main__":
    main()
