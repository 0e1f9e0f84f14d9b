"""What is given to `nearfar.adapt`, opened and checked."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nearfar.adaptation.kept_reading import agreed
from nearfar.data import open_source
from nearfar.data.sources.source import Source
from nearfar.embedding.embed_source import embed
from nearfar.errors import UserError
from nearfar.models.dual.dual_encoder import DualEncoder
from nearfar.models.fusion.fusion_model import FusionModel
from nearfar.models.loading import load

LEAST = 8
"""Pairs that must be there to adapt to, and half of it to measure on."""

PASSES = 2.5
"""What a pair costs at most, in readings: its picture once and its mirror image, its texts once for each model."""


def pairs(data: Any, columns: Mapping[str, Any], max_skipped: float = 0.1) -> Source:
    """A source of pictures and captions."""
    source = open_source(
        data, max_skipped=max_skipped, **{name: value for name, value in columns.items() if value is not None}
    )
    if not isinstance(source, Source):
        raise UserError(f"{source.name} is a stream: adapt reads data that can be counted; leave out streaming")
    for side, called in (("image", "pictures"), ("text", "captions")):
        if side not in source.columns:
            raise UserError(f"{source.name} has no {called}: adapt takes pairs; name the column with {side}=NAME")
    return source


def dual_encoder(model: Any) -> DualEncoder:
    """The model to start from, in evaluation mode; a copy of one that was made elsewhere, which stays as it is."""
    made = load(model)
    if isinstance(made, FusionModel) or not isinstance(made, DualEncoder):
        raise UserError(
            f"{name_of(model)} is a {type(made).__name__}: adapt takes an image tower and a text tower with one "
            "embedding space, as CLIP, SigLIP and ALIGN have, or a run's folder of such a model"
        )
    return (made if isinstance(model, str | Path) else copy.deepcopy(made)).eval()


def name_of(model: Any) -> str:
    """What a model is called where it is spoken of."""
    return str(model) if isinstance(model, str | Path) else type(model).__name__


def affordable(
    source: Source,
    model: DualEncoder,
    minutes: float | None,
    batch_size: int,
    say: Callable[[str], None],
    folder: Path | None = None,
) -> Source:
    """As many records as the towers can read in two thirds of the time, spread evenly over the source; as many as a run
    in `folder` took that was killed."""
    if minutes is None:
        return source
    if not minutes > 0:
        raise UserError(f"minutes={minutes}: a time above 0, or leave it out")
    plan = {"data": source.name, "records": len(source), "minutes": minutes}
    count = agreed(folder, plan, "taken", lambda: _readable(source, model, minutes, batch_size))
    if count >= len(source):
        return source
    say(f"time: {count:,} of {len(source):,} pairs are taken, as many as the towers can read in it")
    rows = [i * len(source) // count for i in range(count)]
    return source.select(rows, name=f"{count:,} records of {source.name}")


def _readable(source: Source, model: DualEncoder, minutes: float, batch_size: int) -> int:
    """How many records the towers can read in two thirds of the time, by how long the first take."""
    probe = source.first(min(len(source), batch_size))
    began = time.perf_counter()
    embed(model, probe, batch_size=batch_size, max_skipped=1.0)
    each = (time.perf_counter() - began) / len(probe)
    return max(4 * LEAST, int(minutes * 60 * 2 / 3 / (each * PASSES)))


def check_numbers(fit: int, held: int, *, share: float | None) -> None:
    """Raise a `UserError` where there are too few pairs to adapt to, or to measure on."""
    if fit < LEAST or held < LEAST // 2:
        remedy = (
            "bring more pairs" if share is None else f"bring more pairs, or change share={share}, which is held out"
        )
        raise UserError(
            f"{fit} pairs to adapt to and {held} to measure on, where at least {LEAST} and {LEAST // 2} are needed: "
            f"{remedy}"
        )
