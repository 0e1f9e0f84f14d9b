"""Next-token logits of a picture joined with those of other conditions: RITUAL (arXiv 2405.17821) adds those of a
transformed picture, VCD (arXiv 2311.16922) and M3ID (CVPR 2024) subtract those of a noisy picture, or of none.

All functions take logits `[..., V]` of the same prefix, floating point, and return their dtype.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from nearfar.errors import UserError

Contrast = Literal["none", "vcd", "m3id"]


def ritual_logits(logits: Tensor, positive: Tensor, alpha: float = 3.0, *, normalise: bool = False) -> Tensor:
    """RITUAL's sum `l + alpha l+` (arXiv 2405.17821).

    With the same picture twice it is `(1 + alpha) l`: sampling at the temperature 1 / (1 + alpha), 0.25 by default, so
    that much of what it gains over sampling at 1 may be this alone. `normalise` divides by 1 + alpha.

    Args:
        logits: l, of the picture, `[..., V]`, floating point.
        positive: l+, of the transformed picture, `[..., V]`, floating point.
        alpha: weight of l+, at least 0 (paper: 3).
        normalise: keep the temperature (paper: False).

    >>> import torch
    >>> ritual_logits(torch.tensor([2.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 2.0]))
    tensor([2., 4., 6.])
    """
    return ConditionRule(alpha=alpha, beta=0.0, normalise=normalise)(logits, positive)


def vcd_logits(logits: Tensor, negative: Tensor, a: float = 1.0) -> Tensor:
    """VCD's contrast `(1 + a) l - a l-` (arXiv 2311.16922).

    Args:
        logits: l, of the picture, `[..., V]`, floating point.
        negative: l-, of the noisy picture, `[..., V]`, floating point.
        a: weight of the contrast, at least 0 (paper: 1).

    >>> import torch
    >>> vcd_logits(torch.tensor([2.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 2.0]))
    tensor([ 4.,  1., -2.])
    """
    return ConditionRule(alpha=0.0, contrast="vcd", a=a, beta=0.0)(logits, negative=negative)


def m3id_logits(
    logits: Tensor, text_only: Tensor, step: int, *, decay: float = 0.02, max_coefficient: float | None = None
) -> Tensor:
    """M3ID's contrast `l + (e^(decay t) - 1) (l - l-)` (CVPR 2024), as RITUAL's authors re-implement it: it counts at
    every token, however sure the model is, and the more the longer the text.

    Args:
        logits: l, of the picture, `[..., V]`, floating point.
        text_only: l-, of the words alone, `[..., V]`, floating point.
        step: t, tokens that are written already.
        decay: how fast the picture is forgotten (paper: 0.02).
        max_coefficient: the largest coefficient; None: it grows without bound, 6.4 at 100 tokens, 19 at 150.

    >>> import torch
    >>> logits, text_only = torch.tensor([2.0, 1.0]), torch.tensor([1.0, 1.0])
    >>> m3id_logits(logits, text_only, 0), m3id_logits(logits, text_only, 35)
    (tensor([2., 1.]), tensor([3.0138, 1.0000]))
    """
    rule = ConditionRule(alpha=0.0, contrast="m3id", decay=decay, max_coefficient=max_coefficient, beta=0.0)
    return rule(logits, negative=text_only, step=step)


def plausibility_mask(logits: Tensor, beta: float = 0.1) -> Tensor:
    """The tokens that are at least `beta` times as likely as the likeliest, `[..., V]` bool (arXiv 2210.15097). One
    token at least is among them; none that is ruled out (-inf).

    Args:
        logits: those of the picture itself, `[..., V]`, floating point: of the joint logits it were another method.
        beta: from 0, all tokens, to 1, the likeliest alone (paper: 0.1).

    Raises:
        UserError: `beta` out of its range.

    >>> import torch
    >>> plausibility_mask(torch.tensor([3.0, 1.0, 0.0]))
    tensor([ True,  True, False])
    """
    if not 0 <= beta <= 1:
        raise UserError(f"beta={beta}: a share of the likeliest token's probability, from 0 to 1")
    possible = logits > -math.inf
    return possible if beta == 0 else possible & (logits >= logits.amax(-1, keepdim=True) + math.log(beta))


@dataclass(frozen=True)
class ConditionRule:
    """How the logits of conditions are joined:

        l + alpha l+ + c (l - l-)     over the plausible tokens of l, all others -inf

    With `contrast="vcd"` c is `a`, with `"m3id"` it is e^(decay t) - 1. RITUAL's paper reports it together with both;
    its released code knows one at a time.

    Args:
        alpha: weight of l+, at least 0 (paper: 3); 0: there is none.
        contrast: "vcd", "m3id" or "none".
        a: VCD's coefficient, at least 0 (paper: 1; its code 0.5).
        beta: of `plausibility_mask` (paper: 0.1).
        decay, max_coefficient: of `m3id_logits`.
        normalise: divide by 1 + alpha, so that the temperature stays what it is (paper: False).

    Raises:
        UserError: a setting out of its range.

    >>> import torch
    >>> rule = ConditionRule()
    >>> rule(torch.tensor([3.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 9.0]))
    tensor([3., 4., -inf])
    """

    alpha: float = 3.0
    contrast: Contrast = "none"
    a: float = 1.0
    beta: float = 0.1
    decay: float = 0.02
    max_coefficient: float | None = None
    normalise: bool = False

    def __post_init__(self) -> None:
        if self.contrast not in ("none", "vcd", "m3id"):
            raise UserError(f"contrast={self.contrast!r}: choose 'none', 'vcd' or 'm3id'")
        if not 0 <= self.beta <= 1:
            raise UserError(f"beta={self.beta}: a share of the likeliest token's probability, from 0 to 1")
        for name in ("alpha", "a", "decay", "max_coefficient"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"{name}={value}: a number of at least 0")

    @property
    def takes_positive(self) -> bool:
        return self.alpha > 0

    @property
    def takes_negative(self) -> bool:
        return self.contrast == "m3id" or (self.contrast == "vcd" and self.a > 0)

    def coefficient(self, step: int) -> float:
        """c after `step` written tokens.

        >>> [round(ConditionRule(contrast="m3id").coefficient(t), 4) for t in (0, 1, 50, 100)]
        [0.0, 0.0202, 1.7183, 6.3891]
        """
        if self.contrast != "m3id":
            return self.a if self.contrast == "vcd" else 0.0
        most = math.inf if self.max_coefficient is None else self.max_coefficient
        exponent = self.decay * step
        return min(math.expm1(exponent) if exponent < 700 else math.inf, most)

    def __call__(
        self, logits: Tensor, positive: Tensor | None = None, negative: Tensor | None = None, step: int = 0
    ) -> Tensor:
        """Logits `[..., V]`, in the dtype of `logits`.

        Args:
            logits: l, `[..., V]`, floating point.
            positive: l+, `[..., V]`, floating point; None: without this term.
            negative: l-, `[..., V]`, floating point; None: without this term.
            step: tokens that are written already.
        """
        keep, joined = plausibility_mask(logits, self.beta), logits
        if positive is not None and self.alpha:
            joined = joined + self.alpha * positive
        if negative is not None and (coefficient := self.coefficient(step)):
            joined = joined + coefficient * (logits - negative)
        if self.normalise and positive is not None:
            joined = joined / (1 + self.alpha)
        return joined.masked_fill(~keep, -math.inf)
