"""Projection heads: from a tower's width to the shared space."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError

KINDS = ("linear", "linear-no-bias", "mlp", "none")


def projection(kind: str, width: int, embed_dim: int, *, side: str, dropout: float = 0.0) -> nn.Module:
    """A head `[..., width] -> [..., embed_dim]` of one of `KINDS`; `side` names the tower in errors.

    `"linear"` is ALIGN's and ALBEF's (with bias), `"linear-no-bias"` CLIP's, `"mlp"` two layers with GELU, `"none"`
    passes the tower's output on, which must then be `embed_dim` wide. `dropout` acts on what goes into each layer: with
    frozen towers and little data it is what keeps a head from learning the data by heart.

    >>> projection("linear", 8, 4, side="image")
    Linear(in_features=8, out_features=4, bias=True)
    """
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


class ProjectionHeads(nn.ModuleList):
    """Several heads from different starts; what they give together is the mean of their unit vectors `[..., D]`.

    Each errs in its own way, and the mean less than each: the cosine of the mean to a text is, but for its length, the
    mean of the cosines. The method `ensemble` trains each on a loss of its own, so that they stay apart.

    >>> ProjectionHeads(projection("linear", 8, 4, side="image") for _ in range(3))(torch.randn(2, 8)).shape
    torch.Size([2, 4])
    """

    def forward(self, summary: Tensor) -> Tensor:
        return torch.stack([F.normalize(head(summary), dim=-1) for head in self]).mean(0)
