"""Features for what outlives a step, a queue or a memory: unit rows of all processes, none of them NaN or infinite."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nearfar import distributed
from nearfar.errors import UserError

SHORTEST = 1e-12
"""The length that a shorter row is divided by, as `torch.nn.functional.normalize` does: a zero row stays zero."""


def gather_unit(features: Tensor, known: Tensor | None, *, where: str) -> Tensor:
    """The features `[B, D]` of all processes, in rank order, made unit length.

    Args:
        features: of this process, floating point; the others may bring more or fewer.
        known: `[B]`, the samples' ids or groups, which an error names; None: the rows are named.
        where: what they would stay in: "queue".

    Raises:
        UserError: one of them is not finite; every process refuses the same.
    """
    features = distributed.gather_rows(features)
    lengths = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    # The lengths show every NaN and infinity; finite features may overflow them, so they only say whether to look.
    if not math.isfinite(lengths.sum()):
        _require_finite(features, known, where)
    return features / lengths.clamp_min_(SHORTEST)


def _require_finite(features: Tensor, known: Tensor | None, where: str) -> None:
    bad = ~features.isfinite().all(dim=1)
    if not bool(bad.any()):
        return
    ids = torch.arange(len(features), device=bad.device)
    if known is not None:
        ids = distributed.gather_rows(known.to(bad.device))
    bad_ids = ", ".join(map(str, ids[bad].tolist()[:10])) + (", ..." if int(bad.sum()) > 10 else "")
    noun = "rows" if known is None else "samples"
    raise UserError(
        f"features of {noun} {bad_ids} are NaN or infinite, and would stay in the {where}: check those samples, lower "
        "the learning rate, or raise the temperature"
    )
