"""What one process does in the tests of checkpoints that two processes write together."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nearfar import distributed, files
from nearfar.training.state import run_checkpoint
from nearfar.training.state.run_checkpoint import Checkpoints

DELAY = 0.4
"""Seconds: far longer than what the other process needs to go on where nothing holds it."""


def save_late(folder: str, late: str) -> tuple[str, dict, list[str], list[str]]:
    """Write three checkpoints, keep one; one process waits in the step `late`. What this process finds right after."""
    main, rank = distributed.is_main(), distributed.rank()
    if late == "folder" and main:
        hold(Path, "mkdir")
    if late == "process" and not main:
        # Only when the other has written all of its own may it be seen whether it waits, however busy the machine is.
        hold(run_checkpoint, "_save", until=lambda: any(Path(folder).glob(".*.tmp/state.json")))
    if late == "rename" and main:
        hold(files, "replace_folder")
    if late == "prune" and main:
        hold(shutil, "rmtree")
    checkpoints = Checkpoints(Path(folder), keep=1)
    for step in (1, 2, 3):
        state = {
            "step": step,
            "method": {"weight": torch.full((2,), float(step))},
            "average": None,
            "optimizer": {"optimizer": {}, "scaler": None},
            "process": {"rank": rank, "step": step},
            "progress": {"step": step, "processes": distributed.world_size()},
        }
        checkpoints.save(state, best=False)
    latest = checkpoints.latest()
    assert latest is not None
    left = sorted(path.name for path in Path(folder).glob("step-*"))
    names = sorted(path.name for path in latest.iterdir())
    return latest.name, run_checkpoint.load(latest)["process"], names, left


def hold(owner: Any, name: str, *, until: Callable[[], bool] = lambda: True) -> None:
    """Make a function wait before it begins, and first for `until`."""
    original = getattr(owner, name)

    def waiting(*args: Any, **settings: Any) -> Any:
        deadline = time.monotonic() + 20
        while not until() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(DELAY)
        return original(*args, **settings)

    setattr(owner, name, waiting)
