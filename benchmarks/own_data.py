"""`nearfar adapt` on sets of pairs such as people have: is it above the model it starts from, and a ridge map alone?

    python benchmarks/own_data.py                        # what comes with nearfar: clip art, emoji in French
    python benchmarks/own_data.py --packages UNPACKED    # and units of Wesnoth, clothes of Fashion-MNIST
    python benchmarks/own_data.py --only costs           # what whole commands take; figures stay as recorded

UNPACKED holds the contents (`dpkg-deb -x`) of Debian's packages wesnoth-1.16-data and dataset-fashion-mnist. Each seed
holds out another fifth, whole things together; figures are the mean recall at 5 of both directions.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import numpy as np
from PIL import Image

import nearfar
from nearfar.data import Records, Source, world
from nearfar.data.batches.held_out import folds
from nearfar.machine import prepare

RESULTS = Path(__file__).parent / "results" / "own_data.json"
CLOTHES = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]


def clip_art() -> Source:
    """Drawings with the titles that their makers gave them, which the starter model has not seen."""
    records = [record for split in ("val", "test") for record in world.clipart(split) if record["title"].strip()]
    return Records([{"image": record["image"], "text": record["title"]} for record in records], name="clip art")


def french_emoji() -> Source:
    """Names in a language that the text tower was not made for; the starter model has not seen the concepts."""
    emoji = world.emoji("test", styles=["noto"], language="fr", tags=False)
    return Records([{"image": record["image"], "text": record["text"][0]} for record in emoji], name="emoji in French")


def wesnoth(packages: Path) -> Source:
    """Units of a game with their names and long descriptions."""
    core = next(path for path in packages.rglob("data/core") if (path / "units").is_dir())
    records = []
    for file in sorted((core / "units").rglob("*.cfg")):
        text = file.read_text("utf-8", "replace")
        description = re.search(r'description\s*=\s*_\s*"([^"]{40,})"', text)
        picture, name = re.search(r'\n\s*image="([^"~:]+)"', text), re.search(r'name=\s*_\s*"([^"]+)"', text)
        if description and picture and name and (core / "images" / picture[1]).is_file():
            caption = f"{name[1]}. {' '.join(description[1].split())}"
            records.append({"image": str(core / "images" / picture[1]), "text": caption})
    return Records(records, name="Wesnoth's units")


def clothes(packages: Path, count: int = 1000) -> Source:
    """Small grey pictures of ten classes, each with its class as a sentence."""
    images = next(packages.rglob("train-images-idx3-ubyte.gz"))
    pixels = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16).reshape(-1, 28, 28)
    labels = images.with_name("train-labels-idx1-ubyte.gz")
    kinds = np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)
    records = [
        {"image": Image.fromarray(pixels[row]), "text": f"a photo of a {CLOTHES[kinds[row]]}"} for row in range(count)
    ]
    return Records(records, name="Fashion-MNIST")


def measured(source: Source, seed: int) -> dict[str, float | str]:
    """One seed: recall at 5 before, by a ridge map alone, and after; chance, and what it cost."""
    fold = folds(source, 5, seed=seed)
    fit, held = (source.select([row for row, part in enumerate(fold) if (part == 0) == out]) for out in (False, True))
    cpu, clock = time.process_time(), time.perf_counter()
    outcome = nearfar.adapt(fit, test=held, seed=seed)
    names = ("text_to_image_R@5", "image_to_text_R@5")
    figures = {name: mean(getattr(outcome, name)[metric] for metric in names) for name in ("before", "ridge", "after")}
    chance = mean(outcome.after.metrics[name].chance or 0.0 for name in names)
    cost = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - clock}
    return {**figures, "chance": chance, **cost, "chosen": outcome.chosen.name, "pairs": len(fit), "held": len(held)}


def cost_of(count: int) -> dict[str, float]:
    """What the whole command costs for so many pairs, folder and index written, in a process of its own. Drawings that
    the starter model was trained on, under German names: for the time, not for the figures."""
    with tempfile.TemporaryDirectory() as folder:
        code = (
            "import sys, nearfar\nfrom nearfar.data import world\nfrom nearfar.machine import prepare\nprepare()\n"
            "source = world.emoji('train', language='de', tags=False).first(int(sys.argv[1]))\n"
            "assert len(source) == int(sys.argv[1])\nnearfar.adapt(source, out=sys.argv[2])"
        )
        before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, "-c", code, str(count), folder], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"pairs": count, "cpu_s": cpu, "wall_s": time.perf_counter() - clock, "peak_GiB": after.ru_maxrss / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--packages", type=Path, metavar="UNPACKED")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cost", type=int, nargs="+", default=[300, 5000], metavar="PAIRS", help="whole commands")
    parser.add_argument("--only", choices=("costs", "sets"), help="the other part stays as the output has it")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    prepare()
    record = json.loads(options.output.read_text("utf-8")) if options.only else {}
    if options.only != "sets":
        record["cost"] = [cost_of(count) for count in sorted(options.cost)]
    if options.only != "costs":
        record |= {"seeds": options.seeds, "sets": measured_sets(options.packages, options.seeds)}
    record = {key: record[key] for key in ("seeds", "cost", "sets")}
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(table(record["sets"]) + cost_table(record["cost"]))


def measured_sets(packages: Path | None, seeds: int) -> dict[str, list[dict[str, float | str]]]:
    """Each set of pairs, once a seed."""
    sets: list[Callable[[], Source]] = [clip_art, french_emoji]
    if packages:
        sets += [lambda: wesnoth(packages), lambda: clothes(packages)]
    rows = {}
    for make in sets:
        source = make()
        rows[source.name] = [measured(source, seed) for seed in range(seeds)]
        print(source.name, json.dumps(rows[source.name][-1]), flush=True)
    return rows


def table(rows: dict[str, list[dict]]) -> str:
    """The means over seeds, in %."""
    lines = [
        "| pairs of | adapted to | chance | before | linear ridge map | after | chosen | CPU s |",
        "|---|--:|--:|--:|--:|--:|---|--:|",
    ]
    for name, seeds in rows.items():
        cells = [f"{100 * mean(seed[key] for seed in seeds):.1f}" for key in ("chance", "before", "ridge", "after")]
        kinds = ", ".join(dict.fromkeys(seed["chosen"] for seed in seeds))
        cpu = mean(seed["cpu_s"] for seed in seeds)
        lines.append(f"| {name} | {seeds[0]['pairs']:,} | {' | '.join(cells)} | {kinds} | {cpu:.0f} |")
    return "\n".join(lines) + "\n"


def cost_table(costs: list[dict[str, float]]) -> str:
    """Seconds and memory of whole commands."""
    lines = ["", "| whole command, pairs | s on the clock | CPU s | GiB at most |", "|--:|--:|--:|--:|"]
    for row in costs:
        lines.append(f"| {row['pairs']:,} | {row['wall_s']:.0f} | {row['cpu_s']:.0f} | {row['peak_GiB']:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
