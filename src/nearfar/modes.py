"""How a model is run: without training it, and with its batches on its device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No gradient and no dropout until the block ends; then every module is back in its own mode.

    >>> model = nn.Dropout()
    >>> with evaluating(model):
    ...     model.training
    False
    >>> model.training
    True
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def device_of(encoder: Any) -> torch.device:
    """The device of an encoder's first parameter; the CPU for one that has none."""
    parameters = encoder.parameters() if hasattr(encoder, "parameters") else iter(())
    return next((p.device for p in parameters), torch.device("cpu"))


def to_device(batch: Any, device: torch.device | str) -> Any:
    """The batch with every tensor, also inside dicts, on `device`; what is no tensor as it is.

    >>> to_device({"text": {"input_ids": torch.zeros(2, 3)}, "name": "pets"}, "meta")["text"]["input_ids"].device.type
    'meta'
    """
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {name: to_device(value, device) for name, value in batch.items()}
    return batch
