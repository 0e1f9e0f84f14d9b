"""Projectors: the small network between a backbone and a contrastive loss. Training needs it, and what is evaluated and
indexed is usually what goes into it (SimCLR, arXiv 2002.05709, section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from nearfar import lookup
from nearfar.errors import UserError

Norm = Literal["none", "hidden", "all", "layer"]
NORMS = ("none", "hidden", "all", "layer")

PROJECTORS: dict[str, dict[str, Any]] = {
    "simclr": {"layers": 2, "hidden": 2048, "out": 128, "norm": "none"},
    "moco": {"layers": 2, "hidden": 2048, "out": 128, "norm": "none"},
    "supcon": {"layers": 2, "hidden": 2048, "out": 128, "norm": "none"},
    "byol": {"layers": 2, "hidden": 4096, "out": 256, "norm": "hidden"},
    "simsiam": {"layers": 3, "hidden": 2048, "out": 2048, "norm": "all"},
    "hydra": {"layers": 2, "hidden": 2048, "out": 256, "norm": "layer"},
}
"""The papers' projectors over a ResNet-50: SimCLR, MoCo v2 (arXiv 2003.04297), supervised contrast (arXiv 2004.11362),
BYOL (arXiv 2006.07733), SimSiam (arXiv 2011.10566) and Hydra (arXiv 2410.18200). SimCLR's released code has
`norm="all"`."""


class MLP(nn.Module):
    """Linear layers with ReLU between them, `[B, width] -> [B, out]`.

    Args:
        width: of what goes in.
        layers: how many linear layers, from 1.
        hidden: width of the layers between.
        out: width of what comes out.
        norm: where batch norm stands: "none"; "hidden", after every layer but the last; "all", after the last one too;
            "layer" is "hidden" with layer norm after the last. A layer that a norm follows has no bias.

    Raises:
        UserError: a size below 1, no such norm; in training, one row alone where there is batch norm.

    >>> MLP(8, layers=2, hidden=16, out=4).network
    Sequential(
      (0): Linear(in_features=8, out_features=16, bias=True)
      (1): ReLU(inplace=True)
      (2): Linear(in_features=16, out_features=4, bias=True)
    )
    """

    def __init__(self, width: int, *, layers: int = 2, hidden: int = 2048, out: int = 128, norm: Norm = "none") -> None:
        if min(width, layers, hidden, out) < 1:
            raise UserError(f"layers={layers}, hidden={hidden}, out={out}: whole numbers of at least 1")
        if norm not in NORMS:
            raise UserError(f"norm={norm!r}: choose {', '.join(NORMS)}")
        widths = [width, *[hidden] * (layers - 1), out]
        made: list[nn.Module] = []
        for place in range(layers):
            is_last = place == layers - 1
            has_norm = norm in ("all", "layer") or (norm == "hidden" and not is_last)
            kind = nn.LayerNorm if norm == "layer" and is_last else nn.BatchNorm1d
            made.append(nn.Linear(widths[place], widths[place + 1], bias=not has_norm))
            made += [kind(widths[place + 1])] if has_norm else []
            made += [] if is_last else [nn.ReLU(inplace=True)]
        super().__init__()
        self.network = nn.Sequential(*made)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) < 2 and any(isinstance(part, nn.BatchNorm1d) and part.training for part in self.network):
            raise UserError(
                "batch norm in training needs two samples at least: raise the batch size, or use norm='none'"
            )
        return self.network(x)


def projector_settings(projector: str | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The settings of a projector: those of a name in `PROJECTORS`, or a mapping with any of `layers`, `hidden`, `out`
    and `norm`; None for none.

    Raises:
        UserError: no such name or setting.

    >>> projector_settings({"hidden": 256, "out": 64})
    {'layers': 2, 'hidden': 256, 'out': 64, 'norm': 'none'}
    """
    if projector is None:
        return None
    if isinstance(projector, str):
        return dict(lookup.find("projector", projector, PROJECTORS))
    defaults = PROJECTORS["simclr"]
    lookup.check("projector setting", projector, list(defaults))
    return {**defaults, **projector}


def is_projector(value: Any) -> bool:
    """Whether a value, from a saved model's file say, is the settings of a projector, or None."""
    if value is None:
        return True
    if not isinstance(value, Mapping) or set(value) != set(PROJECTORS["simclr"]):
        return False
    sizes = [value[name] for name in ("layers", "hidden", "out")]
    return value["norm"] in NORMS and all(type(size) is int and 0 < size < 2**20 for size in sizes) and sizes[0] < 100
