"""SimCLR, MoCo and BYOL beside lightly's: the same tower, weights, views and steps, each written as its library's
examples write it. Runs in the comparison environment, which `make compare` makes.

    OMP_NUM_THREADS=1 .venv-compare/bin/python benchmarks/beside_lightly.py

Steps of both libraries are interleaved. The views are made before, once for both, so that what is timed is the method:
towers, loss, slow copy, queue and optimiser. Batch norm sees each view by itself in both.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor

from _shim import import_torchvision
from nearfar import files
from nearfar.data import Loader, world
from nearfar.data.batches.data_info import DataInfo
from nearfar.evaluation import embed, knn
from nearfar.methods import find
from nearfar.models import image_encoder
from nearfar.models.image.projector import MLP

RECORD = Path(__file__).parent / "results" / "beside_lightly.json"
TEMPERATURE, QUEUE, MOMENTUM, HIDDEN, OUT = 0.2, 1024, 0.98, 256, 64
VIEWS = {"simclr": "simclr-half", "moco": "simclr-half", "byol": "byol-half"}
LIBRARIES = ("nearfar", "lightly")
Step = Callable[[Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(VIEWS), choices=list(VIEWS))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=RECORD)
    args = parser.parse_args()
    import_torchvision()  # before transformers looks for it
    torch.set_num_threads(1)
    for name in args.methods:
        record = joined(args.output, compared(name, args))
        record |= {"steps": args.steps, "batch": args.batch, "torch": torch.__version__, "lightly": version("lightly")}
        files.write(args.output, json.dumps(record, indent=1) + "\n")
        files.write(args.output.with_suffix(".md"), as_markdown(record))
    print(as_markdown(record))


def compared(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Images a CPU second of each round, and the neighbours' accuracy of each seed, of both libraries."""
    images_per_s: dict[str, list[float]] = {library: [] for library in LIBRARIES}
    accuracy: dict[str, list[float]] = {library: [] for library in LIBRARIES}
    for seed in args.seeds:
        batches = views(name, args.steps, args.batch, seed)
        made = {library: learner(library, name, seed, args.steps) for library in LIBRARIES}
        spent = dict.fromkeys(LIBRARIES, 0.0)
        for place, batch in enumerate(batches):  # each step of one, then the same of the other; the first one changes
            for library in LIBRARIES if place % 2 else reversed(LIBRARIES):
                began = time.process_time()
                made[library][1](batch)
                spent[library] += time.process_time() - began
        for library, (model, _) in made.items():
            images_per_s[library].append(len(batches) * args.batch / spent[library])
            embedded = embed(model.eval(), world.emoji("val", tags=False), captions=0)
            accuracy[library].append(knn(embedded)["top1"])
    return {"method": name, "seeds": args.seeds, "images_per_cpu_s": images_per_s, "knn": accuracy}


def joined(path: Path, row: dict[str, Any]) -> dict[str, Any]:
    """The record with a method's row in its place."""
    record = json.loads(path.read_text()) if path.is_file() else {"rows": []}
    rows = [other for other in record["rows"] if other["method"] != row["method"]] + [row]
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
        f"{record['steps']} steps of {record['batch']} pictures in two views, micro-resnet, float32, 1 thread, "
        f"torch {record['torch']}, lightly {record['lightly']}.",
        "",
        "| method | library | seeds | images a CPU second | to lightly, seed by seed | kNN on validation emojis |",
        "|:--|:--|--:|--:|--:|--:|",
    ]
    for row in record["rows"]:
        rates, accuracy = row["images_per_cpu_s"], row["knn"]
        ratio = [a / b for a, b in zip(rates["nearfar"], rates["lightly"], strict=True)]
        for library in LIBRARIES:
            beside = f"{median(ratio):.2f} ({min(ratio):.2f} to {max(ratio):.2f})" if library == "nearfar" else "1"
            hits = accuracy[library]
            lines.append(
                f"| {row['method']} | {library} | {len(row['seeds'])} | {median(rates[library]):.0f} | {beside} | "
                f"{mean(hits):.3f} ({min(hits):.3f} to {max(hits):.3f}) |"
            )
    return "\n".join([*lines, "", "    .venv-compare/bin/python benchmarks/beside_lightly.py", ""])


if __name__ == "__main__":
    main()
