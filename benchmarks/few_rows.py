"""Products of a few rows with a language model's weights, which are larger than any cache: by the loops that numba
compiles, MKL in both orders, and oneDNN with and without weights packed for it, beside MKL's product of a single row.

    OMP_WAIT_POLICY=passive python benchmarks/few_rows.py          # half a minute

The weights are random, in the shapes of SmolLM2-135M's layers, and each is multiplied once in a run. All run in turn
within each round, after each was compared with float64.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from _measure import interleave, ratios, spread
from nearfar import files
from nearfar.decoding.contrastive.few_rows import reordered
from nearfar.decoding.contrastive.row_kernels import RowProduct
from nearfar.ops.tiling.float_products import has_onednn

RESULTS = Path(__file__).parent / "results" / "few_rows.json"
SHAPES = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)]
ONE, LOOPS, USUAL, TURNED = "one row, MKL", "compiled loops", "MKL, x W^T", "MKL, (W x^T)^T"
ONEDNN, PACKED = "oneDNN", "oneDNN, packed weights"
Product = Callable[[Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.manual_seed(0)
    weights = [torch.randn(shape) for _ in range(options.layers) for shape in SHAPES]
    rows = []
    with torch.no_grad():
        for threads in options.threads:
            torch.set_num_threads(threads)
            rows += [compared(weights, count, options.rounds) for count in options.rows]
    report = {
        "torch": torch.__version__,
        "rounds": options.rounds,
        "layers": options.layers,
        "load": os.getloadavg()[0],
        "rows": rows,
    }
    files.write(options.output, json.dumps(report, indent=1) + "\n")
    files.write(options.output.with_suffix(".md"), as_markdown(report))
    print(as_markdown(report))


def compared(weights: list[Tensor], count: int, rounds: int) -> dict[str, Any]:
    """All ways to multiply so many rows, as multiples of one row's product, round by round."""
    states = {width: torch.randn(count, width) for _, width in SHAPES}
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        products = {name: [make(weight) for weight in weights] for name, make in ways(count, threads).items()}
        for name, each in products.items():
            if name != ONE:
                check(name, each[0], weights[0], states)

        def run(name: str) -> None:
            for product, weight in zip(products[name], weights, strict=True):
                product(states[weight.shape[1]])

        timings = interleave({name: partial(run, name) for name in products}, ONE, rounds)
    to_one = {name: ratios(each.cpu_rounds, timings[ONE].cpu_rounds) for name, each in timings.items()}
    clock = {name: ratios(each.wall_rounds, timings[ONE].wall_rounds) for name, each in timings.items()}
    return {"count": count, "threads": torch.get_num_threads(), "cpu": to_one, "clock": clock}


def ways(count: int, threads: ThreadPoolExecutor) -> dict[str, Callable[[Tensor], Product]]:
    """Of each way, what makes a product of a weight."""
    made: dict[str, Callable[[Tensor], Product]] = {
        ONE: lambda weight: lambda states: torch.mv(weight, states[0]),
        LOOPS: lambda weight: RowProduct(weight, threads),
        USUAL: lambda weight: lambda states: torch.nn.functional.linear(states, weight),
        TURNED: lambda weight: partial(reordered, weight),
    }
    if has_onednn():

        def onednn(weight: Tensor) -> Product:
            return lambda states: torch.ops.mkldnn._linear_pointwise(states, weight, None, "none", [], "")

        made |= {ONEDNN: onednn}
        if hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
            made |= {PACKED: lambda weight: onednn(torch.ops.mkldnn._reorder_linear_weight(weight, count))}
    return made


def check(name: str, product: Product, weight: Tensor, states: dict[int, Tensor]) -> None:
    rows = states[weight.shape[1]]
    exact = rows.double() @ weight.double().T
    if (product(rows) - exact).norm() > 1e-6 * exact.norm():
        raise SystemExit(f"{name} does not give the product: not timed")


def as_markdown(report: dict[str, Any]) -> str:
    lines = [
        f"Weights of {report['layers']} layers of SmolLM2-135M's shapes, float32; {report['rounds']} rounds, torch "
        f"{report['torch']}, load average {report['load']:.1f}. Multiples of one row's time, CPU; on the clock.",
        "",
        "| rows | threads | " + " | ".join(name for name in report["rows"][0]["cpu"] if name != ONE) + " |",
        "|--:|--:|" + "--:|" * (len(report["rows"][0]["cpu"]) - 1),
    ]
    for row in report["rows"]:
        cells = [f"{spread(row['cpu'][name])}; {median_of(row['clock'][name])}" for name in row["cpu"] if name != ONE]
        lines.append(f"| {row['count']} | {row['threads']} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "    OMP_WAIT_POLICY=passive python benchmarks/few_rows.py", ""])


def median_of(values: list[float]) -> str:
    return f"{sorted(values)[len(values) // 2]:.2f}"


if __name__ == "__main__":
    main()
