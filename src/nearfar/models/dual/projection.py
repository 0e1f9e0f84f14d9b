"""Projection heads: from a tower's width to the shared space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.models.dual.blended import Blend, KernelMap, UnitLinear

KINDS = ("linear", "linear-no-bias", "mlp", "none")

Kind = str | Mapping[str, Any]
"""One of `KINDS`; or a head that `nearfar.adapt` makes: `{"kernel": CENTRES}`, `{"unit": "linear"}`,
`{"heads": NUMBER, "of": KIND}`, or `{"blend": [[KIND, EMBED_DIM], ...]}`."""


def projection(kind: Kind, width: int, embed_dim: int, *, side: str, dropout: float = 0.0) -> nn.Module:
    """A head `[..., width] -> [..., embed_dim]` of one of `KINDS`; `side` names the tower in errors.

    `"linear"` is ALIGN's and ALBEF's (with bias), `"linear-no-bias"` CLIP's, `"mlp"` two layers with GELU, `"none"`
    passes the tower's output on, which must then be `embed_dim` wide. `dropout` acts on what goes into each layer: with
    frozen towers and little data it is what keeps a head from learning the data by heart.

    >>> projection("linear", 8, 4, side="image")
    Linear(in_features=8, out_features=4, bias=True)
    """
    if isinstance(kind, Mapping):
        return _composed(kind, width, embed_dim, side=side, dropout=dropout)
    if kind == "none":
        if width != embed_dim:
            raise UserError(
                f"the {side} tower is {width} wide and the embedding {embed_dim}: without a projection they must be "
                f"equal. Set embed_dim={width}, or {side}_projection='linear'"
            )
        return nn.Identity()
    if not 0 <= dropout < 1:
        raise UserError(f"projection_dropout={dropout}: a share from 0 to below 1")
    if kind in ("linear", "linear-no-bias"):
        layer = nn.Linear(width, embed_dim, bias=kind == "linear")
        return nn.Sequential(nn.Dropout(dropout), layer) if dropout else layer
    if kind == "mlp":
        first, second = nn.Linear(width, width), nn.Linear(width, embed_dim)
        if not dropout:
            return nn.Sequential(first, nn.GELU(), second)
        return nn.Sequential(nn.Dropout(dropout), first, nn.GELU(), nn.Dropout(dropout), second)
    raise UserError(f"{side}_projection={kind!r}: choose one of {', '.join(KINDS)}")


def _composed(kind: Mapping[str, Any], width: int, embed_dim: int, *, side: str, dropout: float) -> nn.Module:
    if "kernel" in kind:
        return KernelMap(width, kind["kernel"], embed_dim)
    if "unit" in kind:
        return UnitLinear(width, embed_dim)
    if "heads" in kind:
        heads = range(kind["heads"])
        return ProjectionHeads([projection(kind["of"], width, embed_dim, side=side, dropout=dropout) for _ in heads])
    parts = kind["blend"]
    if sum(size for _, size in parts) != embed_dim:
        raise UserError(f"the parts of the {side} projection are not {embed_dim} wide together")
    made = [projection(each, width, size, side=side, dropout=dropout) for each, size in parts]
    return Blend(made, [size for _, size in parts])


def is_kind(value: Any, depth: int = 4) -> bool:
    """Whether a value, from a file say, is a `Kind`, nested no deeper than `depth`.

    >>> is_kind("mlp"), is_kind({"blend": [["none", 384], [{"kernel": 200}, 384]]}), is_kind({"kernel": -1})
    (True, True, False)
    """
    if isinstance(value, str):
        return True
    if not isinstance(value, Mapping) or depth == 0:
        return False
    match dict(value):
        case {"kernel": int(centres), **rest}:
            return not rest and 0 < centres < 2**20
        case {"unit": "linear", **rest}:
            return not rest
        case {"heads": int(number), "of": of, **rest}:
            return not rest and 0 < number < 2**10 and is_kind(of, depth - 1)
        case {"blend": [*parts], **rest}:
            return not rest and 0 < len(parts) < 2**5 and all(_is_part(part, depth - 1) for part in parts)
    return False


def _is_part(part: Any, depth: int) -> bool:
    match part:
        case [kind, int(size)]:
            return 0 < size < 2**20 and is_kind(kind, depth)
    return False


class ProjectionHeads(nn.ModuleList):
    """Several heads from different starts; what they give together is the mean of their unit vectors `[..., D]`.

    Each errs in its own way, and the mean less than each: the cosine of the mean to a text is, but for its length, the
    mean of the cosines. The method `ensemble` trains each on a loss of its own, so that they stay apart.

    >>> ProjectionHeads(projection("linear", 8, 4, side="image") for _ in range(3))(torch.randn(2, 8)).shape
    torch.Size([2, 4])
    """

    def forward(self, summary: Tensor) -> Tensor:
        return torch.stack([F.normalize(head(summary), dim=-1) for head in self]).mean(0)
