"""SimCLR, MoCo and BYOL beside lightly's: the same tower, weights, views and steps, each written as its library's
examples write it. Runs in the comparison environment, which `make compare` makes.

    OMP_NUM_THREADS=1 .venv-compare/bin/python benchmarks/beside_lightly.py

The views are made before, so that what is timed is the method: towers, loss, slow copy, queue and optimiser. Batch norm
sees each view by itself in both.

Steps of nearfar are taken twice: by the optimiser that `nearfar train` makes, torch's fused AdamW, and by the plain one
that lightly's examples make, which is `nearfar, plain optimiser`: there the methods alone differ.

What is measured was settled before any of it was: each learner trains in a process of its own, so that none works in
the memory that another left, all with the settings of `nearfar.machine.prepare`. They take turns in blocks of 4 steps,
and the first one changes; what one block takes of lightly is divided by what the same block takes of nearfar, for 30
blocks of each of 8 seeds, after 8 steps that do not count. Processes differ by one to two percent from the first step
to the last, where their memory happens to lie; so each seed counts once, as the median of its blocks, and the figure is
the mean of these 8 with its 95 % interval by Student's t. A method is ahead where the interval is above 1, behind where
it is below, and level where it holds 1.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor

from _shim import import_torchvision
from nearfar import files, machine
from nearfar.data import Loader, world
from nearfar.data.batches.data_info import DataInfo
from nearfar.evaluation import embed, knn
from nearfar.methods import find
from nearfar.models import image_encoder
from nearfar.models.image.projector import MLP
from nearfar.training.config import TrainConfig
from nearfar.training.loop.optim import build_optimizer

RECORD = Path(__file__).parent / "results" / "beside_lightly.json"
TEMPERATURE, QUEUE, MOMENTUM, HIDDEN, OUT = 0.2, 1024, 0.98, 256, 64
RATE, DECAY, BETAS = 2e-3, 0.01, (0.9, 0.999)  # the last two as in torch
WARM_UP, BLOCK = 8, 4
VIEWS = {"simclr": "simclr-half", "moco": "simclr-half", "byol": "byol-half"}
PLAIN = "nearfar, plain optimiser"
LEARNERS = ("nearfar", PLAIN, "lightly")
CLOCKS = ("cpu_s", "wall_s")
Step = Callable[[Tensor], Tensor]
Blocks = dict[str, dict[str, list[float]]]
"""Seconds of each block, by learner and clock."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(VIEWS), choices=list(VIEWS))
    parser.add_argument("--blocks", type=int, default=30, help=f"of {BLOCK} steps, of each seed")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(8)))
    parser.add_argument("--output", type=Path, default=RECORD)
    args = parser.parse_args()
    load = os.getloadavg()[0]
    machine.prepare()  # what the processes of both libraries inherit
    for name in args.methods:
        record = joined(args.output, compared(name, args))
        record |= {"blocks": args.blocks, "steps_a_block": BLOCK, "warm_up": WARM_UP, "batch": args.batch}
        record |= {"torch": torch.__version__, "lightly": version("lightly"), "load": load}
        files.write(args.output, json.dumps(record, indent=1) + "\n")
        files.write(args.output.with_suffix(".md"), as_markdown(record))
    print(as_markdown(record))


def compared(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """The quotients of all blocks, images a second of each block, and the neighbours' accuracy of each seed."""
    images: dict[str, list[float]] = {learner: [] for learner in LEARNERS}
    accuracy: dict[str, list[float]] = {learner: [] for learner in LEARNERS}
    quotients: dict[str, dict[str, list[list[float]]]] = {
        learner: {clock: [] for clock in CLOCKS} for learner in LEARNERS[:-1]
    }
    for seed in args.seeds:
        taken, hits = in_turn(name, args.blocks, args.batch, seed)
        for learner in LEARNERS:
            images[learner] += [BLOCK * args.batch / seconds for seconds in taken[learner]["cpu_s"]]
            accuracy[learner].append(hits[learner])
        for learner, clocks in quotients.items():
            for clock, seeds in clocks.items():
                pairs = zip(taken["lightly"][clock], taken[learner][clock], strict=True)
                seeds.append([theirs / ours for theirs, ours in pairs])
    row = {"method": name, "seeds": args.seeds, "knn": accuracy}
    row["images_per_cpu_s"] = {learner: median(rates) for learner, rates in images.items()}
    row["to_lightly"] = {
        learner: {clock: figure(seeds) for clock, seeds in clocks.items()} for learner, clocks in quotients.items()
    }
    return row


def in_turn(name: str, blocks: int, batch: int, seed: int) -> tuple[Blocks, dict[str, float]]:
    """What each block took of each learner, each in its process, and the accuracy of each after all blocks."""
    context = multiprocessing.get_context("spawn")
    ends: dict[str, Connection] = {}
    for learner in LEARNERS:
        ends[learner], other = context.Pipe()
        arguments = (other, learner, name, blocks, batch, seed)
        context.Process(target=train, args=arguments, daemon=True).start()
        other.close()  # so that the end of the process ends the wait for it
    for end in ends.values():
        end.recv()  # it is ready
    taken: Blocks = {learner: {clock: [] for clock in CLOCKS} for learner in LEARNERS}
    for place in range(blocks):
        first = place % len(LEARNERS)
        for learner in (*LEARNERS[first:], *LEARNERS[:first]):
            ends[learner].send(None)
            for clock, seconds in zip(CLOCKS, ends[learner].recv(), strict=True):
                taken[learner][clock].append(seconds)
    return taken, {learner: end.recv() for learner, end in ends.items()}


def train(turn: Connection, who: str, name: str, blocks: int, batch: int, seed: int) -> None:
    """The process of a learner: a block of steps whenever it is its turn, then the neighbours' accuracy."""
    import_torchvision()  # before transformers looks for it
    torch.set_num_threads(1)
    batches = iter(views(name, WARM_UP + blocks * BLOCK, batch, seed))
    model, step = learner(who, name, seed, WARM_UP + blocks * BLOCK)
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


def figure(seeds: list[list[float]]) -> dict[str, Any]:
    """The mean of the seeds' medians, and its 95 % interval by Student's t; of one seed alone there is none."""
    medians = [median(blocks) for blocks in seeds]
    middle, width = mean(medians), 0.0
    if len(seeds) > 1:
        width = float(student.ppf(0.975, len(seeds) - 1)) * stdev(medians) / len(seeds) ** 0.5
    return {"mean": middle, "low": middle - width, "high": middle + width, "blocks": seeds}


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


def learner(who: str, name: str, seed: int, steps: int) -> tuple[Any, Step]:
    """A model of the seed's weights, and what takes a step of a method on two views and returns the loss."""
    torch.manual_seed(seed)
    norm = "hidden" if name == "byol" else "none"
    model = image_encoder("micro-resnet", projector={"layers": 2, "hidden": HIDDEN, "out": OUT, "norm": norm})
    predictor = MLP(OUT, layers=2, hidden=HIDDEN, out=OUT, norm="hidden")
    model.train()
    if who == "lightly":
        return model, _lightly(name, model, predictor, steps)
    return model, _nearfar(name, model, predictor, steps, plain=who == PLAIN)


def _nearfar(name: str, model: Any, predictor: MLP, steps: int, plain: bool) -> Step:
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
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    optimizer = (
        torch.optim.AdamW(weights, lr=RATE, weight_decay=DECAY, betas=BETAS)
        if plain
        else build_optimizer(method, TrainConfig(lr=RATE, weight_decay=DECAY, betas=BETAS))
    )
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
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=DECAY, betas=BETAS)
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
        f"lightly {record['lightly']}, load average {record['load']:.1f}.",
        "",
        "| method | learner | images a CPU second | to lightly, CPU | to lightly, clock | kNN on validation emojis |",
        "|:--|:--|--:|--:|--:|--:|",
    ]
    for row in record["rows"]:
        for learner in LEARNERS:
            beside = [row["to_lightly"][learner][clock] for clock in CLOCKS] if learner != "lightly" else []
            cells = [quotient(each) for each in beside] or ["1"] * len(CLOCKS)
            hits = row["knn"][learner]
            lines.append(
                f"| {row['method']} | {learner} | {row['images_per_cpu_s'][learner]:.0f} | {' | '.join(cells)} | "
                f"{mean(hits):.3f} ({min(hits):.3f} to {max(hits):.3f}) |"
            )
    caption = (
        "Mean over the seeds' medians and its 95 % interval; of neighbours the mean over seeds, the lowest and the "
        "highest. The load average is that before the run."
    )
    return "\n".join([*lines, "", caption, "", "    .venv-compare/bin/python benchmarks/beside_lightly.py", ""])


def quotient(of_seeds: dict[str, Any]) -> str:
    return f"{of_seeds['mean']:.3f} ({of_seeds['low']:.3f} to {of_seeds['high']:.3f})"


if __name__ == "__main__":
    main()
