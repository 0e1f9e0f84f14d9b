"""The loss of iSogCLR as nearfar computes it, through `ops`, and the plain way, with the matrix of all pairs held.

    OMP_NUM_THREADS=1 python benchmarks/global_contrast.py            # 4,096 samples, D 256

Each sample has a temperature and a moving average of its own. Both forms run in turn within each round, forward and
backward, float32. Before that, loss and gradient of both are compared in float64, on fewer samples. Peak memory comes
from a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from _measure import interleave, peak_of
from nearfar.losses.functional import global_contrastive
from nearfar.losses.global_contrastive import SampleState
from nearfar.losses.individual_temperature import TemperatureRule

RESULTS = Path(__file__).parent / "results" / "global_contrast.json"
RULE, GAMMA = TemperatureRule(rho=0.3), 0.8
Loss = Callable[[Tensor, tuple[SampleState, ...]], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--memory", nargs=2, metavar=("SIDES", "VARIANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        sides, variant = int(options.memory[0]), options.memory[1]
        step(FORMS[variant], *inputs(64, options.dim, sides))  # what is set up once is not its memory
        data = inputs(options.batch, options.dim, sides)
        print(max(0, peak_of(lambda: step(FORMS[variant], *data))))
        return
    result = {
        "batch": options.batch,
        "dim": options.dim,
        "threads": options.threads,
        "rounds": options.rounds,
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
        "largest_relative_difference_float64": max(largest_difference(sides, options) for sides in SIDES),
        "command": "python benchmarks/global_contrast.py" + "".join(" " + word for word in sys.argv[1:]),
        "rows": [row for sides in SIDES for row in measured(sides, options)],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(as_markdown(result))
    print(as_markdown(result))


def measured(sides: int, options: argparse.Namespace) -> list[dict]:
    """One row for each variant: seconds, ratio to the plain form in the same round, extra memory."""
    data = inputs(options.batch, options.dim, sides)
    runs = {name: lambda run=run: step(run, *data) for name, run in FORMS.items()}
    rows = []
    for name, timing in interleave(runs, PLAIN, options.rounds).items():
        flags = {"--batch": options.batch, "--dim": options.dim, "--threads": options.threads}
        command = [sys.executable, __file__, *(str(word) for flag in flags.items() for word in flag)]
        done = subprocess.run(
            [*command, "--memory", str(sides), name],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
        )
        rows.append({"form": SIDES[sides], "variant": name, **asdict(timing), "extra_bytes": int(done.stdout)})
    return rows


def largest_difference(sides: int, options: argparse.Namespace) -> float:
    data = inputs(min(options.batch, 512), options.dim, sides, dtype=torch.float64)
    fast, slow = (step(run, *data) for run in FORMS.values())
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(fast, slow, strict=True))


def plain(views: Tensor, states: tuple[SampleState, ...]) -> Tensor:
    """The method's step as it is written down: the matrix of similarities, its exponentials and its weights."""
    a, b = normalize(views, dim=2)
    positive, n = (a * b).sum(1), len(a)
    if len(states) == 2:
        hidden = torch.eye(n, dtype=torch.bool)
        similarities = a @ b.T
        sides = [(similarities, positive, states[0]), (similarities.T, positive, states[1])]
    else:
        z, twice = torch.cat([a, b]), SampleState(*(value.repeat(2) for value in states[0]))
        hidden = torch.eye(n, dtype=torch.bool).repeat(2, 2)
        sides = [(z @ z.T, positive.repeat(2), twice)]
    terms = []
    for similarities, own, state in sides:
        h = similarities - own[:, None]
        logits = (h / state.temperature[:, None]).detach().masked_fill(hidden, -torch.inf)
        negatives = (~hidden).sum(1).to(h.dtype)
        log_g = logits.logsumexp(1) - negatives.log()
        log_s = torch.logaddexp(math.log1p(-GAMMA) + state.log_mean, math.log(GAMMA) + log_g)
        weights = (logits - log_s[:, None]).exp() / negatives[:, None]
        terms.append((weights * h).sum(1).mean() * (3 - len(states)))
        derivative = log_s + RULE.rho - (weights * logits.masked_fill(hidden, 0)).sum(1)
        RULE.step(state.temperature, state.slope, derivative)
    return torch.stack(terms).sum()


def fast(views: Tensor, states: tuple[SampleState, ...]) -> Tensor:
    return global_contrastive(*views, states, rule=RULE, gamma=GAMMA).loss


NEARFAR, PLAIN = "nearfar", "plain, all pairs held"
FORMS: dict[str, Loss] = {NEARFAR: fast, PLAIN: plain}
SIDES = {2: "two modalities", 1: "two views of one"}


def inputs(
    batch: int, dim: int, sides: int, *, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, tuple[SampleState, ...]]:
    """Views [2, N, D], each near its sample; of each side states that were met before."""
    g = torch.Generator().manual_seed(0)
    centre = torch.randn(batch, dim, generator=g, dtype=torch.float64)
    views = centre + torch.randn(2, batch, dim, generator=g, dtype=torch.float64)
    states = [
        SampleState(
            -4 + torch.randn(batch, generator=g, dtype=torch.float64),
            torch.ones(batch, dtype=torch.float64),
            0.05 + 0.3 * torch.rand(batch, generator=g, dtype=torch.float64),
            torch.zeros(batch, dtype=torch.float64),
        )
        for _ in range(sides)
    ]
    return views.to(dtype), tuple(SampleState(*(value.to(dtype) for value in state)) for state in states)


def step(loss: Loss, views: Tensor, states: tuple[SampleState, ...]) -> list[Tensor]:
    """The loss, and its gradient to the views."""
    views = views.detach().requires_grad_()
    value = loss(views, states)
    return [value.detach(), *torch.autograd.grad(value, [views])]


def as_markdown(result: dict) -> str:
    lines = [
        "{batch:,} samples, D {dim}; forward and backward, float32, {threads} thread(s), {rounds} rounds, "
        "torch {torch}, load average {load:.1f}. Largest relative difference of loss and gradients in float64: "
        "{largest_relative_difference_float64:.0e}.".format(**result),
        "",
        "| form | variant | CPU seconds | times the plain form | extra memory, MiB |",
        "|:--|:--|--:|--:|--:|",
    ]
    for row in result["rows"]:
        extra = row["extra_bytes"] / 2**20
        lines.append(
            f"| {row['form']} | {row['variant']} | {row['cpu_s']:.2f} | {row['cpu_ratio']:.2f} | {extra:.1f} |"
        )
    return "\n".join([*lines, "", f"    {result['command']}", ""])


if __name__ == "__main__":
    main()
