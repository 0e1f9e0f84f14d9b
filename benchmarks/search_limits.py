"""Search and ranking beside what bounds them: one matrix product of the same vectors, and faiss's flat index.

    .venv/bin/python benchmarks/search_limits.py

Timed in turn within each round; the product runs over the same arrays in one call per block, for one query by both of
torch's functions. A search of nearfar's is that of an index on disk, whole. Before timing, rows and ranks are compared
with those of float64. Memory is how far the process grows at most while it searches, beyond the pages of mapped files
and the vectors that the others hold in memory, each in a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from _measure import interleave, peak_of, private_peak_of, ratios, spread
from nearfar import files
from nearfar.evaluation.measures.retrieval_ranks import rank
from nearfar.search import Index
from nearfar.search.index.items import Item
from nearfar.search.index.writer import IndexWriter

RESULTS = Path(__file__).parent / "results" / "search_limits.json"
TOP, BLOCK = 10, 2048
Case = tuple[str, int, int, int]
Runs = dict[str, Callable[[], object]]
PRODUCT, AS_MATRIX, READING, FAISS = "one product", "one product, torch.mm", "the bytes, summed", "faiss IndexFlatIP"
KINDS = {"nearfar flat": "flat", "nearfar fp16": "fp16"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--one", type=int, nargs=2, default=[1_000_000, 256], metavar=("N", "D"), help="for 1 query")
    parser.add_argument("--many", type=int, nargs=2, default=[100_000, 512], metavar=("N", "D"), help="for several")
    parser.add_argument("--queries", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--ranks", type=int, nargs=2, default=[20_000, 512], metavar=("N", "D"))
    parser.add_argument("--rank-memory", type=int, default=50_000, metavar="N", help="rows on either side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--memory", nargs=2, metavar=("FOLDER", "VARIANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    largest = ("ranks", options.rank_memory, options.rank_memory, options.ranks[1])
    if options.memory:
        folder, variant = options.memory
        print(*(grown(Path(folder), variant) if folder else [grown_by_ranks(*largest[2:])]))
        return
    cases: list[Case] = [("search", 1, *options.one)]
    cases += [("search", queries, *options.many) for queries in options.queries]
    cases += [("ranks", options.ranks[0], *options.ranks)]
    rows: list[dict[str, object]] = []
    memory = []
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            rows += compared(case, options.rounds, Path(folder))
            if case == cases[0]:
                memory += memory_of(case, folder)
    memory.append({"case": largest, "variant": "nearfar", "bytes": in_a_process("", "ranks")[0]})
    report = {
        "torch": torch.__version__,
        "threads": options.threads,
        "rounds": options.rounds,
        "load": os.getloadavg()[0],
        "command": "python benchmarks/search_limits.py" + "".join(f" {word}" for word in sys.argv[1:]),
        "rows": rows,
        "memory": memory,
    }
    files.write(options.output, json.dumps(report, indent=1) + "\n")
    files.write(options.output.with_suffix(".md"), as_markdown(report))
    print(as_markdown(report))


def compared(case: Case, rounds: int, folder: Path) -> list[dict[str, object]]:
    """Ours and its peers on one case: CPU seconds a round, and as multiples of the product's."""
    task, queries, count, dim = case
    if task == "ranks":
        own, vectors, right = torch.arange(count), *(torch.from_numpy(unit(count, dim, seed)) for seed in (1, 0))
        check_ranks(vectors, right)
        runs: Runs = {PRODUCT: product_of(vectors, right), "nearfar": lambda: rank(vectors, right, own, own)}
    else:
        q, keys = unit(queries, dim, seed=1), unit(count, dim, seed=0)
        for kind in KINDS.values():
            write_index(folder / kind, kind, keys)
        np.save(folder / "queries.npy", q)
        runs = searches(folder)
        check_search(runs, q, keys)
    timings = interleave(runs, PRODUCT, rounds)
    del runs
    gc.collect()
    return [
        {
            "case": list(case),
            "variant": name,
            "cpu_s": timings[name].cpu_s,
            "cpu": ratios(timings[name].cpu_rounds, timings[PRODUCT].cpu_rounds),
            "clock": ratios(timings[name].wall_rounds, timings[PRODUCT].wall_rounds),
        }
        for name in timings
    ]


def searches(folder: Path) -> Runs:
    """The search of the queries in a folder by each variant; what a variant holds is read at its first run."""
    import faiss

    q = np.load(folder / "queries.npy")
    held: dict[str, np.ndarray] = {}

    def keys() -> np.ndarray:
        if not held:
            held["keys"] = np.array(Index(folder / "flat").vectors)
        return held["keys"]

    def made(make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
        runs: list[Callable[[], object]] = []

        def run() -> object:
            if not runs:
                runs.append(make())
            return runs[0]()

        return run

    def flat() -> Callable[[], object]:
        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.IndexFlatIP(keys().shape[1])
        index.add(keys())
        return lambda: index.search(q, TOP)

    def ours(kind: str) -> Callable[[], object]:
        index = Index(folder / kind)
        return lambda: index.search(q, TOP)

    runs = {PRODUCT: made(lambda: product_of(torch.from_numpy(q), torch.from_numpy(keys())))}
    if len(q) == 1:
        runs[AS_MATRIX] = made(lambda: product_of(torch.from_numpy(q), torch.from_numpy(keys()), matrix=True))
        runs[READING] = made(lambda: torch.from_numpy(keys()).sum)
    runs |= {name: made(partial(ours, kind)) for name, kind in KINDS.items()}
    return {**runs, FAISS: made(flat)}


def unit(count: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_index(folder: Path, kind: str, keys: np.ndarray) -> None:
    with IndexWriter.create(folder, model="drawn", dim=keys.shape[1], probe=[], kind=kind) as writer:
        for row, vector in enumerate(keys):
            writer.put(Item(key=str(row), stamp="", source="drawn", row=-1), vector)
        writer.commit(final=True)


def product_of(queries: torch.Tensor, candidates: torch.Tensor, *, matrix: bool = False) -> Callable[[], object]:
    """All scores, block by block where they would not fit, and thrown away."""
    if len(queries) == 1 and not matrix:
        scores = torch.empty(len(candidates))
        return lambda: torch.mv(candidates, queries[0], out=scores)
    rows = min(len(queries), BLOCK)
    out = torch.empty(rows * len(candidates))

    def run() -> None:
        for start in range(0, len(queries), rows):
            part = queries[start : start + rows]
            torch.mm(part, candidates.T, out=out[: len(part) * len(candidates)].view(len(part), -1))

    return run


def check_search(runs: Runs, q: np.ndarray, keys: np.ndarray) -> None:
    """The rows of the first queries are those of float64."""
    few = q[:3].astype(np.float64)
    scores = np.concatenate([few @ part.astype(np.float64).T for part in np.array_split(keys, 32)], axis=1)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
    for name in KINDS:
        _, rows = runs[name]()
        if (rows[:3] != expected).any():
            raise SystemExit(f"the search of {name} differs from float64: not timed")


def check_ranks(q: torch.Tensor, keys: torch.Tensor) -> None:
    few = 3
    scores = q[:few].double() @ keys.double().T
    expected = (scores > scores[torch.arange(few), torch.arange(few), None]).sum(1)
    own = torch.arange(len(keys))
    if (rank(q[:few], keys, own[:few], own).better != expected.numpy()).any():
        raise SystemExit("ranks differ from float64: not timed")


def memory_of(case: Case, folder: str) -> list[dict[str, object]]:
    """Of each kind what opening takes, and what a search takes then, in a process of its own."""
    return [
        {"case": list(case), "variant": f"{name}, {what}", "bytes": taken}
        for name in KINDS
        for what, taken in zip(("opening", "a search"), in_a_process(folder, name), strict=True)
    ]


def in_a_process(folder: str, variant: str) -> list[int]:
    command = [sys.executable, __file__, *sys.argv[1:], "--memory", folder, variant]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [*map(int, printed.split())]


def grown(folder: Path, variant: str) -> tuple[int, int]:
    """Bytes by which opening an index makes a process grow that has searched a small one, and by which the first search
    does, without the pages of mapped files, which are the system's."""
    q, kind = np.load(folder / "queries.npy"), KINDS[variant]
    with tempfile.TemporaryDirectory() as small:
        write_index(Path(small) / kind, kind, unit(1000, q.shape[1], seed=2))
        Index(Path(small) / kind).search(q, TOP)
    opened: list[Index] = []
    opening = private_peak_of(lambda: opened.append(Index(folder / kind)))
    return opening, private_peak_of(lambda: opened[0].search(q, TOP))


def grown_by_ranks(count: int, dim: int) -> int:
    """Bytes by which a ranking makes the process grow."""
    vectors, own = torch.from_numpy(unit(count, dim, seed=1)), torch.arange(count)
    rank(vectors[:64], vectors[:64], own[:64], own[:64])
    return peak_of(lambda: rank(vectors, vectors, own, own))


def as_markdown(report: dict) -> str:
    lines = [
        "{threads} thread(s), {rounds} rounds, float32, torch {torch}, load average {load:.1f}; the {top} best.".format(
            **report, top=TOP
        ),
        "",
        "| task | variant | CPU seconds | products, CPU | products, on the clock |",
        "|:--|:--|--:|--:|--:|",
    ]
    for row in report["rows"]:
        cells = [named(row["case"]), row["variant"], f"{row['cpu_s']:.3f}", spread(row["cpu"]), spread(row["clock"])]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| task | variant | memory, MiB |", "|:--|:--|--:|"]
    lines += [f"| {named(row['case'])} | {row['variant']} | {row['bytes'] / 2**20:.1f} |" for row in report["memory"]]
    return "\n".join([*lines, "", f"    {report['command']}", ""])


def named(case: list) -> str:
    task, queries, count, dim = case
    if task == "ranks":
        return f"ranks of {queries:,} among {count:,} x {dim}"
    return f"search of {queries:,} in {count:,} x {dim}"


if __name__ == "__main__":
    main()
