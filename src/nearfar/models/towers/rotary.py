"""Rotary frequencies stay in their own precision whatever a model's weights are cast to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

FREQUENCIES = ("inv_freq", "original_inv_freq")


@contextmanager
def frequencies_kept(module: nn.Module) -> Iterator[None]:
    """Undo what a cast in this block does to the rotary frequencies in `module`.

    They are no weights: computed from the config in float32, read in float32, and not saved. Rounded by
    `.bfloat16()`, they would differ from those of the same model opened again.
    """
    kept = [(part, name, getattr(part, name, None)) for part in module.modules() for name in FREQUENCIES]
    yield
    for part, name, value in kept:
        if isinstance(value, Tensor) and getattr(part, name).dtype != value.dtype:
            setattr(part, name, value.to(getattr(part, name).device))
