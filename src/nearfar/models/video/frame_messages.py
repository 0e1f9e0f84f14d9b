"""Messages between frames: in each layer of a vision transformer frames say to one another what they hold (X-CLIP).

Before a layer each frame makes a message of its class token, messages attend to one another over time, and each frame
then reads its own message beside its patches (arXiv 2208.02816, equations 4 to 6). Since what follows attention treats
each token by itself, the message may be taken off after the whole layer, so that any transformer's layers serve.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nearfar.errors import UserError


class MessageLayer(nn.Module):
    """A layer of a vision transformer whose frames exchange messages first.

    Args:
        layer: what takes hidden states `[B * T, L, W]`, the class token first, and returns such.
        width: W.
        heads: of the attention over time.

    Attributes: `frames`, how many frames a video of the next batch has. Set it with `set_frames`.
    """

    def __init__(self, layer: nn.Module, width: int, heads: int) -> None:
        super().__init__()
        self.layer = layer
        self.message_fc = nn.Linear(width, width)
        self.message_ln = nn.LayerNorm(width)
        self.message_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.frames = 1

    def forward(self, hidden_states: Tensor, *rest: Any, **options: Any) -> Any:
        message = self.message_fc(hidden_states[:, 0]).unflatten(0, (-1, self.frames))  # [B, T, W]: B is the major one
        normed = self.message_ln(message)
        message = message + self.message_attn(normed, normed, normed, need_weights=False)[0]
        with_message = torch.cat([hidden_states, message.flatten(0, 1)[:, None]], dim=1)
        output = self.layer(with_message, *rest, **options)
        if isinstance(output, tuple):
            return (output[0][:, :-1], *output[1:])
        return output[:, :-1]


def add_messages(backbone: nn.Module, width: int, heads: int | None = None) -> nn.Module:
    """Put a `MessageLayer` around each layer of a vision transformer, in place.

    Args:
        backbone: a transformer of transformers or timm.
        width: of its tokens.
        heads: of the attention over time; by default as many as the backbone has, else one for each 64 of `width`.

    Raises:
        UserError: a backbone that is no row of layers.
    """
    own: Any = getattr(backbone, "config", None)
    heads = heads or getattr(own, "num_attention_heads", None) or max(1, width // 64)
    layers = layers_of(backbone)
    for place, layer in enumerate(layers):
        layers[place] = MessageLayer(layer, width, heads)
    return backbone


def set_frames(module: nn.Module, frames: int) -> None:
    """Say how many frames a video of the next batch has."""
    for part in module.modules():
        if isinstance(part, MessageLayer):
            part.frames = frames


def layers_of(backbone: nn.Module) -> Any:
    """The list of layers of a vision transformer.

    Raises:
        UserError: there is none.
    """
    rows = [
        module
        for module in backbone.modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        and len({type(part) for part in module}) == 1
        and any("attention" in type(part).__name__.lower() for part in module.modules())
    ]
    if not rows:
        raise UserError(
            f"{type(backbone).__name__} is no transformer whose layers frames could send messages between: take one "
            "with a class token, such as a CLIP's ViT, or messages=False"
        )
    return max(rows, key=len)
