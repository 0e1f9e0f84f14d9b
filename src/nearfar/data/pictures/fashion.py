"""Fashion-MNIST (arXiv 1708.07747), read at run time: 70,000 grey pictures of ten kinds of clothes, 28 pixels a side.

The Debian package `dataset-fashion-mnist` holds it (MIT licence); nothing of it ships with nearfar.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nearfar import lookup
from nearfar.data.sources.source import Record, Source
from nearfar.errors import UserError

FOLDER = "/usr/share/datasets/fashion-mnist"
"""Where the Debian package puts it."""

CLASSES = [
    "T-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
]
PARTS = {"train": ("train",), "val": ("train",), "test": ("t10k",), "all": ("train", "t10k")}
"""The files of each split, by how their names begin."""

HELD_OUT = 12
"""One in so many pictures of the training file are `val`: the last 5,000 of 60,000."""

LARGEST = 1 << 26
"""Bytes of a file; the training pictures are 47 million. A damaged head may say more than there is memory."""


def fashion(split: str = "train", *, folder: str | os.PathLike[str] | None = None) -> Source:
    """Fashion-MNIST: `image`, `text` (the name of its class) and `label`.

    Args:
        split: "train" (the first 55,000 of its training pictures), "val" (the last 5,000), "test" (10,000); "all" for
            all of them. A picture's id is its place in its file, those of the test file after those of the other.
        folder: holds its four files, `train-images-idx3-ubyte` and `train-labels-idx1-ubyte` and both of `t10k`, packed
            (`.gz`) or not; None: where the Debian package puts them.

    Raises:
        UserError: the files are not there (`apt install dataset-fashion-mnist`), are damaged or others; no such split.
    """
    lookup.check("split", [split], PARTS)
    where = Path(folder if folder is not None else FOLDER)
    files = [_part(where, name) for name in PARTS[split]]
    pictures, labels = (np.concatenate(each) for each in zip(*files, strict=True))
    held = len(labels) // HELD_OUT
    first, stop = {"train": (0, len(labels) - held), "val": (len(labels) - held, len(labels))}.get(
        split, (0, len(labels))
    )
    before = len(_part(where, "train")[1]) if split == "test" else 0
    return _Clothes(pictures[first:stop], labels[first:stop], before + first, name=f"world/fashion:{split}")


class _Clothes(Source):
    """Pictures `[N, 28, 28]` uint8 with their labels `[N]`, numbered from `first` on."""

    columns = ("image", "text", "label", "index")
    classes = CLASSES

    def __init__(self, pixels: NDArray[Any], labels: NDArray[Any], first: int, *, name: str) -> None:
        self.pixels, self.labels, self.begin, self.name = pixels, labels, first, name

    def __len__(self) -> int:
        return len(self.labels)

    def record(self, index: int) -> Record:
        label = int(self.labels[index])
        picture = Image.fromarray(self.pixels[index])
        return {"image": picture, "text": CLASSES[label], "label": label, "index": self.begin + index}


def _part(folder: Path, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The pictures and labels of one pair of files."""
    files = [_file(folder, f"{name}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
    pictures, labels = (_read(str(file), file.stat().st_mtime_ns) for file in files)
    if pictures.ndim != 3 or labels.ndim != 1 or len(pictures) != len(labels):
        raise UserError(
            f"{files[0]} holds pictures {list(pictures.shape)} and {files[1].name} labels {list(labels.shape)}: one a "
            "picture is needed; install dataset-fashion-mnist anew"
        )
    if labels.size and int(labels.max()) >= len(CLASSES):
        raise UserError(f"{files[1]} has a label {int(labels.max())}: Fashion-MNIST has {len(CLASSES)} classes, from 0")
    return pictures, labels


def _file(folder: Path, name: str) -> Path:
    for file in (folder / f"{name}.gz", folder / name):
        if file.is_file():
            return file
    raise UserError(
        f"{folder} has no {name}.gz: Fashion-MNIST comes from a Debian package (apt install dataset-fashion-mnist); "
        "where its files lie elsewhere, name their folder (folder=..., in a recipe data.train.folder)"
    )


@lru_cache(maxsize=4)
def _read(file: str, written: int) -> NDArray[Any]:
    """The numbers of an IDX file, uint8: two zeros, 8 for bytes, how many axes, their lengths in four bytes each."""
    try:
        with gzip.open(file) if file.endswith(".gz") else Path(file).open("rb") as opened:
            head = opened.read(4)
            axes = head[3] if head[:3] == b"\0\0\x08" and len(head) == 4 else 0
            shape = np.frombuffer(opened.read(4 * axes), ">u4").astype(int).tolist()
            count = math.prod(shape) if len(shape) == axes else 0
            values = np.frombuffer(opened.read(min(count, LARGEST) + 1), np.uint8)
    except (OSError, EOFError, zlib.error, ValueError):
        raise UserError(f"{file} cannot be read to its end: install dataset-fashion-mnist anew") from None
    if not axes or len(values) != count:
        raise UserError(f"{file} is no whole IDX file of bytes: install dataset-fashion-mnist anew")
    return values.reshape(shape)
