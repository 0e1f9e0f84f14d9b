"""What a large index costs: take one item out, open it and commit nothing, extend it, write it anew, search it.

    .venv/bin/python benchmarks/index_changes.py                    # 200,000 items of 256 numbers

Each round changes the index in a process of its own, which has imported nearfar and pyarrow before the clock starts.
Memory is how far that process grows at most, without pages of mapped files. `compact` writes all files anew, which is
what a removal costs where rows may not stay behind; copying the vectors' file is what the disk takes for that alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from _measure import private_peak_of, spread
from nearfar import files

RESULTS = Path(__file__).parent / "results" / "index_changes.json"
COPY = "copy the vectors"
OPEN, EXTEND = "open and search", "extend by 1,000"
CHANGES = (OPEN, "remove one", "commit nothing", EXTEND, "compact", COPY)
MORE = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=200_000, help="items")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--change", nargs=3, metavar=("NAME", "INDEX", "KEY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.change:
        name, index, key = options.change
        print(json.dumps(changed(name, Path(index), key)))
        return
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        fill(index, options.count, options.dim)
        rounds = [
            {name: in_a_process(name, index, str(number)) for name in CHANGES} for number in range(options.rounds)
        ]
    rows = [
        {"change": name, **{field: [each[name][field] for each in rounds] for field in ("cpu_s", "clock_s", "bytes")}}
        for name in CHANGES
    ]
    report = {
        "count": options.count,
        "dim": options.dim,
        "rounds": options.rounds,
        "load": os.getloadavg()[0],
        "command": "python benchmarks/index_changes.py" + "".join(f" {word}" for word in sys.argv[1:]),
        "rows": rows,
    }
    files.write(options.output, json.dumps(report, indent=1) + "\n")
    files.write(options.output.with_suffix(".md"), as_markdown(report))
    print(as_markdown(report))


def fill(index: Path, count: int, dim: int) -> None:
    """An index of drawn vectors, with a path and a caption for each."""
    from nearfar.search.index.writer import IndexWriter

    rng = np.random.default_rng(0)
    with IndexWriter.create(index, model="m", dim=dim, probe=[]) as writer:
        for number in range(count):
            vector = rng.standard_normal(dim, dtype=np.float32)
            writer.put(drawn_item(str(number)), vector / np.linalg.norm(vector))
        writer.commit(final=True)


def drawn_item(key: str) -> Any:
    """An item with a path and a caption."""
    from nearfar.search.index.items import Item

    path = f"/photos/{key[:3]}/{key}.jpg"
    return Item(key=key, stamp=f"{key}:1", source="photos", row=-1, path=path, captions=(f"photo {key}",))


def changed(name: str, index: Path, key: str) -> dict[str, float]:
    """CPU seconds, seconds and bytes of one change of the index, and a check that it is true."""
    from nearfar.search.index.manifest import load_manifest
    from nearfar.search.index.stored_index import Index
    from nearfar.search.index.writer import IndexWriter

    small = index.parent / f"small {name} {key}"
    fill(small, 64, 8)  # whatever is imported late is imported now
    Index(small).remove(["1"])
    before = load_manifest(index)
    units = np.eye(before.dim, dtype=np.float32)

    def run() -> None:
        if name == COPY:
            shutil.copyfile(index / before.vectors, index.parent / "copy")
            return
        if name == OPEN:
            opened = Index(index)
            opened.hits(*(part[0] for part in opened.search(units[0])))
            return
        with IndexWriter.extend(index) as writer:
            if name == EXTEND:
                for number in range(MORE):
                    writer.put(drawn_item(f"{key}-{number}"), units[number % before.dim])
            if name == "remove one":
                writer.remove(key)
            writer.compact() if name == "compact" else writer.commit(final=True)

    times = {}

    def timed() -> None:
        cpu, clock = time.process_time(), time.perf_counter()
        run()
        times.update(cpu_s=time.process_time() - cpu, clock_s=time.perf_counter() - clock)

    grown = private_peak_of(timed)
    difference = {"remove one": -1, EXTEND: MORE}.get(name, 0)
    if load_manifest(index).held != before.held + difference:
        raise SystemExit(f"{name}: the index does not hold what it should: not recorded")
    return {**times, "bytes": grown}


def in_a_process(name: str, index: Path, key: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--change", name, str(index), key]
    values: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return values


def as_markdown(report: dict) -> str:
    lines = [
        "{count:,} items of {dim} numbers, {rounds} rounds, load average {load:.1f}.".format(**report),
        "",
        "| change | CPU seconds | seconds | memory, MiB |",
        "|:--|--:|--:|--:|",
    ]
    for row in report["rows"]:
        memory = spread([size / 2**20 for size in row["bytes"]])
        lines.append(f"| {row['change']} | {spread(row['cpu_s'])} | {spread(row['clock_s'])} | {memory} |")
    return "\n".join([*lines, "", f"    {report['command']}", ""])


if __name__ == "__main__":
    main()
