"""The kinds of index side by side: recall@10, bytes a vector, milliseconds a query, seconds to build.

    .venv/bin/python benchmarks/search_kinds.py                          # 10,000 vectors, some CPU minutes
    .venv/bin/python benchmarks/search_kinds.py --counts 10000 100000

The vectors are drawn: directions around 200 centres of falling spread, as embeddings of pictures lie, and the queries
are other ones of the same make. Recall is against exact search; a query's time is the CPU time of searching 200 queries
one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results" / "search_kinds.json"
TOP = 10


def main() -> None:
    from nearfar.search.kinds.graphs import KINDS, LEAST

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000], help="vectors")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    for count in options.counts:
        vectors, queries = drawn(count, options.dim, 0), drawn(options.queries, options.dim, 1)
        rows += [measure(kind, vectors, queries) for kind in options.kinds if count >= LEAST.get(kind, 0)]
    record = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "dim": options.dim, "rows": rows}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(table(record))
    print(table(record))


def drawn(count: int, dim: int, seed: int) -> np.ndarray:
    """Unit vectors `[count, dim]` around the same 200 centres; the spread falls from axis to axis."""
    spread = np.arange(1, dim + 1) ** -0.5
    centres = np.random.default_rng(7).standard_normal((200, dim)) * spread
    rng = np.random.default_rng([seed, count])
    vectors = centres[rng.integers(0, 200, count)] + rng.standard_normal((count, dim)) * spread
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def measure(kind: str, vectors: np.ndarray, queries: np.ndarray) -> dict[str, float | str]:
    """One kind over these vectors, as an index on disk."""
    from nearfar.search import Index, exact_search
    from nearfar.search.index.items import Item
    from nearfar.search.index.writer import IndexWriter

    with tempfile.TemporaryDirectory() as folder:
        with IndexWriter.create(folder, model="drawn", dim=vectors.shape[1], probe=[], kind=kind) as writer:
            for row, vector in enumerate(vectors):
                writer.put(Item(key=str(row), stamp="", source="drawn", row=-1), vector)
            started = time.process_time()
            writer.commit(final=True)
            built = time.process_time() - started
        index = Index(folder)
        index.search(queries[:1], TOP)
        started = time.process_time()
        rows = [index.search(query, TOP)[1][0] for query in queries]
        seconds = time.process_time() - started
        _, exact = exact_search(queries, vectors, TOP)
        shares = [len({*a.tolist()} & {*b.tolist()}) / TOP for a, b in zip(rows, exact, strict=True)]
        return {
            "vectors": len(vectors),
            "kind": kind,
            "recall": round(float(np.mean(shares)), 4),
            "recall_when_built": float(index.recall or 0),
            "bytes": index.bytes_per_vector,
            "ms": round(1000 * seconds / len(queries), 3),
            "build_s": round(built, 2),
        }


def table(record: dict) -> str:
    lines = [
        "| vectors | kind | recall@10 | printed when built | bytes a vector | CPU ms a query | CPU s to build |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['vectors']:,} | `{row['kind']}` | {row['recall']:.3f} | {row['recall_when_built']:.3f} "
        f"| {row['bytes']:,} | {row['ms']:.2f} | {row['build_s']:.1f} |"
        for row in record["rows"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
