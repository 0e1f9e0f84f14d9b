"""Mixed precision: which autocast a device gets, and the loss scaler that float16 needs. The weights are float32."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch

M = TypeVar("M", bound=torch.nn.Module)
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


def with_float32_weights(module: M) -> M:
    """The module, its half-precision weights and buffers raised to float32 in place: a small step on a bfloat16 weight
    is rounded away, and float16 overflows. What is computed in half precision is `autocast_for`'s to say.

    >>> next(with_float32_weights(torch.nn.Linear(1, 1).bfloat16()).parameters()).dtype
    torch.float32
    """
    return module._apply(lambda tensor: tensor.float() if tensor.dtype in TYPES.values() else tensor)


def autocast_for(device: torch.device, precision: str) -> Callable[[], AbstractContextManager[Any]]:
    """A maker of autocast contexts."""
    dtype = TYPES.get(resolve(device, precision))
    return nullcontext if dtype is None else lambda: torch.autocast(device.type, dtype=dtype)


def grad_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler | None:
    """The loss scaler of float16, else None."""
    return torch.amp.GradScaler(device.type) if resolve(device, precision) == "fp16" else None
