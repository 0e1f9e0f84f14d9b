"""Embedding by one and by two workers of a Ray cluster on this machine, one thread each, beside two plain processes.

    python benchmarks/embed_workers.py                    # needs `pip install "nearfar[ray]"`

Each round embeds the same blocks with one worker, with two, and with one and two plain processes that know nothing of
each other, which is what the machine allows just then. The rate is that of the last two thirds of the blocks, when all
workers have loaded the model. Every block is compared with that of one process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from _measure import spread
from nearfar import files

RESULTS = Path(__file__).parent / "results" / "embed_workers.json"
PLAIN = "plain processes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="minilm", help="a folder or a name, as `nearfar embed` takes it")
    parser.add_argument("--source", default="world/words")
    parser.add_argument("--block", type=int, default=64, help="records of a block")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--plain", nargs=2, type=int, metavar=("NUMBER", "OF"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        plain(options.out, *options.plain)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as scratch:
        reference = Path(scratch, "one process")
        embed(options, reference)
        rounds = [measured(options, Path(scratch, str(number)), reference) for number in range(options.rounds)]
    record = {
        "model": options.model,
        "source": options.source,
        "block": options.block,
        "blocks": rounds[0]["blocks"],
        "rounds": rounds,
        "load": os.getloadavg()[0],
        "cores": os.cpu_count(),
        "ray": version("ray"),
        "torch": version("torch"),
        "command": "python benchmarks/embed_workers.py" + "".join(f" {word}" for word in sys.argv[1:]),
    }
    files.write(options.output, json.dumps(record, indent=1) + "\n")
    files.write(options.output.with_suffix(".md"), as_markdown(record))
    print(as_markdown(record))


def embed(options: argparse.Namespace, out: Path, engine: Any = None) -> Any:
    import torch

    from nearfar.embedding.blocks.embed_blocks import embed_blocks, in_this_process

    torch.set_num_threads(1)
    settings = {"block": options.block, "batch_size": 32}
    return embed_blocks(options.model, options.source, out, engine=engine or in_this_process, **settings)


def measured(options: argparse.Namespace, folder: Path, reference: Path) -> dict[str, Any]:
    """Blocks a second of every variant."""
    from nearfar.embedding.blocks.ray_workers import RayWorkers

    rates: dict[str, Any] = {}
    for workers in (1, 2):
        stamps: list[float] = []

        def timed(job: Any, numbers: Any, workers: int = workers, stamps: list[float] = stamps) -> Any:
            for result in RayWorkers(workers=workers)(job, numbers):
                stamps.append(time.perf_counter())
                yield result

        out = folder / str(workers)
        rates["blocks"] = embed(options, out, timed).made
        check_equal(out, reference)
        rates[f"ray {workers}"] = rate([stamps])
        rates[f"{PLAIN} {workers}"] = rate(in_processes(options, reference, workers))
    return rates


def rate(stamps: Iterable[list[float]]) -> float:
    """Blocks a second after the first third of them."""
    times = sorted(time for each in stamps for time in each)
    first = len(times) // 3
    return (len(times) - 1 - first) / (times[-1] - times[first])


def in_processes(options: argparse.Namespace, reference: Path, count: int) -> list[list[float]]:
    """When each of the plain processes had a block ready; they begin together."""
    command = [sys.executable, __file__, "--out", str(reference), "--plain"]
    started = [
        subprocess.Popen([*command, str(i), str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for i in range(count)
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [json.loads(process.communicate()[0]) for process in started]


def plain(reference: Path, number: int, count: int) -> None:
    """Every `count`th block, from `number`, as one of several processes makes it."""
    import torch

    from nearfar.embedding.blocks.block_folder import MadeOf
    from nearfar.embedding.blocks.embed_blocks import BlockEmbedder, EmbedJob

    torch.set_num_threads(1)
    made_of = MadeOf.load(reference)
    with tempfile.TemporaryDirectory() as out:
        work = BlockEmbedder(EmbedJob(made_of, out))
        print("ready", flush=True)
        sys.stdin.readline()
        stamps = []
        for block in range(number, len(made_of.plan), count):
            work(block)
            stamps.append(time.perf_counter())
    print(json.dumps(stamps))


def check_equal(out: Path, reference: Path) -> None:
    """Stop where any block is not that of one process, to the bit."""
    for path in sorted(reference.glob("block-*")):
        if path.read_bytes() != (out / path.name).read_bytes():
            raise SystemExit(f"{path.name} differs from that of one process: not recorded")


def as_markdown(record: dict[str, Any]) -> str:
    rounds = record["rounds"]
    lines = [
        f"`{record['model']}` over `{record['source']}`, {record['blocks']} blocks of {record['block']} records, "
        f"one thread a worker, {len(rounds)} rounds on {record['cores']} cores, Ray {record['ray']}, torch "
        f"{record['torch']}, load average {record['load']:.1f}; every block equal to that of one process to the bit.",
        "",
        "| carried by | one, blocks a second | two | two to one |",
        "|:--|--:|--:|--:|",
    ]
    for name, called in ((PLAIN, "plain processes, what the machine allows"), ("ray", "workers of a Ray cluster")):
        one, two = ([each[f"{name} {count}"] for each in rounds] for count in (1, 2))
        ratios = [b / a for a, b in zip(one, two, strict=True)]
        lines.append(f"| {called} | {median(one):.2f} | {median(two):.2f} | {spread(ratios)} |")
    return "\n".join([*lines, "", f"    {record['command']}"]) + "\n"


if __name__ == "__main__":
    main()
