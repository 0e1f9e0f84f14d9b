"""How time and memory grow: symmetric InfoNCE from 1,024 to 65,536 pairs on one process and on two (the ring), beside
dense autograd while that fits; and steps of recipe `clip` on one process and on two, by the size of the batch.

    python benchmarks/scaling.py            # 10 minutes on two cores; also draws docs/assets/scaling.svg

One thread a process. Time is CPU seconds of all processes, the best of the rounds; memory is how far the process grows
at most. The slope is of a straight line through the logarithms, that of the loss from 4,096 pairs on: 2 for the square,
1 for linear.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from _measure import peak_of
from nearfar import files, ops, train
from nearfar.machine import give_back
from nearfar.training.recipe import load

RESULTS = Path(__file__).parent / "results" / "scaling.json"
FIGURE = Path(__file__).parents[1] / "docs" / "assets" / "scaling.svg"
SCALE, STRAIGHT_FROM = 20.0, 4096
ONE, TWO, DENSE = "nearfar, one process", "nearfar, two processes", "dense autograd"
COLOURS = {ONE: "#3b82c4", TWO: "#d9822b", DENSE: "#8b939c"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024 << step for step in range(7)])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--dense-up-to", type=int, default=16384)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="*", default=[64, 128, 256, 512])
    parser.add_argument("--steps", type=int, default=6, help="of training, after one that is not timed")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.NAME=VALUE", help="settings of the recipe")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    record: dict[str, Any] = {"dim": args.dim, "rounds": args.rounds, "steps": args.steps, "torch": torch.__version__}
    record["load"] = os.getloadavg()[0]
    sizes = {variant: [n for n in args.sizes if variant != DENSE or n <= args.dense_up_to] for variant in COLOURS}
    record["loss"] = [
        {"variant": variant, "size": size, **figures}
        for variant, processes in ((ONE, 1), (TWO, 2), (DENSE, 1))
        for size, figures in zip(
            sizes[variant], joined(loss_rank, processes, [(variant, n, args) for n in sizes[variant]]), strict=True
        )
    ]
    each = [joined(training_rank, processes, [(batch, args) for batch in args.batches]) for processes in (1, 2)]
    record["training"] = [
        {"processes": processes, "batch": batch, **figures}
        for batch, *both in zip(args.batches, *each, strict=True)
        for processes, figures in enumerate(both, start=1)
    ]
    files.write(args.output, json.dumps(record, indent=1) + "\n")
    files.write(args.output.with_suffix(".md"), as_markdown(record))
    draw(record, FIGURE if args.output.resolve() == RESULTS else args.output.with_suffix(".svg"))
    print(as_markdown(record))


def joined(
    work: Callable[..., dict[str, float]], processes: int, tasks: list[tuple[Any, ...]]
) -> list[dict[str, float]]:
    """What the processes took for each task together: CPU seconds added up, the longest on the clock, the largest of
    the memories."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (work, processes, folder, tasks), nprocs=processes)
        ranks = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(processes)]
    together = {"cpu_s": sum, "clock_s": max, "bytes": max}
    return [
        {name: join(one[name] for one in each) for name, join in together.items()} for each in zip(*ranks, strict=True)
    ]


def _rank(
    rank: int, work: Callable[..., dict[str, float]], processes: int, folder: str, tasks: list[tuple[Any, ...]]
) -> None:
    torch.set_num_threads(1)
    if processes > 1:
        store = dist.FileStore(str(Path(folder, "store")), processes)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    Path(folder, f"{rank}.json").write_text(json.dumps([work(*task) for task in tasks]))
    if processes > 1:
        dist.barrier()
        dist.destroy_process_group()


def loss_rank(variant: str, size: int, args: argparse.Namespace) -> dict[str, float]:
    """The best round of one forward and backward pass of this process's rows, and what memory the first takes."""

    def step() -> None:
        q, k = (side.clone().requires_grad_() for side in own)
        if variant == DENSE:
            logits, target = SCALE * q @ k.T, torch.arange(size)
            cross_entropy = torch.nn.functional.cross_entropy
            loss = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
        else:
            loss = ops.info_nce(q, k, SCALE, backend="ring" if variant == TWO else "auto")
        loss.backward()

    own = pairs(64, args.dim)
    step() if variant != DENSE else None  # what is set up once is not its memory
    own = pairs(size, args.dim)
    give_back()  # what the size before has freed would not grow again
    grown = peak_of(step)
    return {**timed(step, args.rounds), "bytes": grown}


def pairs(size: int, dim: int) -> tuple[Tensor, Tensor]:
    """This process's part of `size` pairs of unit rows."""
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    generator = torch.Generator().manual_seed(rank)
    q, k = (torch.randn(size // world, dim, generator=generator) for _ in range(2))
    return torch.nn.functional.normalize(q, dim=1), torch.nn.functional.normalize(q + k, dim=1)


def training_rank(batch: int, args: argparse.Namespace) -> dict[str, float]:
    """A step of recipe `clip` on batches that were made before, on average."""
    fixed = ["training.workers=0", "data.validation=null", f"training.batch_size={batch}"]
    recipe = load("clip", [*fixed, *args.set])
    built = recipe.build()
    batches = list(islice(iter(built.loader), args.steps + 1))
    settings: dict[str, Any] = {"chunk": recipe.training.chunk, "progress": False, "report": False}
    train(built.method, batches[:1], steps=1, **settings)
    taken = timed(lambda: train(built.method, batches[1:], steps=args.steps, **settings), 1)
    return {name: seconds / args.steps for name, seconds in taken.items()} | {"bytes": 0}


def timed(run: Callable[[], object], rounds: int) -> dict[str, float]:
    """Seconds of the best round, of this process and on the clock."""
    spent = []
    for _ in range(rounds):
        if dist.is_initialized():
            dist.barrier()
        cpu, clock = time.process_time(), time.perf_counter()
        run()
        spent.append((time.process_time() - cpu, time.perf_counter() - clock))
    return {"cpu_s": min(cpu for cpu, _ in spent), "clock_s": min(clock for _, clock in spent)}


def slope(rows: list[dict[str, Any]], name: str, size: str = "size", least: int = STRAIGHT_FROM) -> float | None:
    """Of the logarithm of a figure over that of the size, by least squares, from the size `least` on; None of fewer
    than two sizes."""
    straight = [row for row in rows if row[size] >= least and row[name] > 0]
    if len(straight) < 2:
        return None
    return float(np.polyfit(*(np.log([row[key] for row in straight]) for key in (size, name)), 1)[0])


def draw(record: dict[str, Any], path: Path) -> None:
    """Time and memory of the loss over the number of pairs, and the time of a training step over the batch, on
    logarithmic axes, as an SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    grey = "#7c8590"  # readable on a light and on a dark page
    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), grey)
    with rc_context({**ink, "svg.hashsalt": "scaling", "font.size": 9}):
        figure = Figure(figsize=(11, 3.4), layout="constrained")
        figure.patch.set_alpha(0)
        panels = figure.subplots(1, 3)
        for axes in panels:
            axes.patch.set_alpha(0)
        titles = ("CPU seconds of all", "memory of a process, MiB")
        for axes, name, title, unit in zip(panels[:2], ("cpu_s", "bytes"), titles, (1, 2**20), strict=True):
            for variant, colour in COLOURS.items():
                rows = [row for row in record["loss"] if row["variant"] == variant]
                axes.loglog(*([row["size"] for row in rows], [row[name] / unit for row in rows]), "o-", color=colour)
            axes.set(title=title, xlabel="pairs")
        panels[0].legend(list(COLOURS), frameon=False)
        for processes, variant in enumerate((ONE, TWO), start=1):
            rows = [row for row in record["training"] if row["processes"] == processes]
            for name, line in (("cpu_s", "o-"), ("clock_s", "o--")):
                panels[2].loglog(*([row[key] for row in rows] for key in ("batch", name)), line, color=COLOURS[variant])
        panels[2].set(title="a training step, CPU seconds of all\n(dashed: on the clock)", xlabel="batch")
        panels[2].xaxis.set_minor_locator(NullLocator())
        batches = sorted({row["batch"] for row in record["training"]})
        panels[2].set_xticks(batches, [str(batch) for batch in batches])
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def as_markdown(record: dict[str, Any]) -> str:
    lines = [
        "Symmetric InfoNCE, D {dim}, float32, one thread a process, best of {rounds} rounds, torch {torch}, load "
        "average {load:.1f}.".format(**record),
        "",
        "| variant | pairs | CPU seconds of all | memory of a process, MiB |",
        "|:--|--:|--:|--:|",
    ]
    for variant in COLOURS:
        rows = [row for row in record["loss"] if row["variant"] == variant]
        lines += [f"| {variant} | {r['size']:,} | {r['cpu_s']:.3g} | {r['bytes'] / 2**20:,.0f} |" for r in rows]
        slopes = [slope(rows, name) for name in ("cpu_s", "bytes")]
        if None not in slopes:
            lines.append(f"| {variant} | slope | {slopes[0]:.2f} | {slopes[1]:.2f} |")
    lines += [
        "",
        f"A step of recipe `clip`, the mean of {record['steps']}.",
        "",
        "| batch | CPU seconds, one process | two, together | ratio | on the clock, one | two | ratio |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    both = record["training"][::2], record["training"][1::2]
    for one, two in zip(*both, strict=True):
        cells = [f"{a[n]:.2f} | {b[n]:.2f} | {b[n] / a[n]:.2f}" for n in ("cpu_s", "clock_s") for a, b in [(one, two)]]
        lines.append(f"| {one['batch']} | {cells[0]} | {cells[1]} |")
    slopes = [slope(rows, name, "batch", 1) for name in ("cpu_s", "clock_s") for rows in both]
    if None not in slopes:
        lines.append("| slope | {:.2f} | {:.2f} | | {:.2f} | {:.2f} | |".format(*slopes))
    return "\n".join([*lines, "", "    python benchmarks/scaling.py", ""])


if __name__ == "__main__":
    main()
