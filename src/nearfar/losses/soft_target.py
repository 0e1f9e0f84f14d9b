"""InfoNCE with soft targets: momentum distillation (ALBEF, arXiv 2107.07651) and MoCo-like queues of keys.

The target of query i mixes its true positives with the teacher's own softmax over the same keys,

    Q_i = alpha softmax(s'_i) + (1 - alpha) Y_i ,      L = mean_i sum_j -Q_ij log softmax(s_i)_j .

Logits and targets are both formed a strip of rows at a time, so nothing of size N x M is held.
"""

from __future__ import annotations

from torch import Tensor, nn

from nearfar import ops
from nearfar.losses.groups import unit, unit_keys
from nearfar.losses.temperature import Temperature, as_scale, as_temperature


def soft_target_info_nce(
    q: Tensor,
    k: Tensor,
    *,
    teacher_q: Tensor | None = None,
    temperature: float | Tensor = 0.07,
    alpha: float | Tensor = 0.0,
    q_group: Tensor | None = None,
    k_group: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """InfoNCE with soft targets; see :class:`SoftTargetInfoNCE`. The temperature may also be one a query `[N]`.

    Example (the numbers of ALBEF's equation 6 at alpha 0 are those of plain InfoNCE):
        >>> import torch
        >>> eye = torch.eye(2)
        >>> round(soft_target_info_nce(eye, eye, temperature=1.0).item(), 6)
        0.313262
    """
    if q.ndim != 2 or k.ndim != 2 or q.shape[1] != k.shape[1]:
        raise ValueError(f"q and k must be [N, D] and [M, D], got {tuple(q.shape)} and {tuple(k.shape)}")
    if (q_group is None) != (k_group is None):
        raise ValueError("give both q_group and k_group, or neither")
    if q_group is None and len(k) < len(q):
        raise ValueError(
            f"without groups key i is the positive of query i, but there are {len(q)} queries, {len(k)} keys"
        )
    if teacher_q is None and not (isinstance(alpha, float | int) and alpha == 0):
        raise ValueError("alpha > 0 needs teacher_q")
    if not isinstance(alpha, Tensor) and not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    teacher = None if teacher_q is None else unit(teacher_q)
    return ops.soft_target(
        unit(q),
        unit_keys(k),
        as_scale(temperature),
        q_group=q_group,
        k_group=k_group,
        teacher_q=teacher,
        alpha=alpha,
        backend=backend,
    )


class SoftTargetInfoNCE(nn.Module):
    """InfoNCE of queries `q` `[N, D]` against keys `k` `[M, D]`, with targets mixed from ids and a teacher.

    Normalises all embeddings itself; keys of unit length that want no gradient are not copied for it, so change them
    only after the backward pass. One direction: for both, add the loss of the other side's queries and keys. The keys
    are shared by student and teacher: in ALBEF the momentum features of the batch, then the queue.

    Args:
        temperature: initial temperature of student and teacher; a :class:`~nearfar.losses.Temperature` is taken as it
            is (ALBEF's is a learned divisor within (0.001, 0.5)).
        learnable: whether it is trained.
        backend: handed to :mod:`nearfar.ops`; "ring" is refused: the teacher must see all keys at once.

    Call with:
        teacher_q: the teacher's queries `[N, D]`; may be None where alpha is 0.
        alpha: the teacher's share, in [0, 1], a number or a scalar tensor; ALBEF takes 0.4, after a ramp.
        q_group, k_group: `[N]` and `[M]` long; all keys of a query's group share its true target evenly (duplicates,
            several captions of an image). By default the positive of query i is key i, and M >= N.

    Targets are constants: q, k and temperature get their gradients through the student's logits. Returns a scalar.
    Raises ValueError on shapes that do not fit, and UserError when a query has no key of its group. At alpha 0 without
    groups it is one direction of InfoNCE with M - N extra negatives.

    Example:
        >>> import torch
        >>> loss = SoftTargetInfoNCE(temperature=1.0)
        >>> round(loss(torch.eye(2), torch.eye(2), teacher_q=torch.zeros(2, 2), alpha=0.5).item(), 6)
        0.563262
    """

    def __init__(
        self, temperature: float | Temperature = 0.07, *, learnable: bool = True, backend: str = "auto"
    ) -> None:
        super().__init__()
        self.temperature = as_temperature(temperature, learnable=learnable)
        self.backend = backend

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        *,
        teacher_q: Tensor | None = None,
        alpha: float | Tensor = 0.0,
        q_group: Tensor | None = None,
        k_group: Tensor | None = None,
    ) -> Tensor:
        return soft_target_info_nce(
            q,
            k,
            teacher_q=teacher_q,
            temperature=self.temperature(),
            alpha=alpha,
            q_group=q_group,
            k_group=k_group,
            backend=self.backend,
        )
