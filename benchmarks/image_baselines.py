"""What the recipes of image contrast teach a small tower from scratch, beside the same tower untrained.

    python benchmarks/image_baselines.py --seeds 0 1
    python tools/write_tables.py

Each recipe trains as it is shipped, without its validation. Then frozen features of emojis that training never shows
are measured, on `val`, where settings are chosen, and on `test`, which no choice looks at: half of an emoji's styles
vote for those of the other half, by the 20 nearest (`knn`) or the nearest alone (`k = 1`), or a linear probe is fitted
to them. Each run joins the record when it ends, and takes the place of an older one of its recipe and seed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from nearfar import files
from nearfar.data import world
from nearfar.evaluation import embed, knn, linear_probe
from nearfar.evaluation.protocols.geometry import effective_rank
from nearfar.training.recipe import load

RECIPES = ["simclr", "moco", "byol", "simsiam", "supcon", "multicrop"]
UNTRAINED = "untrained"
RECORD = Path(__file__).parent / "results" / "image_baselines.json"
FIGURES = {"knn": "kNN", "nearest": "k = 1", "linear": "linear probe", "rank": "effective rank"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=[UNTRAINED, *RECIPES], choices=[UNTRAINED, *RECIPES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.NAME=VALUE", help="settings of the recipes")
    parser.add_argument("--splits", nargs="+", default=["val", "test"], choices=["val", "test"])
    parser.add_argument("--emojis", type=int, help="measure on the first so many alone")
    parser.add_argument("--output", type=Path, default=RECORD)
    args = parser.parse_args()
    for seed in args.seeds:
        for name in args.recipes:
            row = run(name, seed, args)
            record = joined(args.output, row)
            files.write(args.output, json.dumps(record, indent=1) + "\n")
            files.write(args.output.with_suffix(".md"), as_markdown(record))
            print(json.dumps(row), flush=True)
    print(as_markdown(record))


def run(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train one recipe with one seed, and measure."""
    settings = {"training.seed": seed, "training.report": False, "training.progress": False}
    settings |= {"data.validation": None, "evaluation.data": None, "evaluation.watch": []}
    recipe = load(
        RECIPES[0] if name == UNTRAINED else name, [*(f"{k}={json.dumps(v)}" for k, v in settings.items()), *args.set]
    )
    began, steps = time.process_time(), 0
    if name == UNTRAINED:
        model = recipe.build().method.encoder.eval()
    else:
        with tempfile.TemporaryDirectory() as folder:
            finished = recipe.run(Path(folder) / "run")
        model, steps = finished.model.eval(), finished.step
    spent = time.process_time() - began
    measured = {split: measure(model, split, args.emojis) for split in args.splits}
    return {"recipe": name, "seed": seed, "steps": steps, "cpu_s": round(spent, 1), **measured}


def measure(model: Any, split: str, emojis: int | None) -> dict[str, float]:
    """The figures of a split."""
    source = world.emoji(split, tags=False)
    embedded = embed(model, source if emojis is None else source.first(5 * emojis), captions=0)
    return {
        "knn": knn(embedded)["top1"],
        "nearest": knn(embedded, k=1)["top1"],
        "linear": linear_probe(embedded, cs=(1.0, 10.0, 100.0), max_iter=200)["top1"],
        "rank": round(float(effective_rank(embedded.image)), 2),
    }


def joined(path: Path, row: dict[str, Any]) -> dict[str, Any]:
    """The record with a new row, in the order of the recipes."""
    record = json.loads(path.read_text()) if path.is_file() else {"rows": []}
    key = (row["recipe"], row["seed"])
    rows = [other for other in record["rows"] if (other["recipe"], other["seed"]) != key] + [row]
    rows.sort(key=lambda one: ([UNTRAINED, *RECIPES].index(one["recipe"]), one["seed"]))
    return {"torch": torch.__version__, "cores": os.cpu_count(), "rows": rows}


def as_markdown(record: dict[str, Any], split: str = "test") -> str:
    """Means over the seeds, and the lowest and highest where there are several."""
    lines = [
        "| recipe | seeds | steps | CPU minutes | " + " | ".join(FIGURES.values()) + " |",
        "|:--|--:|--:|--:|" + "--:|" * len(FIGURES),
    ]
    for name in dict.fromkeys(row["recipe"] for row in record["rows"]):
        rows = [row for row in record["rows"] if row["recipe"] == name and split in row]
        if not rows:
            continue
        minutes = mean(row["cpu_s"] for row in rows) / 60
        cells = [shown([row[split][figure] for row in rows], 1 if figure == "rank" else 3) for figure in FIGURES]
        label = name if name == UNTRAINED else f"`{name}`"
        lines.append(f"| {label} | {len(rows)} | {rows[0]['steps']} | {minutes:.1f} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "    python benchmarks/image_baselines.py", ""])


def shown(values: list[float], digits: int) -> str:
    around = "" if len(values) == 1 else f" ({min(values):.{digits}f} to {max(values):.{digits}f})"
    return f"{mean(values):.{digits}f}{around}"


if __name__ == "__main__":
    main()
