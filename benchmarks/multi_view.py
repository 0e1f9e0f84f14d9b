"""Losses of many views (MV-InfoNCE, MV-DHEL) as nearfar computes them, through `ops`, and the plain way, with all
similarities held: V N x V N for MV-InfoNCE, V of N x N for MV-DHEL.

    OMP_NUM_THREADS=1 python benchmarks/multi_view.py            # 2, 4 and 8 views of 4,096 samples, D 256

Both run in turn within each round, forward and backward, float32. Before that, loss and gradient of both are compared
in float64, on fewer samples. Peak memory comes from a process of its own. A plain form that would take more than
`--most` GiB is left out.
"""

from __future__ import annotations

import argparse
import json
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
from nearfar.losses.functional import mv_dhel, mv_info_nce

RESULTS = Path(__file__).parent / "results" / "multi_view.json"
TAU = 0.5
Loss = Callable[[Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--views", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser.add_argument("--most", type=float, default=12.0, help="GiB that a plain form may take")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--memory", nargs=2, metavar=("LOSS", "VARIANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        loss, variant = options.memory
        step(LOSSES[loss][variant], vectors(2, 64, options.dim))  # what is set up once is not its memory
        inputs = vectors(options.views[0], options.batch, options.dim)
        print(max(0, peak_of(lambda: step(LOSSES[loss][variant], inputs))))
        return
    load = os.getloadavg()[0]
    rows = [row for loss in LOSSES for views in options.views for row in measured(loss, views, options)]
    result = {
        "batch": options.batch,
        "dim": options.dim,
        "threads": options.threads,
        "rounds": options.rounds,
        "torch": torch.__version__,
        "load": load,
        "largest_relative_difference_float64": max(largest_difference(loss, options) for loss in LOSSES),
        "command": "python benchmarks/multi_view.py" + "".join(" " + word for word in sys.argv[1:]),
        "rows": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(as_markdown(result))
    print(as_markdown(result))


def measured(loss: str, views: int, options: argparse.Namespace) -> list[dict]:
    """One row for each variant: seconds, ratio to the plain form in the same round, extra memory."""
    matrices = views**2 if loss == "MV-InfoNCE" else views
    plain_fits = 6 * matrices * options.batch**2 * 4 <= options.most * 2**30  # what autograd holds of each
    variants = {name: run for name, run in LOSSES[loss].items() if name == NEARFAR or plain_fits}
    inputs = vectors(views, options.batch, options.dim)
    runs = {name: lambda run=run: step(run, inputs) for name, run in variants.items()}
    timings = interleave(runs, PLAIN if plain_fits else NEARFAR, options.rounds)
    rows = []
    for name in variants:
        flags = {"--views": views, "--batch": options.batch, "--dim": options.dim, "--threads": options.threads}
        command = [sys.executable, __file__, *(str(word) for flag in flags.items() for word in flag)]
        done = subprocess.run(
            [*command, "--memory", loss, name],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
        )
        timing = asdict(timings[name]) | ({} if plain_fits else {"cpu_ratio": None, "wall_ratio": None})
        rows.append({"loss": loss, "views": views, "variant": name, **timing, "extra_bytes": int(done.stdout)})
    return rows


def largest_difference(loss: str, options: argparse.Namespace) -> float:
    inputs = vectors(3, min(options.batch, 512), options.dim, dtype=torch.float64)
    fast, slow = (step(run, inputs) for run in LOSSES[loss].values())
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(fast, slow, strict=True))


def plain_info_nce(views: Tensor) -> Tensor:
    """The paper's formula, all V N x V N similarities at once."""
    v, n, _ = views.shape
    z = normalize(views, dim=-1).flatten(0, 1)
    s = z @ z.T / TAU
    view, sample = torch.arange(v).repeat_interleave(n), torch.arange(n).repeat(v)
    same_view = view[:, None] == view
    energy = s.masked_fill(same_view, -torch.inf).view(v, n, v * n).logsumexp((0, 2))
    positives = same_view | (sample[:, None] != sample)
    return (energy - s.masked_fill(positives, -torch.inf).view(v, n, v * n).logsumexp((0, 2))).mean()


def plain_dhel(views: Tensor) -> Tensor:
    """The authors' form by sums of logarithms: V of N x N similarities."""
    v, n, _ = views.shape
    z = normalize(views, dim=-1)
    within = (z @ z.mT / TAU).masked_fill(torch.eye(n, dtype=torch.bool), -torch.inf).logsumexp(2).sum(0)
    own = torch.einsum("lnd,mnd->nlm", z, z) / TAU
    upper = torch.ones(v, v, dtype=torch.bool).triu(1)
    return (within - own[:, upper].logsumexp(1)).mean()


NEARFAR, PLAIN = "nearfar", "plain, all similarities held"
LOSSES: dict[str, dict[str, Loss]] = {
    "MV-InfoNCE": {NEARFAR: lambda x: mv_info_nce(x, temperature=TAU), PLAIN: plain_info_nce},
    "MV-DHEL": {NEARFAR: lambda x: mv_dhel(x, temperature=TAU), PLAIN: plain_dhel},
}


def vectors(views: int, batch: int, dim: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """[V, N, D]: each view near its sample."""
    g = torch.Generator().manual_seed(0)
    centre = torch.randn(batch, dim, generator=g, dtype=torch.float64)
    return (centre + torch.randn(views, batch, dim, generator=g, dtype=torch.float64)).to(dtype)


def step(loss: Loss, inputs: Tensor) -> list[Tensor]:
    """The loss, and its gradient to the views."""
    views = inputs.detach().requires_grad_()
    value = loss(views)
    return [value.detach(), *torch.autograd.grad(value, [views])]


def as_markdown(result: dict) -> str:
    lines = [
        "{batch:,} samples, D {dim}; forward and backward, float32, {threads} thread(s), {rounds} rounds, "
        "torch {torch}, load average {load:.1f}. Largest relative difference of loss and gradients in float64: "
        "{largest_relative_difference_float64:.0e}.".format(**result),
        "",
        "| loss | views | variant | CPU seconds | times the plain form | extra memory, MiB |",
        "|:--|--:|:--|--:|--:|--:|",
    ]
    for row in result["rows"]:
        ratio = "-" if row["cpu_ratio"] is None else f"{row['cpu_ratio']:.2f}"
        extra = row["extra_bytes"] / 2**20
        lines.append(
            f"| {row['loss']} | {row['views']} | {row['variant']} | {row['cpu_s']:.2f} | {ratio} | {extra:.1f} |"
        )
    return "\n".join([*lines, "", f"    {result['command']}", ""])


if __name__ == "__main__":
    main()
