"""Two revisions of nearfar side by side: is anything slower than it was?

    .venv/bin/python benchmarks/revisions.py fcbc048                      # losses: that commit against this one
    .venv/bin/python benchmarks/revisions.py fcbc048 --parts train demo   # twelve steps of training, and the demo

The two take turns, each turn in a process of its own, the losses with one thread or as many as are named. Of each turn
the fastest round counts: whatever else a machine does can only make a round slower. What is told is the median over
turns of after / before.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "revisions.json"
FORMS = ("InfoNCE, both directions", "InfoNCE, one direction", "NT-Xent", "sigmoid")
COMMANDS = {"demo": ("demo",), "train": ("train", "clip", "training.steps=12", "data.validation=null")}
PARTS = ("losses", *COMMANDS)
LABELS = {"demo": "`nearfar demo`, up to its adapting", "train": "`nearfar train`, 12 steps"}
# The demo has come to end by adapting to a folder. Both revisions are timed up to there.
COMMAND = """
import importlib, importlib.util, sys
from nearfar.cli import main
module = "nearfar.commands.demo_command"
if importlib.util.find_spec(module):
    importlib.import_module(module).adapt_to_a_folder = lambda *_: None
sys.exit(main())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("before", help="a commit")
    parser.add_argument("after", nargs="?", default="HEAD")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=7, help="in each process")
    parser.add_argument("--n", type=int, default=4096)
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1, help="of the losses")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=["losses"], help="what is compared; commands take half the turns"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(losses(options.n, options.d, options.rounds, options.threads)))
        return
    # A part that is not measured this time stays as it was recorded, with the commits of its own.
    record = json.loads(options.output.read_text()) if options.output.is_file() else {}
    commits = {name: git("rev-parse", "--short", getattr(options, name)) for name in ("before", "after")}
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    with tempfile.TemporaryDirectory() as folder:
        sources = {name: checkout(getattr(options, name), Path(folder) / name) for name in ("before", "after")}
        try:
            for part in options.parts:
                if part == "losses":
                    rounds = compare_losses(sources, options)
                else:
                    rounds = {part: compare_commands(part, sources, Path(folder), max(1, options.turns // 2))}
                record[part] = {"commits": commits, "machine": machine, "rounds": rounds}
        finally:
            for source in sources.values():
                git("worktree", "remove", "--force", str(source))
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(table(record))
    print(table(record))


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", HERE.parent, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def checkout(commit: str, folder: Path) -> Path:
    """The files of a commit, compiled, so that no turn pays for that."""
    git("worktree", "add", "--detach", str(folder), commit)
    compileall.compile_dir(str(folder / "src"), quiet=1)
    return folder


def environment(source: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(source / "src"), "OMP_WAIT_POLICY": "passive"}


def losses(n: int, d: int, rounds: int, threads: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each form's fastest round in this process, by whichever nearfar it imports."""
    import torch
    from torch.nn.functional import normalize

    from _measure import interleave
    from nearfar import ops

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    q, k = (normalize(torch.randn(n, d), dim=1).requires_grad_() for _ in range(2))
    scale, bias = (torch.tensor(x, requires_grad=True) for x in (14.3, -10.0))
    both = torch.cat([q[: n // 2], k[: n // 2]]).detach().requires_grad_()
    loss = {
        "InfoNCE, both directions": lambda: ops.info_nce(q, k, scale),
        "InfoNCE, one direction": lambda: ops.info_nce(q, k, scale, symmetric=False),
        "NT-Xent": lambda: ops.nt_xent(both, scale),
        "sigmoid": lambda: ops.sigmoid(q, k, scale, bias),
    }
    runs = {name: (lambda f=f: f().backward()) for name, f in loss.items()}
    runs["product"] = lambda: q.detach() @ k.detach().T
    timings = interleave(runs, "product", rounds)
    return {name: {"cpu": [min(t.cpu_rounds)], "wall": [min(t.wall_rounds)]} for name, t in timings.items()}


def compare_losses(
    sources: dict[str, Path], options: argparse.Namespace
) -> dict[str, dict[str, dict[str, list[float]]]]:
    rounds: dict = {form: {name: {"cpu": [], "wall": []} for name in sources} for form in (*FORMS, "product")}
    for turn in range(options.turns):
        for name in list(sources)[:: 1 if turn % 2 else -1]:
            child = [sys.executable, __file__, "-", "--child", "--n", str(options.n), "--d", str(options.d)]
            done = subprocess.run(
                [*child, "--rounds", str(options.rounds), "--threads", str(options.threads)],
                env=environment(sources[name]),
                check=True,
                capture_output=True,
                text=True,
            )
            for form, times in json.loads(done.stdout).items():
                for clock, values in times.items():
                    rounds[form][name][clock] += values
        print(f"turn {turn + 1} of {options.turns}", file=sys.stderr)
    return rounds


def compare_commands(
    command: str, sources: dict[str, Path], folder: Path, turns: int
) -> dict[str, dict[str, list[float]]]:
    rounds: dict = {name: {"cpu": [], "wall": []} for name in sources}
    for turn in range(turns):
        for name in list(sources)[:: 1 if turn % 2 else -1]:
            out = folder / f"{command}-{name}-{turn}"
            before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            child = [sys.executable, "-c", COMMAND, *COMMANDS[command], "--out", str(out)]
            subprocess.run(child, env=environment(sources[name]), check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            rounds[name]["wall"].append(time.perf_counter() - clock)
            rounds[name]["cpu"].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        print(f"{command}, turn {turn + 1} of {turns}", file=sys.stderr)
    return rounds


def table(record: dict) -> str:
    """After / before, turn by turn: medians, and the lowest and highest turn."""
    lines = ["| | after / before | CPU | lowest to highest turn | on the clock |", "|---|---|--:|--:|--:|"]
    for part in PARTS:
        for name, rounds in record.get(part, {}).get("rounds", {}).items():
            cpu, wall = (
                sorted(a / b for a, b in zip(*(rounds[key][clock] for key in ("after", "before")), strict=True))
                for clock in ("cpu", "wall")
            )
            commits = " / ".join(record[part]["commits"][key] for key in ("after", "before"))
            figures = f"{median(cpu):.3f} | {cpu[0]:.3f} to {cpu[-1]:.3f} | {median(wall):.3f}"
            lines.append(f"| {LABELS.get(name, name)} | {commits} | {figures} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
