"""How a model is run: without training it or parts of it, and with its batches on its device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from nearfar.errors import UserError


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


class Freezable(nn.Module):
    """A model with parts that can be frozen by name: they get no gradient, and stay in evaluation mode, whatever
    `train()` says.

    Attributes:
        frozen: the names of those that are.

    >>> class Two(Freezable):
    ...     FREEZABLE = ("tower", "head")
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.tower, self.head = nn.Dropout(), nn.Linear(2, 2)
    >>> model = Two().freeze("tower").train()
    >>> model.frozen, model.tower.training, model.head.training
    (('tower',), False, True)
    """

    FREEZABLE: ClassVar[tuple[str, ...]]
    """The parts' names, which are attributes; a saved config may call these frozen, and no other."""

    frozen: tuple[str, ...] = ()

    def freeze(self, *parts: str) -> Self:
        """Stop training the named parts of `FREEZABLE`. Of a dual encoder `freeze("image")` is locked-image tuning: the
        pretrained image tower teaches the text tower.

        Raises:
            UserError: no such part.
        """
        for part in parts:
            self._part(part).requires_grad_(False)
        self.frozen = tuple(p for p in self.FREEZABLE if p in {*self.frozen, *parts})
        return self.train(self.training)

    def unfreeze(self, *parts: str) -> Self:
        """Train the named parts again; without names, all."""
        for part in parts or self.FREEZABLE:
            self._part(part).requires_grad_(True)
        self.frozen = tuple(p for p in self.frozen if parts and p not in parts)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self.frozen:
            self._part(part).eval()
        return self

    def _part(self, name: str) -> nn.Module:
        if name not in self.FREEZABLE:
            raise UserError(f"no part {name!r}: choose among {', '.join(self.FREEZABLE)}")
        return getattr(self, name)


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
