"""Weights in an order of oneDNN's own, for products of a few rows.

A product of four rows with a large matrix need not take longer than reading the matrix once. On processors of AMD the
products that torch leaves to MKL do; oneDNN's does not, if the weights were brought into its order before. Packed they
are a second copy, and packing takes a while: it is done for long texts, where memory allows it, and
where a look at the first layers shows that it pays.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nearfar.machine import free_memory, processor, time_share
from nearfar.ops.tiling.float_products import has_onednn

STEPS = 64
"""Steps below which packing hardly pays: it takes as long as some 20 of them save, and the memory of the weights."""
LOOKED_AT = 64 << 20
"""Bytes of weights that are packed to see whether it pays: more than a cache holds, as each step reads all anew."""
REPEATS, CLEARLY = 3, 0.8
"""Of so many products with each of them the fastest counts; packed ones must take this share of the others or less."""
SPARE = 3
"""Memory that must be free, in copies of the weights."""


def packed_weights(layers: Sequence[nn.Linear], rows: int, steps: int) -> dict[nn.Linear, Tensor]:
    """The weights of layers, float32, packed for products of so many `rows` in each of so many `steps`; none where it
    does not pay."""
    layers = [layer for layer in layers if layer.weight.dtype == torch.float32]
    size = sum(layer.weight.numel() * 4 for layer in layers)
    if steps < STEPS or size < LOOKED_AT or free_memory() < SPARE * size or not _can_pay():
        return {}
    some: list[nn.Linear] = []
    for layer in layers:
        if sum(each.weight.numel() * 4 for each in some) < LOOKED_AT:
            some.append(layer)
    packed = {layer: pack(layer.weight, rows) for layer in some}
    states = {layer.in_features: torch.ones(rows, layer.in_features) for layer in some}

    def by_onednn() -> None:
        for layer, weight in packed.items():
            packed_linear(layer, weight, states[layer.in_features])

    def by_mkl() -> None:
        for layer in some:
            torch.mm(layer.weight, states[layer.in_features].t())

    if time_share(by_onednn, by_mkl, REPEATS) > CLEARLY:
        return {}
    return packed | {layer: pack(layer.weight, rows) for layer in layers if layer not in packed}


def pack(weight: Tensor, rows: int) -> Tensor:
    """Weights `[M, D]` in oneDNN's order for products with about so many rows: nothing but `packed_linear` reads it."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
    return packed


def packed_linear(layer: nn.Linear, packed: Tensor, rows: Tensor) -> Tensor:
    """`layer(rows)` of `[N, D]`."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, layer.bias, "none", [], "")
    return out


def _can_pay() -> bool:
    """On other processors than AMD's MKL reads the weights as fast as they come."""
    able = processor()
    return "AMD" in str(able.get("cpu_name")) and has_onednn() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
