"""Supervised contrastive loss (arXiv 2004.11362, its L_out): all samples of a class are positives of one another."""

from __future__ import annotations

from torch import Tensor, nn

from nearfar import ops
from nearfar.losses.groups import refuse_ring, unit
from nearfar.losses.temperature import Temperature, as_scale


def supcon(z: Tensor, label: Tensor, *, temperature: float | Tensor = 0.1, backend: str = "auto") -> Tensor:
    """Supervised contrastive loss; see :class:`SupCon`.

    Example:
        >>> import torch
        >>> z = torch.eye(4)
        >>> round(supcon(z, torch.tensor([0, 0, 1, 1]), temperature=1.0).item(), 6)
        1.098612
    """
    if z.ndim != 2 or label.shape != z.shape[:1]:
        raise ValueError(
            f"z must be [N, D] and label [N], got {tuple(z.shape)} and {tuple(label.shape)}: "
            "concatenate the views of a sample and repeat its label"
        )
    refuse_ring(backend, "SupCon")
    z = unit(z)
    # Its target is even over the anchor's class, the anchor left out.
    return ops.soft_target(z, z, as_scale(temperature), q_group=label, k_group=label, one_set=True, backend=backend)


class SupCon(nn.Module):
    """Supervised contrastive loss over `z` `[N, D]` with `label` `[N]`.

    The mean, over anchors that have a positive, of `log sum_{a != i} exp(s_ia) - mean_{p in P(i)} s_ip`. Normalises the
    embeddings itself. With two views a sample and one label a sample it is NT-Xent.

    Args:
        temperature: 0.1 in the paper; fixed unless `learnable`.
        learnable: whether the temperature is trained.
        backend: handed to :mod:`nearfar.ops`.

    Returns a scalar; zero when no sample has a positive. Raises ValueError on other shapes, and UserError on labels
    that are no integers or a backend that sees only a part of the batch.

    Example:
        >>> import torch
        >>> SupCon()(torch.randn(6, 8), torch.tensor([0, 0, 1, 1, 2, 2])).shape
        torch.Size([])
    """

    def __init__(self, temperature: float = 0.1, *, learnable: bool = False, backend: str = "auto") -> None:
        super().__init__()
        self.temperature = Temperature(temperature, learnable=learnable)
        self.backend = backend

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return supcon(z, label, temperature=self.temperature(), backend=self.backend)
