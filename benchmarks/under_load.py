"""The symmetric loss, and a training, while another process computes: what they take beside a competitor, as multiples
of what they take without it.

    .venv/bin/python benchmarks/under_load.py

The competitor, a process that multiplies matrices, is started and stopped in every round: all is measured once without
it and once beside it. Each form of the loss has a process of its own: "plain" computes as a script does that imports
torch; "prepared" calls `nearfar.machine.prepare` before that. open_clip's loss is there where it is installed. Loss and
gradients are those of float64 first, or nothing is measured. The training is the command `nearfar train clip`, which
prepares itself. Variables of OpenMP and of the allocator that are set outside count for none of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from _measure import ratios, spread
from nearfar import files, machine

RESULTS = Path(__file__).parent / "results" / "under_load.json"
FORM, OURS, PEER = "InfoNCE, both directions", "nearfar", "open_clip ClipLoss"
PLAIN, PREPARED = "plain", "prepared"
LENT = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "MALLOC_")
COMPETITOR = """
import numpy
a = numpy.random.default_rng(0).standard_normal((1024, 1024), dtype=numpy.float32)
b = numpy.empty_like(a)
print("computes", flush=True)
while True:
    numpy.matmul(a, a, out=b)
"""
COMMAND = [sys.executable, "-m", "nearfar.cli"]
BESIDE_TORCHVISION = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from nearfar import machine
machine.prepare()
from _shim import import_torchvision
import_torchvision()
from nearfar import cli
cli.main(sys.argv[1:])
"""
"""The command where a torchvision is installed that transformers cannot import by itself."""
Seconds = tuple[float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="pairs in the batch of the loss")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--passes", type=int, default=5, help="forward and backward passes that are timed as one")
    parser.add_argument("--steps", type=int, default=12, help="steps of the training; 0: the loss alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--competitor", type=int, default=1, help="threads of the competitor")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.NAME=VALUE", help="settings of the recipe")
    parser.add_argument("--loss", nargs=2, metavar=("VARIANT", "START"), help=argparse.SUPPRESS)  # within a process
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.loss:
        answer(*args.loss, args)
        return
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        variants = [OURS, *([PEER] if find_spec("open_clip") else [])]
        pairs = [(variant, start) for variant in variants for start in (PLAIN, PREPARED)]
        runs = {
            f"{variant}, {start}": stack.enter_context(loss_process(variant, start, args)) for variant, start in pairs
        }
        if args.steps:
            runs["nearfar train clip"] = lambda: training(args)
        quiet, loaded = rounds_of(runs, args)
    record = {
        **{name: getattr(args, name) for name in ("size", "dim", "passes", "steps", "threads", "competitor", "rounds")},
        "torch": version("torch"),
        "load": load,
        "command": "python benchmarks/under_load.py" + "".join(f" {word}" for word in sys.argv[1:]),
        "rows": [{"name": name, "quiet": columns(quiet[name]), "loaded": columns(loaded[name])} for name in runs],
    }
    files.write(args.output, json.dumps(record, indent=1) + "\n")
    files.write(args.output.with_suffix(".md"), as_markdown(record))
    print(as_markdown(record))


def rounds_of(
    runs: dict[str, Callable[[], Seconds]], args: argparse.Namespace
) -> tuple[dict[str, list[Seconds]], dict[str, list[Seconds]]]:
    """CPU and clock seconds of every run and round, without the competitor and beside it."""
    quiet: dict[str, list[Seconds]] = {name: [] for name in runs}
    loaded: dict[str, list[Seconds]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            quiet[name].append(run())
        with competitor(args.competitor) as process:
            for name, run in runs.items():
                loaded[name].append(run())
            if process.poll() is not None:
                raise RuntimeError("the competitor stopped before the measurement did")
    return quiet, loaded


@contextmanager
def competitor(threads: int) -> Iterator[subprocess.Popen[str]]:
    """A process that computes products on so many threads, from its first product on until the block ends."""
    command = [sys.executable, "-c", COMPETITOR]
    with subprocess.Popen(command, env=environment(threads), stdout=subprocess.PIPE, text=True) as process:
        try:
            await_line(process)
            yield process
        finally:
            process.kill()


@contextmanager
def loss_process(variant: str, start: str, args: argparse.Namespace) -> Iterator[Callable[[], Seconds]]:
    """A process that holds a batch; each call has it pass over the batch and returns its CPU and clock seconds."""
    flags = [f"--{name}={getattr(args, name)}" for name in ("size", "dim", "passes", "threads")]
    command = [sys.executable, str(Path(__file__).resolve()), "--loss", variant, start, *flags]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment(args.threads), stdin=pipe, stdout=pipe, text=True) as process:
        await_line(process)

        def timed() -> Seconds:
            assert process.stdin is not None
            print("again", file=process.stdin, flush=True)
            cpu, clock = json.loads(await_line(process))
            return cpu, clock

        yield timed


def await_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a process ended with status {process.wait()}: {process.args}")
    return line


def environment(threads: int) -> dict[str, str]:
    """What processes start with: no one's settings, and the number of threads."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(LENT)}
    return own | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}


def answer(variant: str, start: str, args: argparse.Namespace) -> None:
    """The work of such a process: check, then time the passes once for each line that comes in."""
    if start == PREPARED:
        machine.prepare()
    import torch

    from _objectives import both_directions, ours, peers
    from _shim import import_torchvision

    if variant == PEER:
        import_torchvision()
    loss = (peers if variant == PEER else lambda form, n: ours(form))(FORM, args.size)[variant]
    scale, bias = torch.tensor(20.0), torch.tensor(0.0)

    def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        q, k = (torch.randn(size, args.dim, generator=generator) for _ in range(2))
        return torch.nn.functional.normalize(q, dim=1), torch.nn.functional.normalize(q + k, dim=1)

    def one_pass(loss: Any, q: torch.Tensor, k: torch.Tensor) -> list[torch.Tensor]:
        q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
        value = loss(q, k, scale.to(q.dtype), bias.to(q.dtype))
        return [value.detach(), *torch.autograd.grad(value, (q, k))]

    q, k = batch(min(args.size, 1024))
    expected = one_pass(both_directions, q.double(), k.double())
    for actual, right in zip(one_pass(loss, q, k), expected, strict=True):
        torch.testing.assert_close(actual, right.float(), rtol=1e-4, atol=1e-7)
    q, k = batch(args.size)
    one_pass(loss, q, k)
    print("ready", flush=True)
    for _ in sys.stdin:
        cpu, clock = time.process_time(), time.perf_counter()
        for _ in range(args.passes):
            one_pass(loss, q, k)
        print(json.dumps([time.process_time() - cpu, time.perf_counter() - clock]), flush=True)


def training(args: argparse.Namespace) -> Seconds:
    """CPU seconds of the whole command, its loaders with it, and seconds on the clock."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"steps={args.steps}", *args.set]
        shimmed = [sys.executable, "-c", BESIDE_TORCHVISION, str(Path(__file__).resolve().parent)]
        start = shimmed if find_spec("torchvision") else COMMAND
        command = [*start, "train", "clip", *settings, "--out", str(Path(folder, "run"))]
        clock, log = time.perf_counter(), Path(folder, "log")
        with log.open("w") as out:
            process = subprocess.Popen(command, env=environment(args.threads), stdout=out, stderr=out)
            _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"the training ended with status {process.returncode}: {log.read_text()[-2000:]}")
        return used.ru_utime + used.ru_stime, time.perf_counter() - clock


def columns(rounds: list[Seconds]) -> dict[str, list[float]]:
    return {"cpu_s": [cpu for cpu, _ in rounds], "clock_s": [clock for _, clock in rounds]}


def as_markdown(record: dict[str, Any]) -> str:
    lines = [
        "{threads} threads, a competitor of {competitor}; {passes} passes over {size:,} pairs, D {dim}, float32; "
        "{steps} steps of training; {rounds} rounds, torch {torch}, load average before {load:.1f}.".format(**record),
        "",
        "| run | CPU seconds, quiet | beside the competitor, to quiet | clock seconds, quiet | beside, to quiet |",
        "|:--|--:|--:|--:|--:|",
    ]
    for row in record["rows"]:
        cells = []
        for kind in ("cpu_s", "clock_s"):
            quiet, loaded = row["quiet"][kind], row["loaded"][kind]
            cells += [f"{median(quiet):.2f}", spread(ratios(loaded, quiet))]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"    {record['command']}", ""])


if __name__ == "__main__":
    main()
