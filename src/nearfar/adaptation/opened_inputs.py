"""What is given to `nearfar.adapt`, opened and checked."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from nearfar.adaptation.kept_reading import ReadOnce, agreed
from nearfar.data import open_source
from nearfar.data.sources.source import Source
from nearfar.distributed import check_device
from nearfar.embedding.embed_source import embed
from nearfar.errors import UserError
from nearfar.models.dual.dual_encoder import DualEncoder
from nearfar.models.exported.onnx_encoder import refuse
from nearfar.models.fusion.fusion_model import FusionModel
from nearfar.models.loading import load

LEAST = 8
"""Pairs that must be there to adapt to, and half of it to measure on."""

MIRROR_UP_TO = 1000
"""Of so many records at most, each picture is read in the mirror too: more to learn from, at twice the time."""


def pairs(data: Any, columns: Mapping[str, Any], max_skipped: float = 0.1) -> Source:
    """A source of pictures and captions."""
    source = open_source(
        data, max_skipped=max_skipped, **{name: value for name, value in columns.items() if value is not None}
    )
    if not isinstance(source, Source):
        raise UserError(
            f"{source.name} is a stream, and adapt reads data that can be counted: leave out streaming, or save the "
            "rows as a table or with save_to_disk"
        )
    for side, called in (("image", "pictures"), ("text", "captions")):
        if side not in source.columns:
            remedy = f"name the column with {side}=NAME"
            if side == "text" and columns.get("captions") == "none":
                remedy = "leave out captions='none'"
            for kind, recipe in (("video", "xclip"), ("audio", "sounds")):
                if side == "image" and kind in source.columns:
                    remedy = f"models of what a column {kind} holds are trained: nearfar train {recipe} data.train=..."
            raise UserError(f"{source.name} has no {called}: adapt takes pairs; {remedy}")
    return source


def remarks(source: Source) -> Iterator[str]:
    """What its user should know before anything is read."""
    if source.remark:
        yield source.remark
    if "answers" in source.columns:
        yield f"{source.name}: its texts are questions: pictures are fitted to them, and answers are not read"


def dual_encoder(model: Any, device: str | None = None) -> DualEncoder:
    """The model to start from, in evaluation mode, on a device; a copy of one that was made elsewhere, which stays as
    it is."""
    if device is not None:
        check_device(device, "device")
    made = load(model)
    refuse(made, "adapt")
    if isinstance(made, FusionModel) or not isinstance(made, DualEncoder):
        raise UserError(
            f"{name_of(model)} is a {type(made).__name__}: adapt takes an image tower and a text tower with one "
            "embedding space, as CLIP, SigLIP and ALIGN have, or a run's folder of such a model"
        )
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return (made if isinstance(model, str | Path) else copy.deepcopy(made)).to(device or accelerator or "cpu").eval()


def name_of(model: Any) -> str:
    """What a model is called where it is spoken of."""
    return str(model) if isinstance(model, str | Path) else type(model).__name__


def affordable(
    source: Source,
    reader: ReadOnce,
    minutes: float | None,
    batch_size: int,
    say: Callable[[str], None],
    folder: Path | None = None,
    *,
    fitted: float = 0.8,
    part: float = 2 / 3,
) -> Source:
    """As many records as the towers can read in a part of the time, spread evenly over the source; as many as a run in
    `folder` took that was killed. `fitted` is the share that is adapted to."""
    if minutes is None:
        return source
    if not minutes > 0:
        raise UserError(f"minutes={minutes}: a time above 0, or leave it out")
    plan = {"data": source.name, "records": len(source), "minutes": minutes, "part": part}
    seconds = minutes * 60 * part
    count = agreed(folder, plan, "taken", lambda: readable(seconds, *_times(source, reader, batch_size), fitted))
    if count >= len(source):
        return source
    say(f"time: {count:,} of {len(source):,} pairs are taken, as many as the towers can read in it")
    rows = [i * len(source) // count for i in range(count)]
    return source.select(rows, name=f"{count:,} records of {source.name}")


def readable(seconds: float, first: float, again: float, fitted: float) -> int:
    """How many records can be read in so many seconds.

    A record is read once; those held out, the share `1 - fitted`, twice more, for the other models that are measured;
    all once more for the index; and of few records the others' mirror images go through the image tower, too.

    Args:
        seconds: that there are.
        first: seconds that a record takes.
        again: seconds that it takes once more, when what the image tower made of its picture is kept.
        fitted: the share that is adapted to.

    >>> readable(100.0, first=0.1, again=0.02, fitted=0.8), readable(1000.0, first=0.1, again=0.02, fitted=0.8)
    (520, 7812)
    """
    each = first + again * (1 + 2 * (1 - fitted))
    plain, mirrored = int(seconds / each), int(seconds / (each + fitted * max(0.0, first - again)))
    return max(4 * LEAST, plain if plain * fitted > MIRROR_UP_TO else mirrored)


def _times(source: Source, reader: ReadOnce, batch_size: int) -> tuple[float, float]:
    """Seconds that reading a record takes, and doing so again, by the first ones."""
    embed(reader.model, source.first(min(len(source), 4)), max_skipped=1.0)  # sets up what later readings use
    probe, times = source.first(min(len(source), batch_size)), []
    for _ in range(2):
        began = time.perf_counter()
        embed(reader, probe, batch_size=batch_size, max_skipped=1.0)
        times.append((time.perf_counter() - began) / len(probe))
    return times[0], times[1]


def check_numbers(fit: int, held: int, *, share: float | None, name: str) -> None:
    """Raise a `UserError` where there are too few pairs to adapt to, or to measure on; `name` is that of the data."""
    if fit < LEAST or held < LEAST // 2:
        remedy = "bring more pairs"
        if share is not None and fit + held >= LEAST + LEAST // 2:  # else no share leaves enough on both sides
            remedy += f", or change share={share}, which is held out"
        raise UserError(
            f"{name}: {fit} pairs to adapt to and {held} to measure on, where at least {LEAST} and {LEAST // 2} are "
            f"needed: {remedy}"
        )


def check_captions(captions: Collection[str], name: str) -> None:
    """Raise a `UserError` where all captions of the data are one: no text then tells one picture from another."""
    if len(set(captions)) == 1:
        one = next(iter(captions))
        words = one if len(one) <= 60 else f"{one[:59]}\N{HORIZONTAL ELLIPSIS}"
        raise UserError(
            f"{name}: the caption of every picture is {words!r}, which tells none from another: bring captions that "
            "differ, or pictures of several classes, a folder each"
        )
