"""A temperature for each sample, found by the size of a ball of distributions (iSogCLR, arXiv 2305.11965).

An anchor's loss with h_j = <anchor, negative_j> - <anchor, positive> and u the uniform distribution over its negatives,

    min_tau  tau log E_u exp(h / tau) + tau rho  =  max_p  E_p[h]  over  KL(p || u) <= rho ,

has at its minimum KL(p || u) = rho, where p is the softmax of h / tau: the derivative to tau is rho - KL(p || u). With
k of m negatives equal at the top no softmax is further than log(m / k) from u, so that a larger rho sends tau to its
lower bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nearfar.errors import UserError


@dataclass(frozen=True)
class TemperatureRule:
    """How the temperature of a sample follows the derivative of its loss.

    Args:
        rho: the size of the ball, above 0 and below log(m / k) (see above). 0.1 to 0.5 for one modality; 6 to 8 for
            millions of pairs of image and text, where a moving average stands for all of them.
        lr: step of a temperature, eta.
        share: weight of the new derivative in its moving average, beta; 1 keeps nothing of the older ones.
        clip: derivatives are kept within plus and minus this; None leaves them.
        bounds: of a temperature.
        visits: the step falls to 0 along a quarter of a cosine over so many visits of a sample, an epoch each (an
            option of the paper's code); None: it stays as it is.

    Raises:
        UserError: a value out of its range.

    >>> rule = TemperatureRule(rho=0.5, lr=0.1, share=1.0, bounds=(0.1, 1.0))
    >>> rule.step(torch.tensor([0.2, 0.2]), torch.zeros(2), torch.tensor([2.0, -1.0]))[0]
    tensor([0.1000, 0.3000])
    """

    rho: float = 0.3
    lr: float = 0.03
    share: float = 0.9
    clip: float | None = 5.0
    bounds: tuple[float, float] = (0.05, 1.0)
    visits: int | None = None

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise UserError(f"rho={self.rho}: must be above 0")
        if not self.lr >= 0:
            raise UserError(f"lr={self.lr}: a temperature's step must be 0 or more")
        if not 0 < self.share <= 1:
            raise UserError(f"share={self.share}: the weight of the new derivative must be in (0, 1]")
        if self.clip is not None and not self.clip > 0:
            raise UserError(f"clip={self.clip}: must be above 0, or None")
        if not 0 < self.bounds[0] <= self.bounds[1]:
            raise UserError(f"bounds={self.bounds}: two temperatures above 0, the lower one first")
        if self.visits is not None and self.visits < 1:
            raise UserError(f"visits={self.visits}: over how many visits the step falls, at least 1, or None")

    def step(
        self, temperature: Tensor, slope: Tensor, derivative: Tensor, visited: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The next temperature and the next moving average of its derivative, from `temperature`, `slope` and the new
        `derivative`, and with `visits` how often each was `visited` before, each `[B]`, floating point, without
        gradient. NaN stays NaN."""
        if self.clip is not None:
            derivative = derivative.clamp(-self.clip, self.clip)
        slope = (1 - self.share) * slope + self.share * derivative
        step = self.lr * slope
        if self.visits is not None and visited is not None:
            step = step * torch.cos(math.pi / 2 * (visited / self.visits).clamp(max=1)).clamp(min=0)
        return (temperature - step).clamp(*self.bounds), slope

    def require_reachable(self, negatives: int, data: str) -> None:
        """Refuse a ball that no anchor with so many `negatives` in `data` can fill: every temperature would run to its
        lower bound.

        Raises:
            UserError: rho is not below the log of the number of negatives.

        >>> TemperatureRule(rho=6.0).require_reachable(200, "pets")
        Traceback (most recent call last):
        nearfar.errors.UserError: rho=6.0 must stay below log(200) = 5.30, the furthest that a softmax over the \
negatives of pets can be from uniform: else every temperature runs to its lower bound. Try 0.3.
        """
        furthest = math.log(max(negatives, 1))
        if self.rho >= furthest:
            raise UserError(
                f"rho={self.rho} must stay below log({negatives:,}) = {furthest:.2f}, the furthest that a softmax over "
                f"the negatives of {data} can be from uniform: else every temperature runs to its lower bound. Try 0.3."
            )


def kl_to_uniform(h: Tensor, temperature: float | Tensor) -> Tensor:
    """KL(p || u) of p = softmax(h / temperature) over the last dimension of `h` `[..., M]`, floating point; `[...]`.

    `temperature` is a number, or `[...]`. Raises nothing (arXiv 2305.11965).

    >>> round(kl_to_uniform(torch.tensor([0.0, -1.0]), 0.5).item(), 6)
    0.327813
    """
    x = h / torch.as_tensor(temperature, dtype=h.dtype, device=h.device)[..., None]
    log_p = x.log_softmax(-1)
    return (log_p.exp() * log_p).sum(-1) + math.log(h.shape[-1])


def best_temperature(h: Tensor, rho: float, *, bounds: tuple[float, float] = (1e-3, 1e3)) -> Tensor:
    """The temperature at which KL(softmax(h / tau) || uniform) is `rho`, by bisection, for each row of `h` `[..., M]`,
    floating point; `[...]`, a bound where the right value lies beyond it.

    What iSogCLR's moving temperatures (arXiv 2305.11965) come to rest at, from all negatives at once.

    Raises:
        UserError: bounds that are none.

    >>> h = torch.full((1000,), -1.0).index_fill(0, torch.arange(100), 0.0)  # 100 of 1,000 at the top
    >>> round(best_temperature(h, 0.5).item(), 4)
    0.4593
    """
    low, high = bounds
    if not 0 < low < high:
        raise UserError(f"bounds={bounds}: two temperatures above 0, the lower one first")
    below = h.new_full(h.shape[:-1], math.log(low), dtype=torch.float64)
    above = torch.full_like(below, math.log(high))
    for _ in range(60):
        middle = (below + above) / 2
        too_low = kl_to_uniform(h.double(), middle.exp()) > rho
        below, above = torch.where(too_low, middle, below), torch.where(too_low, above, middle)
    return ((below + above) / 2).exp().to(h.dtype)
