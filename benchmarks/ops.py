"""Speed and memory of the losses on `nearfar.ops`, side by side with the libraries that people use today.

    .venv-compare/bin/python benchmarks/ops.py                      # every size; on an otherwise idle machine
    .venv-compare/bin/python benchmarks/ops.py --n 1024 --d 128 --output look.json    # a quick look

All variants of a form run in turn within each round, forward and backward, float32; each is also given as a multiple
of one N x N x D product timed in the same round. Rounds of several processes are pooled. Before timing, every variant's
loss and gradients are compared with the formula in float64. Peak memory comes from a process of its own.

With `--form`, the other forms' rows stay as they were recorded, if torch and the machine are the same.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from _measure import Timing, interleave, peak_of, pooled
from _objectives import FORMULA, PAIRS_OF_PAIRS, Objective, objective, objectives
from _render import as_markdown
from nearfar import files

RESULTS = Path(__file__).parent / "results" / "ops.json"
TOLERANCE = 2e-4  # what dense float32 reaches; the tests of nearfar itself ask for 1e-5
SCALES = {"sigmoid": (10.0,), "InfoNCE, both directions": (14.3, 100.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, nargs="+", default=[1024, 4096, 8192])
    parser.add_argument("--d", type=int, nargs="+", default=[128, 512, 768])
    parser.add_argument("--form", nargs="+", default=list(FORMULA), choices=list(FORMULA))
    parser.add_argument("--rounds", type=int, default=3, help="in each process")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--memory", nargs=5, metavar=("FORM", "VARIANT", "N", "D", "SCALE"), help=argparse.SUPPRESS)
    parser.add_argument("--time", nargs=4, metavar=("FORM", "N", "D", "SCALE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.time:
        form, n, d, scale = options.time
        print(json.dumps({k: asdict(t) for k, t in timed(form, int(n), int(d), float(scale), options.rounds).items()}))
        return
    if options.memory:
        form, variant, n, d, scale = options.memory
        print(peak(form, variant, int(n), int(d), float(scale)))
        return
    sizes = [(form, n, d) for form in options.form for n in options.n for d in options.d]
    if "NT-Xent" in options.form:
        sizes.append(("NT-Xent", PAIRS_OF_PAIRS, 128))
    rows = [
        row
        for form, n, d in sizes
        for scale in SCALES.get(form, (14.3,))
        for row in compare(form, n, d, scale, options)
    ]
    results = joined(machine(options), rows, options.output)
    files.write(options.output, json.dumps(results, indent=1) + "\n")
    files.write(options.output.with_suffix(".md"), as_markdown(results))


def joined(here: dict[str, object], rows: list[dict[str, object]], file: Path) -> dict[str, object]:
    """The new rows, with those that `file` holds of other forms."""
    old = json.loads(file.read_text()) if file.exists() else {"machine": {}, "rows": []}
    measured = {row["form"] for row in rows}
    kept = [row for row in old["rows"] if old["machine"] == here and row["form"] not in measured]
    return {"machine": here, "rows": [*kept, *rows]}


def compare(form: str, n: int, d: int, scale: float, options: argparse.Namespace) -> list[dict[str, object]]:
    """One row a variant: checked, timed in turn, its memory measured apart."""
    variants = objectives(form, n)
    inputs = vectors(n, d, scale)
    expected = value_and_gradients(FORMULA[form], [t.double() for t in inputs])
    errors = {name: error(value_and_gradients(f, inputs), expected, inputs[:2]) for name, f in variants.items()}
    for name, size in errors.items():
        if not size <= TOLERANCE:
            raise SystemExit(f"{name} is off by {size:.1e} from float64 ({form}, N {n}, D {d}): not timed")
    del expected, inputs
    gc.collect()
    load = os.getloadavg()[0]
    answers = [
        json.loads(in_a_process(options, "--rounds", options.rounds, "--time", form, n, d, scale))
        for _ in range(options.processes)
    ]
    timings = pooled([{name: Timing(**values) for name, values in each.items()} for each in answers], "product")
    rows = []
    for name in variants:
        # Freed blocks go straight back to the system, so that they do not hide in the process's size.
        extra = int(in_a_process(options, "--memory", form, name, n, d, scale, MALLOC_MMAP_THRESHOLD_="65536"))
        shape = {"form": form, "n": n, "d": d, "scale": scale, "variant": name}
        rows.append(shape | asdict(timings[name]) | {"extra_bytes": extra, "error": errors[name], "load": load})
        rows[-1]["command"] = command(options)
        print(f"{form:26s} N {n:5d} D {d:3d} scale {scale:5.1f}  {name:36s}", end=" ")
        print(
            f"{timings[name].cpu_ratio:6.2f} products  {extra / 2**20:8.1f} MiB  error {errors[name]:.0e}", flush=True
        )
    return rows


def in_a_process(options: argparse.Namespace, *flags: object, **environment: str) -> str:
    """What this script prints with these flags."""
    command = [sys.executable, __file__, "--threads", str(options.threads), *map(str, flags)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
    return done.stdout


def timed(form: str, n: int, d: int, scale: float, rounds: int) -> dict[str, Timing]:
    """Every variant of a form, and the product that is their measure, in turn."""
    inputs, product = vectors(n, d, scale), torch.empty(n, n)
    runs = {"product": lambda: torch.mm(inputs[0].detach(), inputs[1].detach().T, out=product)}
    runs |= {name: lambda f=f: value_and_gradients(f, inputs) for name, f in objectives(form, n).items()}
    return interleave(runs, "product", rounds)


def vectors(n: int, d: int, scale: float) -> list[Tensor]:
    """Unit vectors with a scale and SigLIP's first bias; all want gradients. The keys are so near their queries that
    the softmax losses lie around log 2, as in the middle of training."""
    generator = torch.Generator().manual_seed(0)
    q, noise = normalize(torch.randn(2, n, d, generator=generator), dim=2)
    cosine = min(0.9, (math.log(n) + scale**2 / (2 * d)) / scale)
    k = normalize(cosine * q + math.sqrt(1 - cosine**2) * noise, dim=1)
    return [t.requires_grad_() for t in (q, k, torch.tensor(scale), torch.tensor(-10.0))]


def value_and_gradients(loss_of: Objective, inputs: list[Tensor]) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in inputs]
    loss = loss_of(*leaves)
    loss.backward()
    return [loss.detach(), *(torch.zeros_like(t) if t.grad is None else t.grad for t in leaves[:2])]


def error(computed: list[Tensor], expected: list[Tensor], unit: list[Tensor]) -> float:
    """The largest relative error. Gradients are compared along the sphere, as some libraries normalise inside."""

    def along(g: Tensor, vectors: Tensor) -> Tensor:
        vectors = vectors.detach().double()
        return g.double() - (g.double() * vectors).sum(1, keepdim=True) * vectors

    pairs = [(computed[0], expected[0])]
    pairs += [(along(f, v), along(e, v)) for f, e, v in zip(computed[1:], expected[1:], unit, strict=True)]
    return max(float((f - e).norm() / e.norm()) for f, e in pairs)


def peak(form: str, variant: str, n: int, d: int, scale: float) -> int:
    """Peak bytes of one step beyond its inputs and their gradients."""
    step = objective(form, variant, n)
    value_and_gradients(step, vectors(min(n, 512), d, scale))  # what a library sets up once is not its memory
    inputs = vectors(n, d, scale)
    gc.collect()
    return max(0, peak_of(lambda: value_and_gradients(step, inputs)) - 2 * n * d * 4)


def machine(options: argparse.Namespace) -> dict[str, object]:
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.machine(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "threads": options.threads,
    }


def command(options: argparse.Namespace) -> str:
    """What gives these rows again."""
    flags = ["n", "d", *(["form"] if set(options.form) != set(FORMULA) else []), "rounds", "processes", "threads"]
    words = ["python benchmarks/ops.py"]
    for name in flags:
        value = vars(options)[name]
        words += [f"--{name}", *map(shlex.quote, map(str, value if isinstance(value, list) else [value]))]
    return " ".join(words)


if __name__ == "__main__":
    main()
