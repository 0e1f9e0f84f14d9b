"""The demo's model beside linear heads on random splits of single emoji: variants of a concept fall on both sides.

    OMP_NUM_THREADS=2 python benchmarks/demo_probe.py --output benchmarks/results/demo_probe.json

The world's own splits hold a concept out with all its variants ("cook", "man cook", "woman cook"), and clip art whose
words name it. Whoever draws single emoji at random as held out tests an easier thing; figures of such a split can only
be compared with figures of the same one. Here 319 of the emoji that are no flags are drawn for each seed, all other
emoji and all clip art are training data, and both models learn from them as they are.
"""

from __future__ import annotations

import json
import random
from argparse import ArgumentParser
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from demo_model import CANDIDATES, METRICS, TRAINED_STYLES, measure, read
from nearfar.data import world

PLAIN, DEMO = "linear heads on both sides", "+ 4 heads"
SHOWN = {DEMO: "the demo's model, trained for 15 epochs"}
HELD_OUT = 319


def main() -> None:
    """Train both on each random split, print a table, write the figures."""
    flags = ArgumentParser(description=__doc__)
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the split and of training")
    flags.add_argument("--quick", action="store_true", help="one split, one epoch, 400 pictures; nothing is recorded")
    flags.add_argument("--cache", type=Path, help="keep the features in this file, and take them from it")
    flags.add_argument("--output", type=Path)
    options = flags.parse_args()
    first = 400 if options.quick else None
    (features,) = read(options.cache, ("world/emoji+clipart", {"split": "all"}, ("none",)), first=first)
    seeds, change = (options.seeds[:1], {"epochs": 1, "batch_size": 64}) if options.quick else (options.seeds, {})
    rows: dict[str, Any] = {name: [] for name in (PLAIN, DEMO)}
    for seed in seeds:
        train, test = random_split(features, seed)
        for name, runs in rows.items():
            runs.append(measure(CANDIDATES[name] | change, seed, train, test))
            print(f"seed {seed} {name:<34}", " ".join(f"{100 * runs[-1]['seen'][m]:.1f}" for m in METRICS), flush=True)
    if options.output and not options.quick:
        document = {"seeds": options.seeds, "held_out": HELD_OUT, "rows": rows}
        options.output.write_text(json.dumps(document, indent=1) + "\n")
        options.output.with_suffix(".md").write_text(as_markdown(document))


def as_markdown(document: dict[str, Any]) -> str:
    """Of each model the mean over splits and seen styles, and the lowest and highest of them."""
    lines = [
        "| on random splits | text to image R@1 | R@10 | MRR | image to text R@1 | R@10 |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    for name, runs in document["rows"].items():
        cells = []
        for metric in METRICS:
            percentages = [100 * style[metric] for run in runs for style in run["styles"].values()]
            cells.append(f"{mean(percentages):.1f} ({min(percentages):.1f} to {max(percentages):.1f})")
        lines.append(f"| {SHOWN.get(name, name)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def random_split(everything: dict[str, Any], seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Features to train on (the seen styles of the other emoji, all clip art) and to test with (`HELD_OUT` emoji drawn
    from those that are no flags, in every style)."""
    drawable = [number for number, concept in enumerate(world.concepts()) if concept["category"] != "flags"]
    drawn = torch.tensor(random.Random(seed).sample(drawable, HELD_OUT))
    group, domain = everything["numbers"]["group"], everything["numbers"]["domain"]
    emoji = domain < len(world.STYLES)
    tested = emoji & torch.isin(group, drawn)
    trained_style = torch.isin(domain, torch.tensor([world.STYLES.index(style) for style in TRAINED_STYLES]))
    return _rows(everything, (~emoji | trained_style) & ~tested), _rows(everything, tested)


def _rows(features: dict[str, Any], chosen: torch.Tensor) -> dict[str, Any]:
    def kept(rows: list[Any]) -> list[Any]:
        return [row for row, keep in zip(rows, chosen.tolist(), strict=True) if keep]

    return {
        "records": kept(features["records"]),
        "image": features["image"][:, chosen],
        "geometry": features["geometry"][:, chosen],
        "text": features["text"],
        "texts": kept(features["texts"]),
        "numbers": {name: values[chosen] for name, values in features["numbers"].items()},
    }


if __name__ == "__main__":
    main()
