"""A run that has gone wrong stops at once, and keeps what is needed to see why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nearfar import distributed as processes
from nearfar import files
from nearfar.errors import UserError
from nearfar.methods.base import Batch


class NotFinite(UserError):
    """The loss or its gradient became NaN or infinite."""


def stop(step: int, scalars: dict[str, float], norm: float, used: Sequence[Batch], out: Path | None) -> None:
    """Write the ids of the batch to `not-finite-RANK.json` in the run folder and raise `NotFinite`."""
    where = ""
    if out:
        path = out / f"not-finite-{processes.rank()}.json"
        ids: list[Any] = [batch["index"].tolist() if "index" in batch else None for batch in used]
        details = {"step": step, "scalars": {**scalars, "gradient_norm": norm}, "index": ids}
        files.write(path, json.dumps(details, indent=1))
        where = f" The ids of its samples are in {path}."
    failed = "gradient" if all(map(finite, scalars.values())) else "loss"
    logged = ", ".join(f"{name} {value:.6g}" for name, value in scalars.items())
    raise NotFinite(
        f"the {failed} is not finite in step {step} ({logged}, gradient norm {norm:.6g}).{where} The weights are those "
        "of the step before. Lower lr, lengthen warmup, set clip_norm, raise the temperature, or check those samples."
    )


def finite(value: float) -> bool:
    """Whether a number is neither NaN nor infinite."""
    return value - value == 0
