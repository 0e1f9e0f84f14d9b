"""Where the time goes of what misses its bar, and of its yardstick beside it.

    .venv/bin/python benchmarks/profiles.py          # about five minutes on one core

Each run is first timed in turn with its yardstick, CPU seconds, then looked at once by torch's profiler, on one thread,
so that nothing is computed where the profiler does not look. What an operator itself took, without those that it calls,
is its share; products of matrices are one part, whichever operator and library computes them. The profiler takes time
of its own at every operator: it makes many short ones look longer than they are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from _measure import interleave, ratios, spread
from nearfar import files
from nearfar.decoding.contrastive.row_kernels import RowProduct
from nearfar.evaluation.measures import retrieval_ranks
from nearfar.losses.functional import info_nce
from nearfar.machine import has_bfloat16
from nearfar.nearest import score_products, streamed
from nearfar.search.kinds.exact import exact_search
from search_limits import TOP, product_of, unit

RESULTS = Path(__file__).parent / "results" / "profiles.json"
PRODUCTS, PYTHON = "products of matrices", "Python, and what is not torch's"
MULTIPLY = {"mm", "addmm", "bmm", "baddbmm", "linear", "_linear_pointwise"}  # the last one is oneDNN's
OTHERS, LEAST = "all others", 0.03
Case = tuple[str, Callable[[], object], str, Callable[[], object]]
"""What is run, and what it is compared with."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--loss", type=int, nargs=2, default=[4096, 512], metavar=("N", "D"))
    parser.add_argument("--search", type=int, nargs=3, default=[1000, 100_000, 512], metavar=("Q", "N", "D"))
    parser.add_argument("--ranks", type=int, nargs=2, default=[20_000, 512], metavar=("N", "D"))
    parser.add_argument("--tokens", type=int, default=32, help="that are written; 0 leaves decoding out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [looked_at(*case, options.rounds) for case in cases(options)]
    report = {
        "torch": torch.__version__,
        "rounds": options.rounds,
        "load": os.getloadavg()[0],
        "command": "python benchmarks/profiles.py" + "".join(f" {word}" for word in sys.argv[1:]),
        "rows": rows,
    }
    files.write(options.output, json.dumps(report, indent=1) + "\n")
    files.write(options.output.with_suffix(".md"), as_markdown(report))
    print(as_markdown(report))


def cases(options: argparse.Namespace) -> Iterator[Case]:
    yield loss(*options.loss)
    if has_bfloat16():
        yield loss(*options.loss, in_half=True)
    yield search(*options.search)
    yield ranks(*options.ranks)
    if options.tokens:
        yield decoding(options.tokens)


def loss(n: int, d: int, *, in_half: bool = False) -> Case:
    query, key = (torch.from_numpy(unit(n, d, seed)).requires_grad_() for seed in (0, 1))

    def step() -> None:
        query.grad = key.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=in_half):
            value = info_nce(query, key, temperature=0.07)
        value.backward()

    what = "symmetric InfoNCE under bfloat16 autocast" if in_half else "symmetric InfoNCE"
    return f"{what}, {n:,} x {d}", step, "one product", product_of(query.detach(), key.detach())


def search(count: int, keys: int, d: int) -> Case:
    import faiss

    q, k = unit(count, d, seed=1), unit(keys, d, seed=0)
    index = faiss.IndexFlatIP(d)
    index.add(k)
    faiss.omp_set_num_threads(1)
    return (
        f"search of {count:,} in {keys:,} x {d}",
        lambda: exact_search(q, k, TOP),
        "faiss IndexFlatIP",
        lambda: index.search(q, TOP),
    )


def ranks(count: int, d: int) -> Case:
    own, vectors, right = torch.arange(count), *(torch.from_numpy(unit(count, d, seed)) for seed in (1, 0))
    return (
        f"ranks of {count:,} among {count:,} x {d}",
        lambda: retrieval_ranks.rank(vectors, right, own, own),
        "one product",
        product_of(vectors, right),
    )


def decoding(tokens: int) -> Case:
    from decoding import arms, smollm

    model = smollm()
    ids = torch.randint(3, model.config.vocab_size, (1, 32), generator=torch.Generator().manual_seed(0))
    every = arms(model)

    def run(arm: str) -> Callable[[], object]:
        return torch.no_grad()(lambda: every[arm](ids, tokens))

    return f"contrastive search, k = 4, {tokens} tokens", run("ours k=4"), "greedy", run("greedy")


def looked_at(what: str, run: Callable[[], object], yardstick: str, beside: Callable[[], object], rounds: int) -> Any:
    """The ratio of both, and the parts of each as multiples of the yardstick's time."""
    timings = interleave({what: run, yardstick: beside}, yardstick, rounds)
    ratio = ratios(timings[what].cpu_rounds, timings[yardstick].cpu_rounds)
    return {"what": what, "yardstick": yardstick, "ratio": ratio, "parts": parts(run), "beside": parts(beside)}


def parts(run: Callable[[], object]) -> dict[str, float]:
    """Shares of the time of a run: products, the other operators that take most, and what no operator takes."""
    with products_marked(), profile(activities=[ProfilerActivity.CPU]) as profiled, record_function("run"):
        run()
    taken: dict[str, float] = {}
    for event in profiled.key_averages():
        name = part_of(event.key)
        taken[name] = taken.get(name, 0.0) + event.self_cpu_time_total
    whole = sum(taken.values())
    shares = {name: seconds / whole for name, seconds in sorted(taken.items(), key=lambda item: -item[1])}
    large = {name: share for name, share in shares.items() if share >= LEAST or name == PRODUCTS}
    return {**large, OTHERS: 1 - sum(large.values())}


def part_of(event: str) -> str:
    """The part that an event of the profiler belongs to."""
    name = event.split("::")[-1]
    if name.rstrip("_") in MULTIPLY or event == "scores":
        return PRODUCTS
    return PYTHON if event == "run" or "::" not in event else f"`{name}`"


@contextmanager
def products_marked() -> Iterator[None]:
    """Products that numpy and compiled loops compute for nearfar, which torch's profiler does not see, as events."""
    plain = {
        (streamed, "score_product"): score_products.score_product,
        (retrieval_ranks, "score_product"): score_products.score_product,
        (RowProduct, "__call__"): RowProduct.__call__,
    }

    def marked(product: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def event(*args: object) -> torch.Tensor:
            with record_function("scores"):
                return product(*args)

        return event

    for (holder, name), product in plain.items():
        setattr(holder, name, marked(product))
    try:
        yield
    finally:
        for (holder, name), product in plain.items():
            setattr(holder, name, product)


def as_markdown(report: dict[str, Any]) -> str:
    lines = [
        f"One thread, {report['rounds']} rounds, torch {report['torch']}, load average {report['load']:.1f}.",
        "",
        "| what | to its yardstick, CPU | its parts, in times of the yardstick | the yardstick's own |",
        "|:--|--:|:--|:--|",
    ]
    for row in report["rows"]:
        factor = sorted(row["ratio"])[len(row["ratio"]) // 2]
        own = "; ".join(f"{name} {factor * share:.2f}" for name, share in row["parts"].items())
        beside = "; ".join(f"{name} {share:.2f}" for name, share in row["beside"].items())
        lines.append(f"| {row['what']} | {spread(row['ratio'])} of {row['yardstick']} | {own} | {beside} |")
    return "\n".join([*lines, "", f"    {report['command']}"]) + "\n"


if __name__ == "__main__":
    main()
