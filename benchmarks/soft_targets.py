"""InfoNCE with a teacher's soft targets and a queue (ALBEF): as nearfar computes it, through `ops`, and the plain
way, with logits and targets of B x (B + Q) each.

    OMP_NUM_THREADS=1 python benchmarks/soft_targets.py            # batch 512, queue 65,536, D 256

Both run in turn within each round, forward and backward, float32, as one direction of the loss. Before that, loss and
gradient of both are compared in float64. Peak memory comes from a process of its own.
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
from torch.nn.functional import log_softmax, normalize

from _measure import interleave, peak_of
from nearfar.losses.functional import soft_target_info_nce

RESULTS = Path(__file__).parent / "results" / "soft_targets.json"
ALPHA = 0.4
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--queue", type=int, default=65536)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--memory", choices=list(VARIANTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = (options.batch, options.queue, options.dim)
    if options.memory:
        run = VARIANTS[options.memory]
        step(run, vectors(64, 256, options.dim))  # what is set up once is not its memory
        inputs = vectors(*size)
        print(max(0, peak_of(lambda: step(run, inputs))))
        return
    exact = [step(run, vectors(*size, dtype=torch.float64)) for run in VARIANTS.values()]
    gap = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*exact, strict=True))
    del exact
    inputs = vectors(*size)
    load = os.getloadavg()[0]
    runs = {name: lambda run=run: step(run, inputs) for name, run in VARIANTS.items()}
    timings = interleave(runs, PLAIN, options.rounds)
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    rows = []
    for name in VARIANTS:
        sizes = zip(("--batch", "--queue", "--dim", "--threads"), (*size, options.threads), strict=True)
        flags = [str(word) for pair in sizes for word in pair]
        command = [sys.executable, __file__, *flags, "--memory", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        rows.append({"variant": name, **asdict(timings[name]), "extra_bytes": int(done.stdout)})
    report = {
        "batch": options.batch,
        "queue": options.queue,
        "dim": options.dim,
        "alpha": ALPHA,
        "threads": options.threads,
        "rounds": options.rounds,
        "torch": torch.__version__,
        "load": load,
        "largest_relative_difference_float64": gap,
        "command": "python benchmarks/soft_targets.py" + "".join(" " + word for word in sys.argv[1:]),
        "rows": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(as_markdown(report))
    print(as_markdown(report))


def fused(q: Tensor, teacher_q: Tensor, k: Tensor, tau: Tensor) -> Tensor:
    return soft_target_info_nce(q, k, teacher_q=teacher_q, temperature=tau, alpha=ALPHA)


def plain(q: Tensor, teacher_q: Tensor, k: Tensor, tau: Tensor) -> Tensor:
    """As the papers write it: both matrices held."""
    q, teacher_q, k = (normalize(x, dim=1) for x in (q, teacher_q, k))
    with torch.no_grad():
        targets = ALPHA * (teacher_q @ k.T / tau).softmax(1)
        targets[:, : len(q)] += (1 - ALPHA) * torch.eye(len(q), dtype=q.dtype)
    return -(log_softmax(q @ k.T / tau, 1) * targets).sum(1).mean()


PLAIN = "plain, B x (B + Q) logits and targets"
VARIANTS: dict[str, Loss] = {"nearfar": fused, PLAIN: plain}


def vectors(batch: int, queue: int, dim: int, *, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Student queries, teacher queries, keys (the batch's, then the queue), tau. Each query is near its key."""
    g = torch.Generator().manual_seed(0)
    keys = normalize(torch.randn(batch + queue, dim, generator=g, dtype=torch.float64), dim=1)
    q, teacher = (keys[:batch] + torch.randn(batch, dim, generator=g, dtype=torch.float64) / 16 for _ in range(2))
    return [x.to(dtype) for x in (q, teacher, keys, torch.tensor(0.07, dtype=torch.float64))]


def step(loss: Loss, inputs: list[Tensor]) -> list[Tensor]:
    """The loss, and its gradient to the queries and tau."""
    q, teacher, k, tau = inputs
    q, tau = q.detach().requires_grad_(), tau.detach().requires_grad_()
    value = loss(q, teacher, k, tau)
    return [value.detach(), *torch.autograd.grad(value, [q, tau])]


def as_markdown(report: dict) -> str:
    lines = [
        "Batch {batch}, queue {queue:,}, D {dim}, alpha {alpha}; forward and backward of one direction, float32, "
        "{threads} thread(s), {rounds} rounds, torch {torch}, load average {load:.1f}. Largest relative difference of "
        "loss and gradients in float64: {largest_relative_difference_float64:.0e}.".format(**report),
        "",
        "| variant | CPU seconds | times the plain form | extra memory, MiB |",
        "|:--|--:|--:|--:|",
    ]
    for row in report["rows"]:
        extra = row["extra_bytes"] / 2**20
        lines.append(f"| {row['variant']} | {row['cpu_s']:.2f} | {row['cpu_ratio']:.2f} | {extra:.1f} |")
    return "\n".join([*lines, "", f"    {report['command']}", ""])


if __name__ == "__main__":
    main()
