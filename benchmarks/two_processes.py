"""The loss of one batch over several processes, beside one process that holds the whole batch: CPU seconds of all
together. "each the whole batch" gathers the embeddings and computes all pairs on every process; "ring" is what
`nearfar.train` does on CPUs.

    .venv/bin/python benchmarks/two_processes.py

Every variant is checked first: loss and gradients are those of one process in float64. Then each round times one
forward and backward pass of every variant, the processes side by side, one thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from _measure import ratios, spread
from nearfar import files, ops

RESULTS = Path(__file__).parent / "results" / "two_processes.json"
SCALE = 20.0
WHOLE, EACH, RING = "one process", "each the whole batch", "ring"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 8192], help="pairs in the whole batch")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", type=int, default=1024, help="pairs of the comparison with float64")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (args, folder), nprocs=args.processes)
        ranks = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(args.processes)]
    rows = [row(size, [each[str(size)] for each in ranks]) for size in args.sizes]
    record = {
        "rounds": args.rounds,
        "dim": args.dim,
        "processes": args.processes,
        "torch": version("torch"),
        "load": os.getloadavg()[0],
        "rows": rows,
    }
    files.write(args.output, json.dumps(record, indent=1) + "\n")
    files.write(args.output.with_suffix(".md"), as_markdown(record))
    print(as_markdown(record))


def work(rank: int, args: argparse.Namespace, folder: str) -> None:
    """One process: check, then the CPU and clock seconds of each variant and round, by the size of the batch."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder, "store")), args.processes)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=args.processes)
    check(args.check, args.dim)
    seconds: dict[int, dict[str, list[list[float]]]] = {}
    for size in args.sizes:
        q, k = pairs(size, args.dim)
        for variant in (WHOLE, EACH, RING):
            step(variant, q, k)
        seconds[size] = {WHOLE: [], EACH: [], RING: []}
        for _ in range(args.rounds):
            for variant, rounds in seconds[size].items():
                dist.barrier()
                cpu, clock = time.process_time(), time.perf_counter()
                if variant != WHOLE or rank == 0:
                    step(variant, q, k)
                rounds.append([time.process_time() - cpu, time.perf_counter() - clock])
    Path(folder, f"{rank}.json").write_text(json.dumps(seconds))
    dist.barrier()
    dist.destroy_process_group()


def pairs(size: int, dim: int) -> tuple[Tensor, Tensor]:
    """Unit rows `[size, dim]` of both sides, the same on every process."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(size, dim, generator=generator) for _ in range(2))
    return torch.nn.functional.normalize(q, dim=1), torch.nn.functional.normalize(q + k, dim=1)


def step(variant: str, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The loss as the mean over processes has it, and this process's rows of its gradient to both sides."""
    world, rank = dist.get_world_size(), dist.get_rank()
    if variant == RING:  # each process has its own rows, and no others
        q, k = (side.tensor_split(world)[rank].clone() for side in (q, k))
    q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
    loss = ops.info_nce(q, k, SCALE, backend="ring" if variant == RING else "auto")
    dq, dk = torch.autograd.grad(loss, (q, k))
    if variant == RING:
        return loss.detach(), dq / world, dk / world
    return loss.detach(), dq.tensor_split(world)[rank], dk.tensor_split(world)[rank]


def check(size: int, dim: int) -> None:
    """Stop unless every variant gives the loss and the gradients of float64."""
    q, k = pairs(size, dim)
    right = step(EACH, q.double(), k.double())
    for variant in (EACH, RING):
        loss, *gradients = step(variant, q, k)
        dist.all_reduce(loss)
        torch.testing.assert_close(loss / dist.get_world_size(), right[0].float(), rtol=1e-5, atol=1e-6)
        for actual, expected in zip(gradients, right[1:], strict=True):
            torch.testing.assert_close(actual, expected.float(), rtol=1e-4, atol=1e-8)


def row(size: int, ranks: list[dict[str, list[list[float]]]]) -> dict[str, Any]:
    """CPU seconds of all processes together, and the longest on the clock, of each round."""
    cpu, clock = {}, {}
    for variant in ranks[0]:
        rounds = list(zip(*(each[variant] for each in ranks), strict=True))
        cpu[variant] = [sum(spent for spent, _ in each[: 1 if variant == WHOLE else None]) for each in rounds]
        clock[variant] = [max(lasted for _, lasted in each) for each in rounds]
    return {"size": size, "cpu_s": cpu, "clock_s": clock}


def as_markdown(record: dict[str, Any]) -> str:
    lines = [
        "Symmetric InfoNCE, D {dim}, float32, {processes} processes of one thread, {rounds} rounds, torch {torch}, "
        "load average {load:.1f}.".format(**record),
        "",
        "| N | variant | CPU seconds of all | to one process, round by round | on the clock, to one process |",
        "|--:|:--|--:|--:|--:|",
    ]
    for each in record["rows"]:
        for variant, seconds in each["cpu_s"].items():
            cpu = spread(ratios(seconds, each["cpu_s"][WHOLE]))
            clock = spread(ratios(each["clock_s"][variant], each["clock_s"][WHOLE]))
            lines.append(f"| {each['size']:,} | {variant} | {median(seconds):.2f} | {cpu} | {clock} |")
    return "\n".join([*lines, "", "    python benchmarks/two_processes.py", ""])


if __name__ == "__main__":
    main()
