"""InfoNCE of both directions under bfloat16 autocast on a CPU, beside open_clip's loss and the dense form there.

    .venv-compare/bin/python benchmarks/half_precision.py

All run in turn within each round, forward and backward; each is also given as a multiple of one N x N x D product in
float32 timed in the same round. Before timing, every variant's loss and gradients are compared with the formula in
float64, and nearfar's must be no further off than any other's.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from _measure import interleave, ratios, spread
from _objectives import Objective, both_directions
from nearfar import files, ops
from ops import error, value_and_gradients, vectors

RESULTS = Path(__file__).parent / "results" / "half_precision.json"
OURS, FLOAT32, PEER = "nearfar", "nearfar in float32", "open_clip ClipLoss"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, nargs="+", default=[4096, 8192])
    parser.add_argument("--d", type=int, nargs="+", default=[512, 768])
    parser.add_argument("--scale", type=float, nargs="+", default=[14.3, 100.0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = product(options.n, options.d, options.scale)
    report = {
        "torch": torch.__version__,
        "threads": options.threads,
        "rounds": options.rounds,
        "load": os.getloadavg()[0],
        "processor": {name: on for name, on in torch.cpu.get_capabilities().items() if "bf16" in name},
        "command": ".venv-compare/bin/python benchmarks/half_precision.py" + "".join(f" {w}" for w in sys.argv[1:]),
        "rows": [row for n, d, s in sizes for row in compared(n, d, s, options.rounds)],
    }
    files.write(options.output, json.dumps(report, indent=1) + "\n")
    files.write(options.output.with_suffix(".md"), as_markdown(report))
    print(as_markdown(report))


def variants() -> dict[str, Objective]:
    """What runs under autocast; open_clip's loss where it is installed."""
    forms: dict[str, Objective] = {OURS: under_autocast(lambda q, k, s, b: ops.info_nce(q, k, s))}
    if find_spec("open_clip") is not None:
        from _objectives import peers
        from _shim import import_torchvision

        import_torchvision()
        forms[PEER] = under_autocast(peers("InfoNCE, both directions", 2)[PEER])
    return forms | {"dense autograd": under_autocast(both_directions)}


def under_autocast(loss: Objective) -> Objective:
    def autocast(q: Tensor, k: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return loss(q, k, scale, bias)

    return autocast


def compared(n: int, d: int, scale: float, rounds: int) -> list[dict[str, object]]:
    """One row a variant: its error, its time in products, and the rounds of both."""
    inputs = vectors(n, d, scale)
    expected = value_and_gradients(both_directions, [t.double() for t in inputs])
    forms = variants()
    errors = {name: error(value_and_gradients(form, inputs), expected, inputs[:2]) for name, form in forms.items()}
    if errors[OURS] > min(errors.values()):
        raise SystemExit(f"off by more than another from float64 at N {n}, D {d}, scale {scale}: {errors}; not timed")
    del expected
    gc.collect()
    forms[FLOAT32] = lambda q, k, s, b: ops.info_nce(q, k, s)
    out, (q, k) = torch.empty(n, n), [t.detach() for t in inputs[:2]]
    runs = {"product": lambda: torch.mm(q, k.T, out=out)}
    runs |= {name: lambda form=form: value_and_gradients(form, inputs) for name, form in forms.items()}
    timings = interleave(runs, "product", rounds)
    rows = []
    for name in forms:
        row = {"n": n, "d": d, "scale": scale, "variant": name, "error": errors.get(name)}
        row["products"] = ratios(timings[name].cpu_rounds, timings["product"].cpu_rounds)
        row["to_nearfar"] = ratios(timings[name].cpu_rounds, timings[OURS].cpu_rounds)
        row["to_nearfar_on_the_clock"] = ratios(timings[name].wall_rounds, timings[OURS].wall_rounds)
        rows.append(row)
    return rows


def as_markdown(report: dict) -> str:
    instructions = ", ".join(name for name, on in report["processor"].items() if on) or "none for bfloat16"
    lines = [
        f"{report['threads']} thread(s), {report['rounds']} rounds, torch {report['torch']}, processor instructions: "
        f"{instructions}; load average {report['load']:.1f}.",
        "",
        "| N | D | scale | variant | products | CPU seconds to nearfar's | on the clock | error |",
        "|--:|--:|--:|:--|--:|--:|--:|--:|",
    ]
    for row in report["rows"]:
        off = "" if row["error"] is None else f"{row['error']:.0e}"
        figures = [spread(row[name]) for name in ("products", "to_nearfar", "to_nearfar_on_the_clock")]
        lines.append(f"| {row['n']} | {row['d']} | {row['scale']} | {row['variant']} | {' | '.join(figures)} | {off} |")
    return "\n".join([*lines, "", f"    {report['command']}", ""])


if __name__ == "__main__":
    main()
