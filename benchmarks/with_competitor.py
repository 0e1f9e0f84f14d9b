"""Other benchmarks once more, while another process computes: the same ratios, beside a competitor.

    .venv/bin/python benchmarks/with_competitor.py              # all but the losses; about 20 minutes on 2 cores
    .venv-compare/bin/python benchmarks/with_competitor.py ops half_precision  # where open_clip is installed

Each script runs as it is, but for fewer rounds, in a process of its own, from start to end beside the competitor of
`under_load.py`: a process that multiplies matrices on one thread. Its record goes to
`benchmarks/results/with_competitor/`, and the page of benchmarks shows it beside the quiet one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from under_load import competitor

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "with_competitor"
RUNS = {
    "ops": ["--form", "InfoNCE, both directions", "--n", "4096", "8192", "--d", "512", "768", "--processes", "1"],
    "half_precision": ["--threads", "1", "--d", "512"],
    "search_limits": ["--rank-memory", "1000"],
    "first_epoch": [],
    "two_processes": [],
    "decoding": ["--batch", "1"],
    "index_changes": [],
    "commands": [],
    "training_loop": [],
}
"""Of each script what it is started with, beside the number of rounds."""
LOSSES = "ops", "half_precision"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "scripts", nargs="*", metavar="SCRIPT", help=f"of {', '.join(RUNS)}; all but the losses if none"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--competitor", type=int, default=1, help="threads of the competitor")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    options = parser.parse_args()
    scripts = options.scripts or [name for name in RUNS if name not in LOSSES]
    for name in scripts:
        if name not in RUNS:
            parser.error(f"no benchmark {name!r}; there are {', '.join(RUNS)}")
    options.results.mkdir(parents=True, exist_ok=True)
    folder = os.path.relpath(options.results.resolve(), ROOT)  # records name the command: no one's folders in it
    for name in scripts:
        flags = [*RUNS[name], "--rounds", str(options.rounds), "--output", f"{folder}/{name}.json"]
        with competitor(options.competitor) as process:
            subprocess.run([sys.executable, f"benchmarks/{name}.py", *flags], check=True, cwd=ROOT)
            if process.poll() is not None:
                raise RuntimeError(f"the competitor stopped before {name} did")


if __name__ == "__main__":
    main()
