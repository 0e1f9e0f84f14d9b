"""Which scores are worth computing: products in bfloat16, and how far off they can be.

A processor with instructions for bfloat16 multiplies it more than twice as fast as float32. How far an inner product
of rounded vectors is off at most is known,

    |<q, k> - <q', k'>| <= |q - q'| |k| + |q'| |k - k'| ,

so a key whose rough score lies further below what a query has got already cannot be among its best. Few keys remain,
and their scores are computed in float32: the search is as exact as without.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.machine import has_bfloat16

FEWEST = 128
"""Queries below which rounding the keys takes what the product saves."""
NARROWEST = 128
"""Numbers of a vector below which the passes over the scores take longer than their product."""
ROUNDING, SUMMING = 1.01 * 2**-8, 2**-22
"""How much of itself a number loses by rounding to bfloat16, at most, and a product of two in a sum in float32."""
GIVE_UP = 3
"""Blocks of which too many scores lie too close, after which no further one is tried."""
SMALLEST, LARGEST = 1e-25, 1e25
"""Products of lengths beyond which numbers of a vector may leave the range of bfloat16."""
RUN = 8192
"""Pairs whose vectors are gathered at a time."""


def rough_scores_pay(queries: int, dim: int) -> bool:
    """Whether they do, for so many queries, float32, of so many numbers, on this processor."""
    large = queries >= FEWEST and dim >= NARROWEST
    return large and torch.backends.mkldnn.is_available() and has_bfloat16()


class RoughScores:
    """The rough scores of some queries `[Q, D]`, float32."""

    def __init__(self, query: Tensor) -> None:
        self.query, self.rounded = query, query.bfloat16()
        self.keys, self.scores = (self.rounded.new_empty(0) for _ in range(2))
        self.lengths = torch.linalg.vector_norm(query, dim=1)
        self.off = torch.linalg.vector_norm(query - self.rounded, dim=1)
        self.missed = 0

    @classmethod
    def where_they_pay(cls, query: Tensor) -> RoughScores | None:
        """Those of queries `[Q, D]`, or None where they do not pay."""
        plain = query.dtype == torch.float32 and query.device.type == "cpu"
        return cls(query) if plain and rough_scores_pay(*query.shape) else None

    def of(self, block: Tensor, least: Tensor) -> tuple[Tensor, Tensor] | None:
        """Of keys `[n, D]` the rough scores `[Q, n]`, bfloat16, good until the next block, and how high the rough score
        of a key is at least whose score is above `least` `[Q]`. None where nothing can be said: of vectors that are
        not finite, or too long or too short for bfloat16."""
        longest = torch.linalg.vector_norm(block, dim=1).max()
        lengths = self.lengths * longest
        if not bool(((lengths < LARGEST) & (lengths > SMALLEST)).all()):
            return None
        size = len(self.query) * len(block)
        if len(self.scores) < size:
            self.keys, self.scores = self.rounded.new_empty(block.numel()), self.rounded.new_empty(size)
        keys = self.keys[: block.numel()].view(block.shape).copy_(block)
        scores = torch.mm(self.rounded, keys.T, out=self.scores[:size].view(len(self.query), len(block)))
        least = least - (1.01 * self.off * longest + (ROUNDING + block.shape[1] * SUMMING) * lengths)
        return scores, least - ROUNDING * least.abs()  # the result is rounded, too

    def exactly(self, block: Tensor, query: Tensor, place: Tensor) -> Tensor:
        """The scores of pairs of a query and a key of the block, `[P]` each, in float32."""
        pairs = zip(query.split(RUN), place.split(RUN), strict=True)
        scores = [torch.linalg.vecdot(self.query[some], block[others]) for some, others in pairs]
        return torch.cat(scores) if scores else self.query.new_empty(0)
