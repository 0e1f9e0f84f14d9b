"""What a command costs before it does anything: `nearfar search` with one query, by the index's model and by the same
as ONNX files that the index carries, and commands without torch, beside `import torch` alone, and with what
transformers needs to run a model.

    .venv/bin/python benchmarks/commands.py

Each is a process of its own; CPU seconds are of the whole process. All run in turn within each round. After them the
imports of both queries are taken apart by what they belong to (`python -X importtime`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

from _measure import ratios, spread
from nearfar import files, load
from nearfar.data import world
from nearfar.search import build
from nearfar.search.querying.carried_model import carry

RESULTS = Path(__file__).parent / "results" / "commands.json"
SHOWN = 7  # packages in the table of imports
TORCH, TRANSFORMERS = "import torch", "import torch, transformers.modeling_utils"
SEARCH, CARRIED = "nearfar search", "nearfar search --index CARRYING"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="starter", help="what the index is made with")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plain_index, carrying = (Path(folder) / name for name in ("index", "carrying"))
        model = load(args.model)
        for index in (plain_index, carrying):
            build(model, world.emoji("val"), index, model=args.model)
        carry(model, carrying, name=args.model)
        search = ["-m", "nearfar.cli", "search", "a red heart", "--index"]
        commands = {
            TORCH: ["-c", TORCH],
            TRANSFORMERS: ["-c", TRANSFORMERS],
            SEARCH: [*search, str(plain_index)],
            CARRIED: [*search, str(carrying)],
            "nearfar recipes": ["-m", "nearfar.cli", "recipes"],
            "nearfar train --help": ["-m", "nearfar.cli", "train", "--help"],
        }
        for command in commands.values():
            cpu_seconds(command)  # what is compiled and cached at the first start is not counted
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(args.rounds):
            for name, command in commands.items():
                seconds[name].append(cpu_seconds(command))
        plain = set(imports(commands[TORCH]))
        shares = {name: by_owner(imports(commands[name]), plain) for name in (SEARCH, CARRIED)}
    record = {
        "rounds": args.rounds,
        "model": args.model,
        "torch": version("torch"),
        "transformers": version("transformers"),
        "onnxruntime": version("onnxruntime"),
        "load": os.getloadavg()[0],
        "cpu_s": seconds,
        "imports_s": shares,
    }
    files.write(args.output, json.dumps(record, indent=1) + "\n")
    files.write(args.output.with_suffix(".md"), as_markdown(record))
    print(as_markdown(record))


def cpu_seconds(arguments: Sequence[str]) -> float:
    """CPU seconds of a Python process with these arguments, on one thread."""
    before = _spent()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, env=one_thread(), check=True)
    return _spent() - before


def imports(arguments: Sequence[str]) -> dict[str, float]:
    """By module that a Python process with these arguments imports: seconds of its own, without those it imports."""
    command = [sys.executable, "-X", "importtime", *arguments]
    printed = subprocess.run(command, capture_output=True, text=True, env=one_thread(), check=True).stderr
    taken = re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", printed, re.MULTILINE)
    return {module: int(microseconds) / 1e6 for microseconds, module in taken}


def by_owner(modules: dict[str, float], plain: set[str]) -> dict[str, float]:
    """Seconds of what modules are counted to, the most first."""
    shares: dict[str, float] = {}
    for module, took in modules.items():
        owner = owner_of(module, plain)
        shares[owner] = shares.get(owner, 0.0) + took
    return dict(sorted(shares.items(), key=lambda share: -share[1]))


def owner_of(module: str, plain: set[str]) -> str:
    """What a module is counted to; `plain` are those of `import torch` alone."""
    if module in plain:
        return TORCH
    package = module.partition(".")[0]
    return "more of torch" if package == "torch" else package


def one_thread() -> dict[str, str]:
    """The environment, with one thread, in which Python keeps what it compiles, as it does unless it is forbidden."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}


def _spent() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def as_markdown(record: dict) -> str:
    lines = [
        "{rounds} rounds, torch {torch}, transformers {transformers}, onnxruntime {onnxruntime}, model {model}, load "
        "average {load:.1f}. CARRYING is an index made with `--onnx`.".format(**record),
        "",
        "| process | CPU seconds | to `import torch`, round by round |",
        "|:--|--:|--:|",
    ]
    for name, seconds in record["cpu_s"].items():
        lines.append(f"| `{name}` | {median(seconds):.2f} | {spread(ratios(seconds, record['cpu_s'][TORCH]))} |")
    for name, shares in record["imports_s"].items():
        total = sum(shares.values())
        lines += ["", f"| imports of `{name}` | share of their time |", "|:--|--:|"]
        parts = list(shares.items())
        parts = [*parts[:SHOWN], ("all others", sum(took for _, took in parts[SHOWN:]))]
        lines += [f"| {owner} | {100 * took / total:.0f} % |" for owner, took in parts]
    return "\n".join([*lines, "", "    python benchmarks/commands.py", ""])


if __name__ == "__main__":
    main()
