"""Products of a few rows with a layer's weights, shared out among threads on the CPU.

The k leaves of a step are a matrix of k rows. For `x W^T` with so few rows MKL keeps to one thread; the same product as
`(W x^T)^T` it splits over the rows of W. Where `packed_weights` pay, oneDNN takes it instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.decoding.contrastive.packed_weights import packed_linear, packed_weights

_FEW = 8  # above it the usual order is as fast


def few_rows_linear(layer: nn.Linear, states: Tensor, packed: Tensor | None = None) -> Tensor:
    """`layer(states)` of any leading shape, by its weights or by the same `packed`."""
    rows = states.numel() // states.shape[-1]
    if not 1 < rows <= _FEW:
        return nn.functional.linear(states, layer.weight, layer.bias)
    shape = *states.shape[:-1], layer.out_features
    if packed is not None:
        return packed_linear(layer, packed, states.reshape(rows, -1)).view(shape)
    out = torch.mm(layer.weight, states.reshape(rows, -1).t()).t().contiguous().view(shape)
    return out if layer.bias is None else out + layer.bias


@contextmanager
def few_rows(model: Any, rows: int, steps: int) -> Iterator[None]:
    """Use `few_rows_linear` inside the block for the model's linear layers on the CPU, for so many `rows` a step: with
    packed weights where that pays over so many `steps`, else given threads to share the products. The head has one row
    a text."""
    layers = [layer for layer in model.modules() if _is_plain(layer)] if 1 < rows <= _FEW else []
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    packed = packed_weights([layer for layer in layers if layer is not head], rows, steps)
    if torch.get_num_threads() == 1:
        layers = list(packed)
    for layer in layers:
        layer.forward = partial(few_rows_linear, layer, packed=packed.get(layer))
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _is_plain(layer: Any) -> bool:
    """A linear layer that nobody has changed, of a type that MKL multiplies."""
    if type(layer) is not nn.Linear or "forward" in vars(layer):
        return False
    return layer.weight.device.type == "cpu" and layer.weight.dtype in (torch.float32, torch.float64)
