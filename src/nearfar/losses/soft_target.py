"""InfoNCE with soft targets: momentum distillation (ALBEF, arXiv 2107.07651) and MoCo-like queues of keys.

The target of query i mixes its true positives with the teacher's own softmax over the same keys,

    Q_i = alpha softmax(s'_i) + (1 - alpha) Y_i ,      L = mean_i sum_j -Q_ij log softmax(s_i)_j .

Logits and targets are both formed a strip of rows at a time, so nothing of size N x M is held.
"""

from __future__ import annotations

from torch import Tensor, nn

from nearfar import ops
from nearfar.errors import UserError
from nearfar.losses.groups import check_rows, unit, unit_keys
from nearfar.losses.temperature import Tau, as_scale, as_temperature


def soft_target_info_nce(
    q: Tensor,
    k: Tensor,
    *,
    teacher_q: Tensor | None = None,
    temperature: Tau = 0.07,
    alpha: float | Tensor = 0.0,
    q_group: Tensor | None = None,
    k_group: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """InfoNCE with soft targets; see :class:`SoftTargetInfoNCE`.

    Takes queries `q` `[N, D]`, keys `k` `[M, D]`, the teacher's queries `teacher_q` `[N, D]`, floating point, `q_group`
    `[N]` and `k_group` `[M]` int64. `alpha` is a number or a scalar tensor; the temperature may also be one a query,
    `[N]`.
    Returns a scalar.

    Raises:
        UserError: shapes or options that do not fit together, or a query without a key of its group.

    Example (the numbers of ALBEF's equation 6 at alpha 0 are those of plain InfoNCE):
        >>> import torch
        >>> eye = torch.eye(2)
        >>> round(soft_target_info_nce(eye, eye, temperature=1.0).item(), 6)
        0.313262
    """
    check_rows(q=q, k=k)
    if q.shape[1] != k.shape[1]:
        raise UserError(f"q and k must be [N, D] and [M, D], got {tuple(q.shape)} and {tuple(k.shape)}")
    if (q_group is None) != (k_group is None):
        raise UserError("give both q_group and k_group, or neither")
    if q_group is None and len(k) < len(q):
        raise UserError(
            f"without groups key i is the positive of query i, but there are {len(q)} queries, {len(k)} keys"
        )
    if teacher_q is None and not (isinstance(alpha, float | int) and alpha == 0):
        raise UserError("alpha > 0 needs teacher_q")
    if not isinstance(alpha, Tensor) and not 0 <= alpha <= 1:
        raise UserError(f"alpha must be in [0, 1], got {alpha}")
    teacher = None if teacher_q is None else unit(teacher_q)
    return ops.soft_target(
        unit(q),
        unit_keys(k),
        as_scale(temperature, len(q)),
        q_group=q_group,
        k_group=k_group,
        teacher_q=teacher,
        alpha=alpha,
        backend=backend,
    )


class SoftTargetInfoNCE(nn.Module):
    """InfoNCE whose target is mixed from groups and a teacher's softmax (ALBEF, arXiv 2107.07651).

    Normalises all embeddings itself; keys of unit length that want no gradient are not copied for it, so change them
    only after the backward pass. One direction: for both, add the loss of the other side's queries and keys. The keys
    are shared by student and teacher: in ALBEF the momentum features of the batch, then the queue.

    Args:
        temperature: initial temperature of student and teacher: a number, a tensor of one element or a
            :class:`Temperature`, taken as it is.
        learnable: whether it is trained.
        backend: handed to :mod:`nearfar.ops`; "ring" is refused: the teacher must see all keys at once.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `q` | `[N, D]`, floating point | queries |
        | `k` | `[M, D]`, floating point | keys, M >= N: without groups key i is the positive of query i |
        | `teacher_q` | `[N, D]`, floating point | the teacher's queries; may be None where alpha is 0 |
        | `alpha` | a number or a scalar tensor | the teacher's share, in [0, 1]; ALBEF takes 0.4, after a ramp |
        | `q_group`, `k_group` | `[N]` and `[M]`, integers | all keys of a query's group share its true target evenly |

    Returns:
        A scalar, float32 (float64 from float64). Targets are constants: q, k and temperature get their gradients
        through the student's logits.

    Raises:
        UserError: shapes or options that do not fit together, or a query without a key of its group.

    Relations:
        - At alpha 0 without groups it is one direction of `InfoNCE` with M - N extra negatives.
        - `SupCon` is the same even target within one set, each row left out of its own sum.

    Variants:
        - ALBEF: `SoftTargetInfoNCE(Temperature(0.07, parametrisation="divisor", bounds=(0.001, 0.5)))` with
          `teacher_q` and `alpha=0.4`
        - MoCo with duplicates as positives: `SoftTargetInfoNCE(0.07, learnable=False)` with `q_group` and `k_group`

    Example:
        >>> import torch
        >>> loss = SoftTargetInfoNCE(temperature=1.0)
        >>> round(loss(torch.eye(2), torch.eye(2), teacher_q=torch.zeros(2, 2), alpha=0.5).item(), 6)
        0.563262
    """

    def __init__(self, temperature: Tau = 0.07, *, learnable: bool = True, backend: str = "auto") -> None:
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
            temperature=self.temperature,
            alpha=alpha,
            q_group=q_group,
            k_group=k_group,
            backend=self.backend,
        )
