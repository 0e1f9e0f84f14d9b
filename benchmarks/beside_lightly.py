"""SimCLR, MoCo and BYOL beside lightly's: the same tower, weights, views and steps, each written as its library's
examples write it. Runs in the comparison environment, which `make compare` makes.

    OMP_NUM_THREADS=1 .venv-compare/bin/python benchmarks/beside_lightly.py

The views are made before, so that what is timed is the method: towers, loss, slow copy, queue and optimiser. Batch norm
sees each view by itself in both.

What is measured was settled before any of it was: each library trains in a process of its own, so that neither works in
the memory that the other left, both with the settings of `nearfar.machine.prepare`. They take turns in blocks of 4
steps, and the first one changes; what one block takes of the processor and of the clock is divided by what the same
block takes of the other, for 60 blocks of each of 3 seeds, after 8 steps that do not count. The figure is the median of
these 180 quotients, and its 95 % interval that of 10,000 samples of the blocks with replacement: on a quiet machine
within 1 % to both sides, so that it tells 2 %. A method is ahead where the interval is above 1, behind where it is
below, and level where it holds 1.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import time
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from _shim import import_torchvision
from nearfar import files, machine
from nearfar.data import Loader, world
from nearfar.data.batches.data_info import DataInfo
from nearfar.evaluation import embed, knn
from nearfar.methods import find
from nearfar.models import image_encoder
from nearfar.models.image.projector import MLP

RECORD = Path(__file__).parent / "results" / "beside_lightly.json"
TEMPERATURE, QUEUE, MOMENTUM, HIDDEN, OUT = 0.2, 1024, 0.98, 256, 64
WARM_UP, BLOCK, SAMPLES = 8, 4, 10_000
VIEWS = {"simclr": "simclr-half", "moco": "simclr-half", "byol": "byol-half"}
LIBRARIES = ("nearfar", "lightly")
CLOCKS = ("cpu_s", "wall_s")
Step = Callable[[Tensor], Tensor]
Blocks = dict[str, dict[str, list[float]]]
"""Seconds of each block, by library and clock."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(VIEWS), choices=list(VIEWS))
    parser.add_argument("--blocks", type=int, default=60, help=f"of {BLOCK} steps, of each seed")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=RECORD)
    args = parser.parse_args()
    machine.prepare()  # what the processes of both libraries inherit
    for name in args.methods:
        record = joined(args.output, compared(name, args))
        record |= {"blocks": args.blocks, "steps_a_block": BLOCK, "warm_up": WARM_UP, "batch": args.batch}
        record |= {"torch": torch.__version__, "lightly": version("lightly")}
        files.write(args.output, json.dumps(record, indent=1) + "\n")
        files.write(args.output.with_suffix(".md"), as_markdown(record))
    print(as_markdown(record))


def compared(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """The quotients of all blocks, images a second of each block, and the neighbours' accuracy of each seed."""
    images: dict[str, list[float]] = {library: [] for library in LIBRARIES}
    quotients: dict[str, list[float]] = {clock: [] for clock in CLOCKS}
    accuracy: dict[str, list[float]] = {library: [] for library in LIBRARIES}
    for seed in args.seeds:
        taken, hits = in_turn(name, args.blocks, args.batch, seed)
        for library in LIBRARIES:
            images[library] += [BLOCK * args.batch / seconds for seconds in taken[library]["cpu_s"]]
            accuracy[library].append(hits[library])
        for clock in CLOCKS:
            pairs = zip(taken["lightly"][clock], taken["nearfar"][clock], strict=True)
            quotients[clock] += [theirs / ours for theirs, ours in pairs]
    row = {"method": name, "seeds": args.seeds, "knn": accuracy}
    row["images_per_cpu_s"] = {library: median(rates) for library, rates in images.items()}
    for clock, values in quotients.items():
        low, high = interval(values)
        row[f"{clock}_to_lightly"] = {"median": median(values), "low": low, "high": high, "blocks": values}
    return row


def in_turn(name: str, blocks: int, batch: int, seed: int) -> tuple[Blocks, dict[str, float]]:
    """What each block took of each library, each in its process, and the accuracy of each after all blocks."""
    context = multiprocessing.get_context("spawn")
    ends: dict[str, Connection] = {}
    for library in LIBRARIES:
        ends[library], other = context.Pipe()
        arguments = (other, library, name, blocks, batch, seed)
        context.Process(target=train, args=arguments, daemon=True).start()
        other.close()  # so that the end of the process ends the wait for it
    for end in ends.values():
        end.recv()  # it is ready
    taken: Blocks = {library: {clock: [] for clock in CLOCKS} for library in LIBRARIES}
    for place in range(blocks):
        for library in LIBRARIES if place % 2 else reversed(LIBRARIES):
            ends[library].send(None)
            for clock, seconds in zip(CLOCKS, ends[library].recv(), strict=True):
                taken[library][clock].append(seconds)
    return taken, {library: end.recv() for library, end in ends.items()}


def train(turn: Connection, library: str, name: str, blocks: int, batch: int, seed: int) -> None:
    """The process of a library: a block of steps whenever it is its turn, then the neighbours' accuracy."""
    import_torchvision()  # before transformers looks for it
    torch.set_num_threads(1)
    batches = iter(views(name, WARM_UP + blocks * BLOCK, batch, seed))
    model, step = learner(library, name, seed, WARM_UP + blocks * BLOCK)
    for _ in range(WARM_UP):
        step(next(batches))
    turn.send(None)
    for _ in range(blocks):
        turn.recv()
        processor, clock = time.process_time(), time.perf_counter()
        for _ in range(BLOCK):
            step(next(batches))
        turn.send((time.process_time() - processor, time.perf_counter() - clock))
    turn.send(knn(embed(model.eval(), world.emoji("val", tags=False), captions=0))["top1"])


def interval(values: list[float]) -> tuple[float, float]:
    """95 % of the medians of samples of the values, drawn with replacement."""
    drawn = np.random.default_rng(0).integers(len(values), size=(SAMPLES, len(values)))
    low, high = np.quantile(np.median(np.asarray(values)[drawn], axis=1), [0.025, 0.975])
    return float(low), float(high)


def joined(path: Path, row: dict[str, Any]) -> dict[str, Any]:
    """The record with a method's row in its place, and without rows of an earlier form."""
    record = json.loads(path.read_text()) if path.is_file() else {"rows": []}
    rows = [other for other in record["rows"] if other["method"] != row["method"] and other.keys() == row.keys()] + [
        row
    ]
    return {**record, "rows": sorted(rows, key=lambda each: list(VIEWS).index(each["method"]))}


def views(name: str, steps: int, batch: int, seed: int) -> list[Tensor]:
    """So many batches of two views `[2, B, 3, 32, 32]` of training emojis."""
    loader = Loader(world.emoji("train"), batch_size=batch, views=VIEWS[name], n_views=2, image_size=32, seed=seed)
    made: list[Tensor] = []
    while len(made) < steps:
        for one in loader:
            made.append(one["views"])
            if len(made) == steps:
                break
    return made


def learner(library: str, name: str, seed: int, steps: int) -> tuple[Any, Step]:
    """A model of the seed's weights, and what takes a step of a method on two views and returns the loss."""
    torch.manual_seed(seed)
    norm = "hidden" if name == "byol" else "none"
    model = image_encoder("micro-resnet", projector={"layers": 2, "hidden": HIDDEN, "out": OUT, "norm": norm})
    predictor = MLP(OUT, layers=2, hidden=HIDDEN, out=OUT, norm="hidden")
    model.train()
    made = _nearfar(name, model, predictor, steps) if library == "nearfar" else _lightly(name, model, predictor, steps)
    return model, made


def _nearfar(name: str, model: Any, predictor: MLP, steps: int) -> Step:
    settings: dict[str, Any] = {
        "simclr": {"temperature": TEMPERATURE, "normalise": "apart"},
        "moco": {"temperature": TEMPERATURE, "momentum": MOMENTUM, "queue_size": QUEUE},
        "byol": {"momentum": MOMENTUM, "predictor_hidden": HIDDEN},
    }[name]
    method = find(name)(model, **settings)
    if name == "byol":
        method.predictor.load_state_dict(predictor.state_dict())
    method.begin(DataInfo(steps=steps))
    method.train()
    optimizer = torch.optim.AdamW([weight for weight in method.parameters() if weight.requires_grad], lr=2e-3)
    count = 0

    def step(batch: Tensor) -> Tensor:
        nonlocal count
        method.before_step()
        optimizer.zero_grad()
        loss = method({"views": batch})["loss"]
        loss.backward()
        optimizer.step()
        count += 1
        method.after_step(count)
        return loss.detach()

    return step


def _lightly(name: str, model: Any, predictor: MLP, steps: int) -> Step:
    from lightly.loss import NegativeCosineSimilarity, NTXentLoss
    from lightly.models.utils import deactivate_requires_grad, update_momentum
    from lightly.utils.scheduler import cosine_schedule

    slow = copy.deepcopy(model)
    deactivate_requires_grad(slow)
    bank = (QUEUE, OUT) if name == "moco" else 0
    contrast, cosine = NTXentLoss(temperature=TEMPERATURE, memory_bank_size=bank), NegativeCosineSimilarity()
    trained = [*model.parameters(), *(predictor.parameters() if name == "byol" else ())]
    optimizer = torch.optim.AdamW(trained, lr=2e-3)
    count = 0

    def loss_of(first: Tensor, second: Tensor) -> Tensor:
        if name == "simclr":
            return contrast(model.project_image(first), model.project_image(second))
        if name == "moco":
            return contrast(model.project_image(first), slow.project_image(second).detach())
        one, other = (predictor(model.project_image(view)) for view in (first, second))
        slow_one, slow_other = (slow.project_image(view).detach() for view in (first, second))
        return 0.5 * (cosine(one, slow_other) + cosine(other, slow_one))

    def step(batch: Tensor) -> Tensor:
        nonlocal count
        if name != "simclr":  # its examples move the slow copy first
            update_momentum(model, slow, cosine_schedule(count, steps, MOMENTUM, 1) if name == "byol" else MOMENTUM)
        loss = loss_of(*batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        count += 1
        return loss.detach()

    return step


def as_markdown(record: dict[str, Any]) -> str:
    lines = [
        f"{len(record['rows'][0]['seeds'])} seeds of {record['blocks']} blocks of {record['steps_a_block']} steps, "
        f"{record['batch']} pictures in two views, micro-resnet, float32, 1 thread, torch {record['torch']}, "
        f"lightly {record['lightly']}.",
        "",
        "| method | library | images a CPU second | to lightly, CPU | to lightly, clock | kNN on validation emojis |",
        "|:--|:--|--:|--:|--:|--:|",
    ]
    for row in record["rows"]:
        for library in LIBRARIES:
            beside = [quotient(row[f"{clock}_to_lightly"]) if library == "nearfar" else "1" for clock in CLOCKS]
            hits = row["knn"][library]
            lines.append(
                f"| {row['method']} | {library} | {row['images_per_cpu_s'][library]:.0f} | {' | '.join(beside)} | "
                f"{mean(hits):.3f} ({min(hits):.3f} to {max(hits):.3f}) |"
            )
    caption = "Median over blocks and its 95 % interval; of neighbours the mean over seeds, the lowest and the highest."
    return "\n".join([*lines, "", caption, "", "    .venv-compare/bin/python benchmarks/beside_lightly.py", ""])


def quotient(of_blocks: dict[str, Any]) -> str:
    return f"{of_blocks['median']:.3f} ({of_blocks['low']:.3f} to {of_blocks['high']:.3f})"


if __name__ == "__main__":
    main()
