"""The first epoch over photographs, when every file is decoded: the loader beside a plain loop of Pillow's.

    OMP_NUM_THREADS=1 python benchmarks/first_epoch.py              # 256 JPEGs of 640 x 480, views `clip` of 224 pixels

The plain loop opens each file, cuts a random box of the same range, resizes it (bicubic) and normalises. The loader
reads from a folder and from a tar; a later epoch finds the canvases of the first one. All are timed in turn within
each round, in CPU seconds, and so are the parts of the first epoch: what is decoded is resampled to the canvas, and a
view sampled from it; beside them the other way, a view resized straight from its box of what is decoded, which no later
epoch could use. How far a picture of the loader's is from the same box cut from the whole photograph is measured first,
in levels of 0 to 255.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import random
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from _measure import interleave, ratios, spread
from nearfar import files
from nearfar.data import Loader, Records, open_source
from nearfar.data.pictures.images import decode, resize
from nearfar.data.pictures.views import Views

RESULTS = Path(__file__).parent / "results" / "first_epoch.json"
PLAIN = "plain loop of Pillow's"
SIZE, BATCH, CROP, RATIO = 224, 64, (0.9, 1.0), (3 / 4, 4 / 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=256, help="photographs")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = photographs(Path(folder), options.count)
        shard = packed(paths, Path(folder) / "photos-000000.tar")
        pictures = Records([{"image": str(path)} for path in paths])
        loops: dict[str, Callable[[], object]] = {
            PLAIN: lambda: plain(paths),
            "nearfar, a folder": epoch_over(pictures),
            "nearfar, a tar": epoch_over(open_source(shard)),
            "nearfar, a later epoch": epoch_over(pictures, cache=1 << 30),
        }
        runs = loops | parts_of_it(paths)
        away = difference(paths[: min(32, len(paths))])
        timings = interleave(runs, PLAIN, options.rounds)
    report = {
        "count": options.count,
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
        "levels": away,
        "command": "python benchmarks/first_epoch.py" + "".join(f" {word}" for word in sys.argv[1:]),
        "rows": [
            {
                "loop" if name in loops else "part": name,
                "ms": 1e3 * timing.cpu_s / options.count,
                "cpu": ratios(timing.cpu_rounds, timings[PLAIN].cpu_rounds),
                "clock": ratios(timing.wall_rounds, timings[PLAIN].wall_rounds),
            }
            for name, timing in timings.items()
        ],
    }
    files.write(options.output, json.dumps(report, indent=1) + "\n")
    files.write(options.output.with_suffix(".md"), as_markdown(report))
    print(as_markdown(report))


def photographs(folder: Path, count: int) -> list[Path]:
    """JPEGs of 640 x 480 pixels: soft shapes with the grain of a photograph."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        soft = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((640, 480), Image.BICUBIC)
        grain = np.asarray(soft).astype(int) + rng.integers(-12, 13, (480, 640, 3))
        paths.append(folder / f"{number:06}.jpg")
        Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def packed(paths: list[Path], shard: Path) -> Path:
    with tarfile.open(shard, "w") as tar:
        for path in paths:
            tar.add(path, path.name)
            caption = b"a photograph"
            member = tarfile.TarInfo(path.with_suffix(".txt").name)
            member.size = len(caption)
            tar.addfile(member, io.BytesIO(caption))
    return shard


def epoch_over(source: object, cache: int = 0) -> Callable[[], object]:
    """All batches of an epoch, with what `cache` bytes keep of an earlier one."""
    loader = Loader(source, batch_size=BATCH, image_size=SIZE, views="clip", cache=cache, drop_last=False)
    return lambda: sum(len(batch["image"]) for batch in loader)


def parts_of_it(paths: list[Path]) -> dict[str, Callable[[], object]]:
    """What the first epoch is made of, by name, and what could take the place of the last two."""
    views = Views("clip", size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3)
    decoded = [decode(path, near=views.canvas) for path in paths]
    canvases = torch.stack([as_tensor(resize(picture, views.canvas, fit="squash")) for picture, _ in decoded])
    draws, sizes = views.draw(len(paths), torch.Generator().manual_seed(0)), torch.tensor([size for _, size in decoded])

    def sampled() -> None:
        for rows in (slice(start, start + BATCH) for start in range(0, len(paths), BATCH)):
            views(canvases[rows], draws.rows(rows.start, rows.stop), sizes=sizes[rows])

    def cut() -> None:
        for start in range(0, len(decoded), BATCH):
            made = []
            for picture, _ in decoded[start : start + BATCH]:
                box = (5.3, 4.2, picture.width - 7.9, picture.height - 3.3)
                view = picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)
                made.append(as_tensor(np.array(view)).float().div_(255).sub_(0.5).div_(0.5))
            torch.stack(made)

    return {
        "decode at half the size": lambda: [decode(path, near=views.canvas) for path in paths],
        "to the canvas": lambda: [resize(picture, views.canvas, fit="squash") for picture, _ in decoded],
        "from the canvas to the view": sampled,
        "the canvas by Pillow": lambda: [
            np.array(picture.resize((views.canvas, views.canvas), Image.Resampling.BICUBIC)) for picture, _ in decoded
        ],
        "straight from the box, by Pillow": cut,
    }


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def plain(paths: list[Path]) -> int:
    count = 0
    for start in range(0, len(paths), BATCH):
        parts = []
        for path in paths[start : start + BATCH]:
            image = Image.open(path).convert("RGB")
            area = random.uniform(*CROP) * image.width * image.height
            aspect = math.exp(random.uniform(*map(math.log, RATIO)))
            width = min(image.width, round(math.sqrt(area * aspect)))
            height = min(image.height, round(math.sqrt(area / aspect)))
            left, top = random.randint(0, image.width - width), random.randint(0, image.height - height)
            image = image.crop((left, top, left + width, top + height)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            parts.append(torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255).sub_(0.5).div_(0.5))
        count += len(torch.stack(parts))
    return count


def difference(paths: list[Path]) -> float:
    """Mean absolute difference, in levels, of the loader's pictures and their boxes cut from the whole photographs."""
    loader = Loader(
        Records([{"image": str(path), "index": number} for number, path in enumerate(paths)]),
        batch_size=len(paths), image_size=SIZE, views="clip", cache=0, shuffle=False,
    )  # fmt: skip
    batch = next(iter(loader))
    away = []
    for made, matrix, number in zip(batch["image"], batch["geometry"][0], batch["index"].tolist(), strict=True):
        corners = (
            torch.linalg.inv(matrix.double())
            @ torch.tensor([[-0.5, SIZE - 0.5], [-0.5, SIZE - 0.5], [1.0, 1.0]]).double()
        )
        (left, right), (top, bottom) = (corners[:2] + 0.5).tolist()
        whole = Image.open(paths[number]).convert("RGB")
        box = (max(0.0, left), max(0.0, top), min(float(whole.width), right), min(float(whole.height), bottom))
        cut = np.asarray(whole.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box), float)
        away.append(np.abs((made.permute(1, 2, 0).numpy() + 1) * 127.5 - cut).mean())
    return float(np.mean(away))


def as_markdown(report: dict) -> str:
    lines = [
        "{count} JPEGs of 640 x 480, {threads} thread(s), {rounds} rounds, torch {torch}, load average {load:.1f}; "
        "pictures are {levels:.1f} levels of 255 from the box cut from the whole photograph, on average.".format(
            **report
        ),
        "",
        *table([row for row in report["rows"] if "loop" in row], "loop"),
        "",
        *table([row for row in report["rows"] if "part" in row], "part"),
    ]
    return "\n".join([*lines, "", f"    {report['command']}", ""])


def table(rows: list[dict], head: str) -> list[str]:
    lines = [f"| {head} | CPU ms a picture | to the plain loop, CPU | on the clock |", "|:--|--:|--:|--:|"]
    return lines + [
        f"| {row[head]} | {row['ms']:.1f} | {spread(row['cpu'])} | {spread(row['clock'])} |" for row in rows
    ]


if __name__ == "__main__":
    main()
