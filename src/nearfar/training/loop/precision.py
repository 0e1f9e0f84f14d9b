"""Mixed precision: which autocast a device gets, and the loss scaler that float16 needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve(device: torch.device, precision: str) -> str:
    """'no', 'bf16' or 'fp16': what `precision` means on `device`.

    >>> resolve(torch.device("cpu"), "auto")
    'no'
    """
    if precision != "auto":
        return precision
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower()
    if launched in ("no", "bf16", "fp16"):
        return launched
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "no"


def autocast_for(device: torch.device, precision: str) -> Callable[[], AbstractContextManager[Any]]:
    """A maker of autocast contexts."""
    dtype = TYPES.get(resolve(device, precision))
    return nullcontext if dtype is None else lambda: torch.autocast(device.type, dtype=dtype)


def grad_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler | None:
    """The loss scaler of float16, else None."""
    return torch.amp.GradScaler(device.type) if resolve(device, precision) == "fp16" else None
