"""The temperature of a contrastive loss: fixed or learned, in either of the two parametrisations papers use."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from nearfar.errors import UserError
from nearfar.losses.groups import lifted

RELEASED_BY_CLIP = (0.01, 1.0)
"""Bounds of tau: open_clip, NegCLIP's fork of it among them, keeps the scale 1 / tau within [1, 100]."""


class Temperature(nn.Module):
    """A temperature `tau`, by which similarities are divided.

    Args:
        initial: its first value, > 0. CLIP and ALBEF start at 0.07, ALIGN at 1.0.
        learnable: whether it is trained.
        parametrisation: "log" trains `-ln tau` (CLIP's `logit_scale`), "divisor" trains `tau` itself (ALIGN, ALBEF).
        bounds: `clamp_` keeps a trained tau within them. Methods call it after each optimiser step, so that a bound
            never hides the gradient. CLIP keeps tau >= 0.01, ALBEF within (0.001, 0.5); None leaves it free.

    Every loss takes a number, a tensor of one element (its initial value) or a `Temperature` for its `temperature`; a
    number is `Temperature(number)`, so it is trained unless the loss is made with `learnable=False`. One module given
    to several losses is shared by them.

    Raises:
        UserError: a temperature, parametrisation or bounds that are none.

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
            raise UserError(f"a temperature must be positive, got {initial}")
        if parametrisation not in ("log", "divisor"):
            raise UserError(f"parametrisation must be 'log' or 'divisor', got {parametrisation!r}")
        if bounds is not None and not 0 < bounds[0] <= bounds[1]:
            raise UserError(f"bounds must be 0 < low <= high, got {bounds}")
        self.parametrisation = parametrisation
        self.bounds = bounds
        value = torch.tensor(-math.log(initial) if parametrisation == "log" else float(initial))
        self.value = nn.Parameter(value, requires_grad=learnable)

    def forward(self) -> Tensor:
        """tau, a scalar tensor, in float32 also where the parameter is held in half precision."""
        value = lifted(self.value)
        return torch.exp(-value) if self.parametrisation == "log" else value

    def scale(self) -> Tensor:
        """1 / tau, by which similarities are multiplied: a scalar float32 tensor."""
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


Tau = float | Tensor | Temperature
"""What every loss takes for its `temperature`."""


def as_scale(temperature: Tau, rows: int | None = None) -> float | Tensor:
    """1 / temperature: a number or a scalar float32 tensor, or `[rows]` where a loss takes one temperature a row.

    Raises:
        UserError: a number that is not positive, or a tensor of another shape.
    """
    tau = temperature() if isinstance(temperature, Temperature) else temperature
    if not isinstance(tau, Tensor):
        if not tau > 0:
            raise UserError(f"temperature must be positive, got {tau}")
        return 1 / tau
    if tau.numel() != 1 and (rows is None or tau.shape != (rows,)):
        a_row = "" if rows is None else f", or one number a row [{rows}]"
        raise UserError(f"temperature must be one number{a_row}, got a tensor of shape {tuple(tau.shape)}")
    return 1 / lifted(tau)


def as_temperature(temperature: Tau, *, learnable: bool) -> Temperature:
    """The temperature of a loss module. A `Temperature` is taken as it is, a number or a tensor as an initial value.

    Raises:
        UserError: a tensor of several elements, or one that is trained elsewhere.
    """
    if isinstance(temperature, Temperature):
        return temperature
    if isinstance(temperature, Tensor):
        if temperature.numel() != 1:
            raise UserError(f"temperature must be one number, got a tensor of shape {tuple(temperature.shape)}")
        if temperature.requires_grad:
            raise UserError(
                "temperature is a tensor with a gradient, and a loss module trains its own: share a "
                "nearfar.losses.Temperature, or call the function in nearfar.losses.functional"
            )
        temperature = float(temperature)
    return Temperature(temperature, learnable=learnable)
