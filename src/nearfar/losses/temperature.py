"""The temperature of a contrastive loss: fixed or learned, in either of the two parametrisations papers use."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from nearfar.losses.groups import lifted


class Temperature(nn.Module):
    """A temperature `tau`, by which similarities are divided.

    Args:
        initial: its first value, > 0. CLIP and ALBEF start at 0.07, ALIGN at 1.0.
        learnable: whether it is trained.
        parametrisation: "log" trains `-ln tau` (CLIP's `logit_scale`), "divisor" trains `tau` itself (ALIGN, ALBEF).
        bounds: `clamp_` keeps a trained tau within them. Methods call it after each optimiser step, so that a bound
            never hides the gradient. CLIP keeps tau >= 0.01, ALBEF within (0.001, 0.5); None leaves it free.

    Example:
        >>> tau = Temperature(0.5)
        >>> round(tau().item(), 6), round(tau.scale().item(), 6)
        (0.5, 2.0)
    """

    def __init__(
        self,
        initial: float = 0.07,
        *,
        learnable: bool = True,
        parametrisation: Literal["log", "divisor"] = "log",
        bounds: tuple[float, float] | None = (0.01, 100.0),
    ) -> None:
        super().__init__()
        if not initial > 0:
            raise ValueError(f"a temperature must be positive, got {initial}")
        if parametrisation not in ("log", "divisor"):
            raise ValueError(f"parametrisation must be 'log' or 'divisor', got {parametrisation!r}")
        if bounds is not None and not 0 < bounds[0] <= bounds[1]:
            raise ValueError(f"bounds must be 0 < low <= high, got {bounds}")
        self.parametrisation = parametrisation
        self.bounds = bounds
        value = torch.tensor(-math.log(initial) if parametrisation == "log" else float(initial))
        self.value = nn.Parameter(value, requires_grad=learnable)

    def forward(self) -> Tensor:
        """tau, a scalar tensor, in float32 also where the parameter is held in half precision."""
        value = lifted(self.value)
        return torch.exp(-value) if self.parametrisation == "log" else value

    def scale(self) -> Tensor:
        """1 / tau, by which similarities are multiplied."""
        value = lifted(self.value)
        return torch.exp(value) if self.parametrisation == "log" else 1 / value

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring tau back within its bounds, in place. One that is not trained stays as it is."""
        if self.bounds is None or not self.value.requires_grad:
            return
        low, high = self.bounds
        if self.parametrisation == "log":
            self.value.clamp_(-math.log(high), -math.log(low))
        else:
            self.value.clamp_(low, high)

    def extra_repr(self) -> str:
        return f"{self().item():.4g}, learnable={self.value.requires_grad}, parametrisation={self.parametrisation!r}"


def as_scale(temperature: float | Tensor) -> float | Tensor:
    """1 / temperature, checked: a plain number must be positive."""
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return 1 / lifted(temperature) if isinstance(temperature, Tensor) else 1 / temperature


def as_temperature(temperature: float | Temperature, *, learnable: bool) -> Temperature:
    """The temperature of a loss: one that is given as a module is taken as it is."""
    return temperature if isinstance(temperature, Temperature) else Temperature(temperature, learnable=learnable)
