"""Hard negatives for image-text matching (ALBEF), one a query: as `nearfar.ops` draws them, in a stream, and the plain
way, from the softmax of a B x B matrix.

    OMP_NUM_THREADS=1 python benchmarks/hard_negatives.py          # batch 4,096, D 256

Both run in turn within each round, float32. Peak memory comes from a process of its own.
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
from nearfar.ops import sample_hard_negatives

RESULTS = Path(__file__).parent / "results" / "hard_negatives.json"
SCALE = 1 / 0.07
Draw = Callable[[Tensor, Tensor, Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--memory", choices=list(VARIANTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        draw = VARIANTS[options.memory]
        draw(*vectors(64, options.dim))  # what is set up once is not its memory
        inputs = vectors(options.batch, options.dim)
        print(max(0, peak_of(lambda: draw(*inputs))))
        return
    inputs, load = vectors(options.batch, options.dim), os.getloadavg()[0]
    timings = interleave(
        {name: lambda draw=draw: draw(*inputs) for name, draw in VARIANTS.items()}, PLAIN, options.rounds
    )
    sizes = ["--batch", str(options.batch), "--dim", str(options.dim), "--threads", str(options.threads)]
    rows = []
    for name in VARIANTS:
        command = [sys.executable, __file__, *sizes, "--memory", name]
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        rows.append({"variant": name, **asdict(timings[name]), "extra_bytes": int(done.stdout)})
    report = {
        "batch": options.batch,
        "dim": options.dim,
        "threads": options.threads,
        "rounds": options.rounds,
        "torch": torch.__version__,
        "load": load,
        "command": "python benchmarks/hard_negatives.py" + "".join(" " + word for word in sys.argv[1:]),
        "rows": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(as_markdown(report))
    print(as_markdown(report))


def streamed(q: Tensor, k: Tensor, group: Tensor) -> Tensor:
    return sample_hard_negatives(q, k, SCALE, q_group=group, k_group=group)


def plain(q: Tensor, k: Tensor, group: Tensor) -> Tensor:
    """As the papers' code does, with the pairs of one group left out before the softmax."""
    logits = (q @ k.T * SCALE).masked_fill(group[:, None] == group, -torch.inf)
    return torch.multinomial(logits.softmax(1), 1).squeeze(1)


PLAIN = "plain, softmax of B x B"
VARIANTS: dict[str, Draw] = {"nearfar": streamed, PLAIN: plain}


def vectors(batch: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries near their keys, and two samples a group."""
    g = torch.Generator().manual_seed(0)
    k = normalize(torch.randn(batch, dim, generator=g), dim=1)
    q = normalize(k + torch.randn(batch, dim, generator=g) / 16, dim=1)
    return q, k, torch.arange(batch) // 2


def as_markdown(report: dict) -> str:
    lines = [
        "Batch {batch:,}, D {dim}; one draw a query, float32, {threads} thread(s), {rounds} rounds, torch {torch}, "
        "load average {load:.1f}.".format(**report),
        "",
        "| variant | CPU seconds | times the plain form | extra memory, MiB |",
        "|:--|--:|--:|--:|",
    ]
    for row in report["rows"]:
        extra = row["extra_bytes"] / 2**20
        lines.append(f"| {row['variant']} | {row['cpu_s']:.3f} | {row['cpu_ratio']:.2f} | {extra:.1f} |")
    return "\n".join([*lines, "", f"    {report['command']}", ""])


if __name__ == "__main__":
    main()
