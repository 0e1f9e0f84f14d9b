"""Numbers that the released code of ARO and NegCLIP gave on fixed inputs, run once, in float64.

Loss: github.com/vinid/neg_clip at e680f8e44ab9f081f62094232d8ee3b77f8574f7, `ClipLoss` of its loss.py.
Patches and clean-up: github.com/mertyg/vision-language-models-are-bows at 81fdd20dc5b6f434aa5a4a971717bc80d1cedb0d.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOSSES = {
    1.0: (1.9669636705588966, (0.3537639291822374, 0.37192734169316916, 0.03292157405773125), 1.6226597146140787),
    10.0: (4.8277021588995135, (3.8211844116745803, 3.8311392924987335, 1.1443925094665037), 4.364371693059153),
    100.0: (44.87935691551762, (41.55409414575614, 40.674307810222466, 14.296139866766364), 41.283179219493675),
}
"""By scale: the loss, the norms of its gradients by (unit) images, captions and hard captions, and the loss without
hard captions."""

SHUFFLED = {(4, 1): (0, 1, 3, 2), (1, 4): (0, 1, 3, 2), (2, 2): (0, 1, 3, 2)}
"""Which patch stands where after `torch.manual_seed(0)`, by rows and columns of a 12 x 8 picture."""

LOST_PIXELS = 892
"""Pixels of a 224 x 224 picture that nine patches leave at zero: 224 squared less 222 squared."""

CLEAN = {
    'A man\'s t-shirt, which is "red"!': "a man's t-shirt, which is red",
    "Two dogs (small): one; the other ~ big #1 *": "two dogs small one the other big 1",
    "A  dog\n": "a dog",
    "the end.": "the end",
}
"""Captions and what they become."""


def features() -> dict[str, Tensor]:
    """The inputs of `LOSSES`: unit rows made without a random generator."""
    return {"image": _waves(0.7, 0.3), "text": _waves(0.5, 0.9), "negative_text": _waves(0.3, 1.7)}


def _waves(a: float, b: float, n: int = 6, d: int = 5) -> Tensor:
    i = torch.arange(1, n + 1, dtype=torch.float64)[:, None]
    j = torch.arange(1, d + 1, dtype=torch.float64)
    x = torch.sin(a * i * j + b * i + j)
    return x / x.norm(dim=1, keepdim=True)
