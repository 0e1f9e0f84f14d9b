"""A small transformer over log-mel features, four frames to a state."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError, at_least

SHORTER = 4
"""Frames to a state: two convolutions of stride 2."""


class SoundTower(nn.Module):
    """States of sounds: two convolutions over time, each of stride 2, then a transformer (pre-norm) with sinusoidal
    positions. A padded frame changes nothing: what a sound becomes does not depend on what lies beside it.

    Args:
        mels: bands of the features.
        width, layers, heads: of the transformer.
        dropout: of its layers.

    Raises:
        UserError: a size below 1, an odd width, or one that the heads do not divide.

    >>> audio = {"input_features": torch.rand(2, 10, 40), "attention_mask": torch.ones(2, 10, dtype=torch.long)}
    >>> states, mask = SoundTower(mels=40)(audio)
    >>> states.shape, mask.shape
    (torch.Size([2, 3, 128]), torch.Size([2, 3]))
    """

    def __init__(
        self, mels: int = 80, *, width: int = 128, layers: int = 4, heads: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        at_least(1, mels=mels, width=width, layers=layers, heads=heads)
        if width % (2 * heads):
            raise UserError(f"width={width} and heads={heads}: each head needs an even share of the width")
        self.made_of = {"mels": mels, "width": width, "layers": layers, "heads": heads, "dropout": dropout}
        self.mels, self.width = mels, width
        self.first = nn.Conv1d(mels, width, 3, stride=2, padding=1)
        self.second = nn.Conv1d(width, width, 3, stride=2, padding=1)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, F.gelu, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        for own in self.layers.layers:  # copies of one start would stay alike in what they attend to for long
            for weight in (each for each in own.parameters() if each.ndim > 1):
                nn.init.xavier_uniform_(weight)
        self.drop = nn.Dropout(dropout)

    def forward(self, audio: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The states `[B, ceil(F / 4), width]`, in the weights' dtype, and which of them are of the sound, bool `[B,
        ceil(F / 4)]`.

        Args:
            audio: `input_features` float `[B, F, mels]`, and `attention_mask` int64 `[B, F]`, by default all 1.

        Raises:
            UserError: features of another shape.
        """
        features, mask = audio["input_features"].to(self.first.weight), audio.get("attention_mask")
        if features.ndim != 3 or features.shape[-1] != self.mels:
            raise UserError(f"features of sounds are [B, frames, {self.mels}] here; these are {list(features.shape)}")
        mask = torch.ones(features.shape[:2], device=features.device) if mask is None else mask.to(features)
        states = (features * mask[..., None]).mT
        for convolution in (self.first, self.second):
            mask = mask[:, ::2]  # what lies past the end is silent to the next convolution, as beyond a lone sound
            states = F.gelu(convolution(states)) * mask[:, None]
        states = self.drop(states.mT + positions(states.shape[-1], self.width).to(states))
        return self.layers(states, src_key_padding_mask=mask == 0), mask > 0


def positions(length: int, width: int) -> Tensor:
    """Sines and cosines of places, float32 `[length, width]`.

    >>> positions(2, 4)[0].tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    rates = torch.exp(-math.log(10_000) * torch.arange(0, width, 2) / width)
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """The mean `[B, W]` of the states `[B, L, W]`, in their dtype, where the bool `mask` `[B, L]` is true.

    >>> masked_mean(torch.tensor([[[1.0], [5.0]]]), torch.tensor([[True, False]])).tolist()
    [[1.0]]
    """
    weight = mask[..., None].to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1)
