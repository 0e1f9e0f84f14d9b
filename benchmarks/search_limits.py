"""Search and ranking beside what bounds them: one matrix product of the same vectors, and faiss's flat index.

    .venv/bin/python benchmarks/search_limits.py

Timed in turn within each round; the product runs over the same arrays in one call per block. Before timing, rows and
ranks are compared with those of float64. Memory is how far the process grows at most, each in a process of its own.
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
from pathlib import Path

import numpy as np
import torch

from _measure import interleave, peak_of, ratios, spread
from nearfar import files
from nearfar.evaluation.measures.retrieval_ranks import rank
from nearfar.search import exact_search

RESULTS = Path(__file__).parent / "results" / "search_limits.json"
TOP, BLOCK = 10, 2048
Case = tuple[str, int, int, int]
PRODUCT, FAISS = "one product", "faiss IndexFlatIP"


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
    parser.add_argument("--memory", nargs=4, metavar=("TASK", "QUERIES", "N", "D"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        task, *sizes = options.memory
        print(max(0, grown(task, *map(int, sizes))))
        return
    cases: list[Case] = [("search", 1, *options.one)]
    cases += [("search", queries, *options.many) for queries in options.queries]
    cases += [("ranks", options.ranks[0], *options.ranks)]
    rows = [row for case in cases for row in compared(case, options.rounds)]
    largest = ("ranks", options.rank_memory, options.rank_memory, options.ranks[1])
    report = {
        "torch": torch.__version__,
        "threads": options.threads,
        "rounds": options.rounds,
        "load": os.getloadavg()[0],
        "command": "python benchmarks/search_limits.py" + "".join(f" {word}" for word in sys.argv[1:]),
        "rows": rows,
        "memory": [{"case": list(case), "bytes": in_a_process(case)} for case in (cases[0], largest)],
    }
    files.write(options.output, json.dumps(report, indent=1) + "\n")
    files.write(options.output.with_suffix(".md"), as_markdown(report))
    print(as_markdown(report))


def compared(case: Case, rounds: int) -> list[dict[str, object]]:
    """Ours and its peers on one case: CPU seconds a round, and as multiples of the product's."""
    task, queries, count, dim = case
    with tempfile.TemporaryDirectory() as folder:
        keys = mapped(Path(folder), count, dim)
        q = unit(queries, dim, seed=1)
        runs: dict[str, Callable[[], object]] = {PRODUCT: product_of(q, keys)}
        if task == "ranks":
            own = torch.arange(count)
            vectors, right = torch.from_numpy(q), torch.from_numpy(np.array(keys))
            runs["nearfar"] = lambda: rank(vectors, right, own, own)
            check_ranks(vectors, right)
        else:
            runs["nearfar"] = lambda: exact_search(q, keys, TOP)
            flat = faiss_index(keys)
            runs[FAISS] = lambda: flat.search(q, TOP)
            check_search(q, keys)
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


def unit(count: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def mapped(folder: Path, count: int, dim: int) -> np.ndarray:
    """Unit vectors as an index holds them: in a file, memory-mapped for reading."""
    path = folder / "vectors.f32"
    unit(count, dim, seed=0).tofile(path)
    return np.memmap(path, np.float32, "r", shape=(count, dim))


def product_of(q: np.ndarray, keys: np.ndarray) -> Callable[[], object]:
    """All scores, block by block where they would not fit, and thrown away."""
    queries, candidates = torch.from_numpy(q), torch.from_numpy(np.array(keys))
    if len(q) == 1:
        out = torch.empty(len(keys))
        return lambda: torch.mv(candidates, queries[0], out=out)
    rows = min(len(q), BLOCK)
    out = torch.empty(rows * len(keys))

    def run() -> None:
        for start in range(0, len(q), rows):
            part = queries[start : start + rows]
            torch.mm(part, candidates.T, out=out[: len(part) * len(keys)].view(len(part), -1))

    return run


def faiss_index(keys: np.ndarray) -> object:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(keys.shape[1])
    index.add(np.array(keys))
    return index


def check_search(q: np.ndarray, keys: np.ndarray) -> None:
    """The rows of the first queries are those of float64."""
    few = q[:3].astype(np.float64)
    expected = np.argsort(-(few @ np.array(keys).astype(np.float64).T), axis=1, kind="stable")[:, :TOP]
    if (exact_search(q, keys, TOP)[1][:3] != expected).any():
        raise SystemExit("search differs from float64: not timed")


def check_ranks(q: torch.Tensor, keys: torch.Tensor) -> None:
    few = 3
    scores = q[:few].double() @ keys.double().T
    expected = (scores > scores[torch.arange(few), torch.arange(few), None]).sum(1)
    own = torch.arange(len(keys))
    if (rank(q[:few], keys, own[:few], own).better != expected.numpy()).any():
        raise SystemExit("ranks differ from float64: not timed")


def in_a_process(case: Case) -> int:
    command = [sys.executable, __file__, "--memory", *map(str, case)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def grown(task: str, queries: int, count: int, dim: int) -> int:
    """Bytes by which a search or a ranking makes the process grow; the pages of the mapped file are the system's."""
    q = unit(queries, dim, seed=1)
    if task == "ranks":
        vectors, own = torch.from_numpy(q), torch.arange(count)
        rank(vectors[:64], vectors[:64], own[:64], own[:64])
        return peak_of(lambda: rank(vectors, vectors, own, own))
    with tempfile.TemporaryDirectory() as folder:
        keys = mapped(Path(folder), count, dim)
        exact_search(q, keys[:64], TOP)
        pages = keys.nbytes
        return peak_of(lambda: exact_search(q, keys, TOP)) - pages


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
    lines += ["", "| task | memory, MiB |", "|:--|--:|"]
    lines += [f"| {named(row['case'])} | {row['bytes'] / 2**20:.0f} |" for row in report["memory"]]
    return "\n".join([*lines, "", f"    {report['command']}", ""])


def named(case: list) -> str:
    task, queries, count, dim = case
    if task == "ranks":
        return f"ranks of {queries:,} among {count:,} x {dim}"
    return f"search of {queries:,} in {count:,} x {dim}"


if __name__ == "__main__":
    main()
