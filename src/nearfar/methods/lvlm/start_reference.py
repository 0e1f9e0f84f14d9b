"""The model as it was before training, which preferences and S-VCO (arXiv 2502.13928) are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any, Self, TypeVar

import torch
from torch import nn

from nearfar.modes import evaluating

T = TypeVar("T")


class StartReference(nn.Module):
    """A frozen copy of a model; no copy, but the model itself with its adapters off, where nothing but adapters of peft
    is trained.

    >>> linear = nn.Linear(2, 2)
    >>> reference = StartReference(linear)
    >>> same = reference.of(linear, lambda model: torch.equal(model.weight, linear.weight))
    >>> same, reference.copy.weight.requires_grad
    (True, False)
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.copy: Any = None
        if not trains_adapters_alone(model):
            self.copy = deepcopy(model).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    @torch.no_grad()
    def of(self, model: nn.Module, compute: Callable[[Any], T]) -> T:
        """What `compute` makes of the reference, in evaluation mode and without gradient; `model` is the one that is
        trained."""
        if self.copy is not None:
            return compute(self.copy)
        with evaluating(model), without_adapters(model):
            return compute(model)


def trains_adapters_alone(model: nn.Module) -> bool:
    """Whether all that is trained of a model are adapters that peft put into it.

    >>> trains_adapters_alone(nn.Linear(2, 2))
    False
    """
    of_adapters = {
        id(weight)
        for module in model.modules()
        for name in getattr(module, "adapter_layer_names", ())
        for weight in getattr(module, name).parameters()
    }
    trained = [each for each in model.parameters() if each.requires_grad]
    can_be_off = any(hasattr(module, "disable_adapter") for module in model.modules())
    return can_be_off and bool(trained) and all(id(each) in of_adapters for each in trained)


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The adapters of a model off."""
    with ExitStack() as off:
        for module in model.modules():
            switch: Any = getattr(module, "disable_adapter", None)
            if switch is not None:
                off.enter_context(switch())
        yield
