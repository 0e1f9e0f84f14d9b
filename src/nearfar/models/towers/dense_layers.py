"""The dense layers that a sentence encoder may have after its pooling, as sentence-transformers writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    each.__name__: each for each in (nn.Identity, nn.Tanh, nn.GELU, nn.ReLU, nn.SiLU, nn.Sigmoid)
}
"""By the last part of the name that sentence-transformers gives, each with torch's own settings."""

Layer = Mapping[str, Any]
"""`{"in_features", "out_features", "bias", "activation"}` of a dense layer; empty: to unit length."""


class UnitLength(nn.Module):
    """Vectors `[..., W]` scaled to length 1."""

    def forward(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1)


class Dense(nn.Module):
    """A linear layer and its activation, with the names of weights that sentence-transformers has."""

    def __init__(self, in_features: int, out_features: int, bias: bool, activation: str) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, vectors: Tensor) -> Tensor:
        return self.activation(self.linear(vectors))


def dense_layers(layers: Sequence[Layer], width: int) -> nn.Sequential:
    """The layers, with fresh weights, for vectors of `width`.

    Raises:
        UserError: a layer that takes vectors of another width, or an activation that is not made here.

    >>> made = dense_layers([{"in_features": 8, "out_features": 4, "bias": True, "activation": "Tanh"}, {}], 8)
    >>> [type(layer).__name__ for layer in made], width_after(made, 8)
    (['Dense', 'UnitLength'], 4)
    """
    made: list[nn.Module] = []
    for layer in layers:
        if layer and layer["in_features"] != width:
            raise UserError(f"a dense layer takes {layer['in_features']} numbers, where {width} come to it")
        if layer and layer["activation"] not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise UserError(f"a dense layer has the activation {layer['activation']!r}, which is none of {known}")
        made.append(Dense(**layer) if layer else UnitLength())
        width = layer["out_features"] if layer else width
    return nn.Sequential(*made)


def width_after(layers: nn.Sequential, width: int) -> int:
    """How wide vectors of `width` come out."""
    dense = [layer for layer in layers if isinstance(layer, Dense)]
    return dense[-1].linear.out_features if dense else width


def described(layers: nn.Sequential) -> list[dict[str, Any]]:
    """The layers as plain data, which `dense_layers` takes."""
    plain: list[dict[str, Any]] = []
    for layer in layers:
        if isinstance(layer, Dense):
            linear, name = layer.linear, type(layer.activation).__name__
            shape = {"in_features": linear.in_features, "out_features": linear.out_features}
            plain.append({**shape, "bias": linear.bias is not None, "activation": name})
        else:
            plain.append({})
    return plain
