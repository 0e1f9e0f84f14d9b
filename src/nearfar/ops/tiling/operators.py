"""Registers the tile loops as operators, so that `torch.compile` calls them whole instead of tracing every tile.

`torch.library.custom_op` would do the same, but on its first call it loads the compiler, three seconds that a plain
eager run should not pay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nearfar.ops.tiling.tiles import Pairs

_LIBRARY = torch.library.Library("nearfar", "DEF")

PAIRS = (
    "Tensor q, Tensor k, Tensor scale, Tensor? own, Tensor? q_group, Tensor? k_group, "
    "str admit, bool one_set, int tile_rows, int tile_cols, bool half"
)
"""The arguments that make a `Pairs`, in the operators' schema language."""


def operator(schema: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function under `schema`; `fake` gives outputs of the right shape without computing."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        name = schema.partition("(")[0]
        _LIBRARY.define(schema)
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"nearfar::{name}", fake, lib=_LIBRARY)
        return getattr(torch.ops.nearfar, name).default

    return register


def flat(pairs: Pairs) -> tuple[Any, ...]:
    """The pairs as the argument list of the operators."""
    p = pairs
    return p.q, p.k, p.scale, p.own, p.q_group, p.k_group, p.admit, p.one_set, p.tile[0], p.tile[1], p.half


def pairs_of(q: Any, k: Any, scale: Any, own: Any, q_group: Any, k_group: Any, *rest: Any) -> Pairs:
    """The other way round."""
    admit, one_set, tile_rows, tile_cols, half = rest
    return Pairs(q, k, scale, own, q_group, k_group, admit, one_set, (tile_rows, tile_cols), half)
