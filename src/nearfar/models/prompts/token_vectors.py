"""Vectors in the place of a token's embedding, inside any text tower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.errors import UserError


def embedding_layer(encoder: Any) -> nn.Embedding:
    """The layer that turns an encoder's tokens into vectors: of nearfar's dual encoders, which hold those of
    transformers, and of open_clip's models.

    Raises:
        UserError: there is none.
    """
    tower = getattr(encoder, "text", None)
    tower = tower if isinstance(tower, nn.Module) else getattr(encoder, "model", None)
    layers = (each for each in tower.modules() if isinstance(each, nn.Embedding)) if tower is not None else iter(())
    layer = next(layers, None)  # the tokens' comes first, those of positions and kinds after it
    if layer is None:
        raise UserError(
            f"a {type(encoder).__name__} embeds no tokens, in whose place vectors could be learnt: take a dual "
            "encoder, such as a CLIP"
        )
    return layer


@contextmanager
def vectors_at(layer: nn.Module, vectors: Tensor, places: Tensor) -> Iterator[None]:
    """Within the block the embeddings of tokens at `places` `[B, n]` int64 are `vectors`, `[n, W]` for all texts or
    `[B, n, W]`, floating point. The vectors get a gradient, whether or not the layer is frozen.

    >>> layer = nn.Embedding(4, 2)
    >>> with vectors_at(layer, torch.zeros(1, 2), torch.tensor([[1]])):
    ...     changed = layer(torch.tensor([[3, 3, 3]]))
    >>> (changed == 0).all(-1).tolist()
    [[False, True, False]]
    """

    def put(module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
        return written(embedded, vectors, places)

    handle = layer.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def written(states: Tensor, vectors: Tensor, places: Tensor) -> Tensor:
    """States `[B, L, W]`, floating point, with `vectors` `[n, W]` or `[B, n, W]` at `places` `[B, n]` int64."""
    rows = torch.arange(len(states), device=states.device)[:, None]
    own = vectors.to(states).expand(len(states), -1, -1)
    return states.index_put((rows, places.to(states.device)), own)
