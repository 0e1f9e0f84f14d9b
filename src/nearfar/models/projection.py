"""Projection heads: from a tower's width to the shared space."""

from __future__ import annotations

from torch import nn

from nearfar.errors import UserError

KINDS = ("linear", "linear-no-bias", "mlp", "none")


def projection(kind: str, width: int, embed_dim: int, *, side: str) -> nn.Module:
    """A head `[..., width] -> [..., embed_dim]` of one of `KINDS`; `side` names the tower in errors.

    `"linear"` is ALIGN's and ALBEF's (with bias), `"linear-no-bias"` CLIP's, `"mlp"` two layers with GELU, `"none"`
    passes the tower's output on, which must then be `embed_dim` wide.

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
    if kind in ("linear", "linear-no-bias"):
        return nn.Linear(width, embed_dim, bias=kind == "linear")
    if kind == "mlp":
        return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, embed_dim))
    raise UserError(f"{side}_projection={kind!r}: choose one of {', '.join(KINDS)}")
