"""One matrix product by the libraries that torch brings: `torch.mm` in float32 (MKL on x86), oneDNN's float32 product,
bfloat16, and numpy's OpenBLAS, on one thread and on all; the loss by either of torch's libraries in float32; a tower of
MiniLM's size; and the products of an exact search, block by block.

    .venv/bin/python benchmarks/product_libraries.py

numpy needs scikit-learn's threadpoolctl here, as it has threads of its own.

All run in turn within each round; times are multiples of `torch.mm` in float32 on as many threads, errors are relative
to float64 (of the bfloat16 products, to float64 of the rounded vectors).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from transformers import BertConfig, BertModel

from _measure import interleave, ratios, spread
from nearfar import files
from nearfar.losses.functional import info_nce
from nearfar.models.towers.linear_layers import Library, linear_layers
from nearfar.ops.tiling.float_products import VARIABLE, has_onednn, library
from nearfar.ops.tiling.half_products import centred_product

RESULTS = Path(__file__).parent / "results" / "product_libraries.json"
MM = "torch.mm, float32"
QUERIES, KEYS, BLOCKS = 1000, 32_768, (1024, 4096)
TOWER = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=2048)
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--pairs", type=int, default=4096, help="of the loss")
    parser.add_argument("--texts", type=int, default=32, help="of 64 tokens, for the tower")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    threads = sorted({1, os.cpu_count() or 1})
    report = {
        "n": options.n,
        "d": options.d,
        "rounds": options.rounds,
        "torch": torch.__version__,
        "libraries": libraries(),
        "instructions": [name for name, on in torch.cpu.get_capabilities().items() if on is True and is_vector(name)],
        "load": os.getloadavg()[0],
        "command": "python benchmarks/product_libraries.py" + "".join(f" {word}" for word in sys.argv[1:]),
        "chosen": library(),
        "rows": [row for count in threads for row in measured(options.n, options.d, count, options.rounds)],
        "pairs": options.pairs,
        "search": [row for count in threads for row in of_search(options.d, count, options.rounds)],
        "losses": [row for count in threads for row in of_losses(options.pairs, options.d, count, options.rounds)],
        "texts": options.texts,
        "towers": [row for count in threads for row in of_tower(options.texts, count, options.rounds)],
    }
    files.write(options.output, json.dumps(report, indent=1) + "\n")
    files.write(options.output.with_suffix(".md"), as_markdown(report))
    print(as_markdown(report))


def libraries() -> list[str]:
    """The lines of torch's configuration that name the libraries of its products."""
    lines = [line.strip(" -") for line in torch.__config__.show().splitlines()]
    return [line for line in lines if line.startswith(("Intel(R) oneAPI Math", "Intel(R) MKL", "OpenBLAS"))]


def is_vector(name: str) -> bool:
    return name.startswith(("avx", "amx", "sve", "neon", "bf16"))


def measured(n: int, d: int, threads: int, rounds: int) -> list[dict[str, object]]:
    set_threads(threads)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1) for _ in range(2))
    half = a.bfloat16(), b.bfloat16()
    exact, exact_half = a.double() @ b.double().T, half[0].double() @ half[1].double().T
    products = {name: (product, exact) for name, product in in_float32(a, b).items()}
    products |= {name: (product, exact_half) for name, product in in_bfloat16(*half).items()}
    timings = interleave({name: product for name, (product, _) in products.items()}, MM, rounds)
    return [
        {
            "threads": threads,
            "product": name,
            "clock": ratios(timings[name].wall_rounds, timings[MM].wall_rounds),
            "gigaflops": 2e-9 * n * n * d / timings[name].wall_s,
            "error": float((product().double() - expected).norm() / expected.norm()),
        }
        for name, (product, expected) in products.items()
    ]


def set_threads(count: int) -> None:
    """Have torch and numpy use so many."""
    torch.set_num_threads(count)
    threadpool_limits(count, user_api="blas")


def in_float32(a: Tensor, b: Tensor) -> dict[str, Callable[[], Tensor]]:
    out = torch.empty(len(a), len(b))
    products: dict[str, Callable[[], Tensor]] = {MM: lambda: torch.mm(a, b.T, out=out)}
    products["numpy, float32"] = lambda: torch.from_numpy(np.matmul(a.numpy(), b.numpy().T, out=out.numpy()))
    if torch.backends.mkldnn.is_available():
        linear = torch.ops.mkldnn._linear_pointwise
        products["oneDNN, float32"] = lambda: linear(a, b, None, "none", [], "")
    return products


def in_bfloat16(a: Tensor, b: Tensor) -> dict[str, Callable[[], Tensor]]:
    out = torch.empty(len(a), len(b))
    rounded, centres = torch.empty(len(a), len(b), dtype=torch.bfloat16), torch.zeros(len(a))
    return {
        "torch.mm, bfloat16": lambda: torch.mm(a, b.T, out=rounded),
        "nearfar, bfloat16 to float32": lambda: centred_product(a, b.T, centres, rounded, out=out),
    }


def of_losses(n: int, d: int, threads: int, rounds: int) -> list[dict[str, object]]:
    """InfoNCE in both directions by either library, and the product of all pairs, as multiples of `torch.mm`'s."""
    set_threads(threads)
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1) for _ in range(2))
    runs: dict[str, Callable[[], object]] = {f"the product, {name}": run for name, run in in_float32(a, b).items()}
    if torch.backends.mkldnn.is_available():
        runs |= {f"the loss, by {name}": loss_by(name, a, b) for name in ("torch", "onednn")}
    timings = interleave(runs, f"the product, {MM}", rounds)
    yardstick = timings[f"the product, {MM}"]
    return [
        {
            "threads": threads,
            "run": name,
            "cpu": ratios(timings[name].cpu_rounds, yardstick.cpu_rounds),
            "clock": ratios(timings[name].wall_rounds, yardstick.wall_rounds),
        }
        for name in runs
    ]


def of_search(d: int, threads: int, rounds: int) -> list[dict[str, object]]:
    """All scores of some queries, by `torch.mm` at once, and by it and numpy block by block of the keys."""
    set_threads(threads)
    generator = torch.Generator().manual_seed(2)
    q, keys = (torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1) for n in (QUERIES, KEYS))
    whole, left = torch.empty(QUERIES, KEYS), q.numpy()
    outs = {block: torch.empty(QUERIES, block) for block in BLOCKS}

    def by_torch(block: int) -> None:
        for part in keys.split(block):
            torch.mm(q, part.T, out=outs[block])

    def by_numpy(block: int) -> None:
        for part in keys.split(block):
            np.matmul(left, part.numpy().T, out=outs[block].numpy())

    runs: dict[str, Callable[[], object]] = {"torch.mm at once": lambda: torch.mm(q, keys.T, out=whole)}
    for block in BLOCKS:
        runs[f"torch.mm, blocks of {block:,}"] = partial(by_torch, block)
        runs[f"numpy, blocks of {block:,}"] = partial(by_numpy, block)
    timings = interleave(runs, "torch.mm at once", rounds)
    return [
        {"threads": threads, "run": name, "cpu": ratios(timing.cpu_rounds, timings["torch.mm at once"].cpu_rounds)}
        for name, timing in timings.items()
    ]


def loss_by(name: str, a: Tensor, b: Tensor) -> Callable[[], None]:
    q, k = a.clone().requires_grad_(), b.clone().requires_grad_()

    def run() -> None:
        os.environ[VARIABLE] = name
        library.cache_clear()
        info_nce(q, k, temperature=0.07).backward()
        q.grad = k.grad = None

    return run


def of_tower(texts: int, threads: int, rounds: int) -> list[dict[str, object]]:
    """Forward and backward of a transformer of MiniLM's size, its linear layers by either library: times as multiples
    of torch's own, and the error of all gradients against float64."""
    set_threads(threads)
    torch.manual_seed(2)
    tower = BertModel(BertConfig(**TOWER), add_pooling_layer=False).eval()  # no dropout
    tokens = torch.randint(1000, 30000, (texts, 64))

    def run(library: Library) -> None:
        tower.zero_grad()
        with linear_layers(tower, library):
            tower(tokens).last_hidden_state[:, 0].square().sum().backward()

    def gradients(library: Library) -> Tensor:
        run(library)
        return torch.cat([weight.grad.double().flatten() for weight in tower.parameters() if weight.grad is not None])

    libraries: list[Library] = ["torch", "onednn"] if has_onednn() else ["torch"]
    timings = interleave({name: partial(run, name) for name in libraries}, "torch", rounds)
    computed = {name: gradients(name) for name in libraries}
    tower.double()
    exact = gradients("torch")
    return [
        {
            "threads": threads,
            "library": name,
            "cpu": ratios(timings[name].cpu_rounds, timings["torch"].cpu_rounds),
            "clock": ratios(timings[name].wall_rounds, timings["torch"].wall_rounds),
            "error": float((computed[name] - exact).norm() / exact.norm()),
        }
        for name in libraries
    ]


def as_markdown(report: dict) -> str:
    lines = [
        "{n} x {d} by {d} x {n}, {rounds} rounds, torch {torch}, load average {load:.1f}.".format(**report),
        "Libraries: " + "; ".join(report["libraries"]) + ". Instructions: " + ", ".join(report["instructions"]) + ".",
        "",
        "| threads | product | GFLOP/s | to torch.mm in float32, on the clock | error |",
        "|--:|:--|--:|--:|--:|",
    ]
    for row in report["rows"]:
        cells = [row["threads"], row["product"], f"{row['gigaflops']:.0f}", spread(row["clock"]), f"{row['error']:.0e}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [
        "",
        "InfoNCE in both directions, forward and backward, {pairs} pairs; chosen here: {chosen}.".format(**report),
        "",
        "| threads | run | products, CPU | on the clock |",
        "|--:|:--|--:|--:|",
    ]
    for row in report["losses"]:
        lines.append(f"| {row['threads']} | {row['run']} | {spread(row['cpu'])} | {spread(row['clock'])} |")
    lines += [
        "",
        "A transformer of MiniLM's size, forward and backward, {texts} texts of 64 tokens.".format(**report),
        "",
        "| threads | linear layers | to torch's, CPU | on the clock | error of the gradients |",
        "|--:|:--|--:|--:|--:|",
    ]
    for row in report["towers"]:
        times = f"{spread(row['cpu'])} | {spread(row['clock'])}"
        lines.append(f"| {row['threads']} | {row['library']} | {times} | {row['error']:.0e} |")
    lines += [
        "",
        f"All scores of {QUERIES:,} queries among {KEYS:,} keys of {report['d']} numbers.",
        "",
        "| threads | run | CPU, to torch.mm at once |",
        "|--:|:--|--:|",
    ]
    lines += [f"| {row['threads']} | {row['run']} | {spread(row['cpu'])} |" for row in report["search"]]
    return "\n".join([*lines, "", f"    {report['command']}", ""])


if __name__ == "__main__":
    main()
