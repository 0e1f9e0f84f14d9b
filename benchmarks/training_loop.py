"""The training loop on recipe `clip` beside a bare loop on the same batches: the whole batch forward, backward, a step.

    .venv/bin/python benchmarks/training_loop.py

Batches are made before, once for all, so that what is timed is the loop: gradients, clipping, optimiser, log. The
recipe embeds in chunks. All run in turn within each round, from the same weights; before that the gradient of a batch
by chunks is compared with that of the whole batch in float64.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from _measure import interleave, ratios, spread
from nearfar import files, train
from nearfar.training.loop.gradients import KeptGraphs, backward
from nearfar.training.recipe import load

RESULTS = Path(__file__).parent / "results" / "training_loop.json"
MOST_OFF = 1e-4
"""The difference of the gradient in float32, through all layers, from that in float64, by their norms."""
BARE, OURS, ONE = "bare loop", "nearfar", "nearfar, one chunk's graph kept"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.NAME=VALUE", help="settings of the recipe")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = load("clip", ["training.workers=0", "data.validation=null", *options.set])
    config, built = recipe.training, recipe.build()
    batches = list(islice(built.loader, options.steps))
    check(built.method, batches[0], config.chunk)
    runs = {
        BARE: lambda: bare(copy.deepcopy(built.method), batches, config),
        OURS: lambda: ours(copy.deepcopy(built.method), batches, config),
        ONE: lambda: with_one_graph(copy.deepcopy(built.method), batches, config),
    }
    timings = interleave(runs, BARE, options.rounds)
    report = {
        "steps": options.steps,
        "batch": len(batches[0]["index"]),
        "chunk": config.chunk,
        "threads": options.threads,
        "rounds": options.rounds,
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
        "command": "python benchmarks/training_loop.py" + "".join(f" {word}" for word in sys.argv[1:]),
        "rows": [
            {
                "variant": name,
                "cpu_s": timing.cpu_s,
                "cpu": ratios(timing.cpu_rounds, timings[BARE].cpu_rounds),
                "clock": ratios(timing.wall_rounds, timings[BARE].wall_rounds),
            }
            for name, timing in timings.items()
        ],
    }
    files.write(options.output, json.dumps(report, indent=1) + "\n")
    files.write(options.output.with_suffix(".md"), as_markdown(report))
    print(as_markdown(report))


def check(method: Any, batch: Any, chunk: int | None) -> None:
    """Stop unless chunks, kept and embedded twice, give the gradient of the whole batch in float64."""
    exact = copy.deepcopy(method).eval().double()
    exact(
        {
            name: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
            for name, value in batch.items()
        }
    )["loss"].backward()
    for budget in (0, 1 << 40):
        ours = copy.deepcopy(method).eval()
        graphs = KeptGraphs(budget)
        for _ in range(2):  # how large a graph is, the first one shows
            ours.zero_grad()
            backward(ours, batch, chunk=chunk, graphs=graphs)
        expected = whole_gradient(exact)
        off = float((whole_gradient(ours) - expected).norm() / expected.norm())
        if off > MOST_OFF:
            raise SystemExit(f"the gradient is off by {off:.1e} from float64: not timed")


def whole_gradient(method: Any) -> torch.Tensor:
    """That of all weights, as one vector in float64: of some, as the biases of attention's keys, it is nothing but
    rounding."""
    return torch.cat([p.grad.double().flatten() for p in method.parameters() if p.grad is not None])


def bare(method: Any, batches: list[Any], config: Any) -> None:
    """What one would write by hand."""
    parameters = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
    method.train()
    for batch in batches:
        loss = method(batch)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm or 1.0)
        optimizer.step()


def ours(method: Any, batches: list[Any], config: Any) -> None:
    train(method, batches, config=config, steps=len(batches), progress=False, report=False, epochs=1)


def with_one_graph(method: Any, batches: list[Any], config: Any) -> None:
    """As where the memory holds no more: every chunk but the last is embedded twice."""
    with mock.patch("nearfar.training.loop.gradients.free_memory", return_value=0):
        ours(method, batches, config)


def as_markdown(report: dict) -> str:
    lines = [
        "{steps} steps of {batch} pairs in chunks of {chunk}, {threads} thread(s), {rounds} rounds, torch {torch}, "
        "load average {load:.1f}.".format(**report),
        "",
        "| loop | CPU seconds | to the bare loop, CPU | on the clock |",
        "|:--|--:|--:|--:|",
    ]
    for row in report["rows"]:
        lines.append(f"| {row['variant']} | {row['cpu_s']:.1f} | {spread(row['cpu'])} | {spread(row['clock'])} |")
    return "\n".join([*lines, "", f"    {report['command']}", ""])


if __name__ == "__main__":
    main()
