"""Supervised contrastive loss (arXiv 2004.11362, its L_out): all samples of a class are positives of one another."""

from __future__ import annotations

from torch import Tensor, nn

from nearfar import ops
from nearfar.errors import UserError
from nearfar.losses.groups import check_rows, refuse_ring, unit
from nearfar.losses.temperature import Tau, as_scale, as_temperature
from nearfar.ops.tiling import inputs


def supcon(z: Tensor, label: Tensor, *, temperature: Tau = 0.1, backend: str = "auto") -> Tensor:
    """Supervised contrastive loss; see :class:`SupCon`.

    Takes `z` `[N, D]`, floating point, and `label` `[N]` int64. The temperature may also be one a row, `[N]`. Returns a
    scalar.

    Raises:
        UserError: shapes that do not fit, labels that are no integers, or `backend="ring"`.

    Example:
        >>> import torch
        >>> z = torch.eye(4)
        >>> round(supcon(z, torch.tensor([0, 0, 1, 1]), temperature=1.0).item(), 6)
        1.098612
    """
    check_rows(z=z)
    if label.shape != z.shape[:1]:
        raise UserError(
            f"z must be [N, D] and label [N], got {tuple(z.shape)} and {tuple(label.shape)}: "
            "concatenate the views of a sample and repeat its label"
        )
    refuse_ring(backend, "SupCon")
    label = inputs.group_ids(label, len(z), "label")
    z = unit(z)
    # Its target is even over the anchor's class, the anchor left out.
    scale = as_scale(temperature, len(z))
    return ops.soft_target(z, z, scale, q_group=label, k_group=label, one_set=True, backend=backend)


class SupCon(nn.Module):
    """Supervised contrastive loss: all samples of a label are positives of one another (arXiv 2004.11362).

    The mean, over anchors that have a positive, of `log sum_{a != i} exp(s_ia) - mean_{p in P(i)} s_ip`. Normalises the
    embeddings itself.

    Args:
        temperature: 0.1 in the paper; a number, a tensor of one element or a :class:`Temperature`, taken as it is.
        learnable: whether the temperature is trained; the paper's is fixed.
        backend: handed to :mod:`nearfar.ops`; "ring" is refused: an anchor's positives may lie on any rank.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `z` | `[N, D]`, floating point | embeddings; several views of a sample are so many rows |
        | `label` | `[N]`, integers | the class of each row |

    Returns:
        A scalar, float32 (float64 from float64); 0 when no sample has a positive.

    Raises:
        UserError: shapes that do not fit, labels that are no integers, or a backend that sees a part of the batch.

    Relations:
        - With two views a sample and one label a sample it is `NTXent`.
        - `InfoNCE` with `group` only leaves samples of one group out of the negatives; here they are positives.

    Variants:
        - the paper: `SupCon(0.1, learnable=False)` on `torch.cat([view_1, view_2])` with `label.repeat(2)`

    Example:
        >>> import torch
        >>> SupCon()(torch.randn(6, 8), torch.tensor([0, 0, 1, 1, 2, 2])).shape
        torch.Size([])
    """

    def __init__(self, temperature: Tau = 0.1, *, learnable: bool = True, backend: str = "auto") -> None:
        super().__init__()
        self.temperature = as_temperature(temperature, learnable=learnable)
        self.backend = backend

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return supcon(z, label, temperature=self.temperature, backend=self.backend)
