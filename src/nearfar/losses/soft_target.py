"""InfoNCE with soft targets: momentum distillation (ALBEF, arXiv 2107.07651) and MoCo-like queues of keys.

The target of query i mixes its true positives with the teacher's own softmax over the same keys,

    Q_i = alpha softmax(s'_i) + (1 - alpha) Y_i ,      L = mean_i sum_j -Q_ij log softmax(s_i)_j .

As the logits are linear in the keys, `sum_j Q_ij s_ij = <q_i, sum_j Q_ij k_j> / tau`: the teacher's part of that sum is
attention from the teacher's query over its keys, and the true part is a group mean. So nothing of size N x M is held.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from nearfar import ops
from nearfar.losses.groups import group_sum, unit
from nearfar.losses.temperature import as_scale


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
    """InfoNCE of queries against keys with targets mixed from ids and a teacher. Normalises all embeddings itself.

    Args:
        q: student queries `[N, D]`.
        k: keys `[M, D]`, M >= N, shared by student and teacher: the momentum features of the batch, then the queue.
        teacher_q: the teacher's queries `[N, D]`; may be None when alpha is 0. No gradient reaches it.
        temperature: shared by student and teacher; gets a gradient through the student's logits only.
        alpha: the teacher's share, in [0, 1]; ALBEF takes 0.4.
        q_group, k_group: `[N]` and `[M]` long; all keys of a query's group share its true target evenly (duplicates,
            several captions of an image). By default the positive of query i is key i.

    Returns a scalar. Raises ValueError when a query has no key of its group, or shapes do not fit.

    Example (the numbers of ALBEF's equation 6 at alpha 0 are those of plain InfoNCE):
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
    q, k, scale = unit(q), unit(k), as_scale(temperature)
    target = true_target(k, len(q), q_group, k_group)
    if teacher_q is not None:
        with torch.no_grad():
            logits_query = unit(teacher_q) * scale
        target = torch.lerp(target, attend(logits_query, k), torch.as_tensor(alpha, dtype=k.dtype, device=k.device))
    elif not (isinstance(alpha, float | int) and alpha == 0):
        raise ValueError("alpha > 0 needs teacher_q")
    lse = ops.log_partition(q, k, scale, backend=backend)
    return (lse - scale * (q * target).sum(1)).mean()


def true_target(k: Tensor, n: int, q_group: Tensor | None, k_group: Tensor | None) -> Tensor:
    """`sum_j Y_ij k_j`: the mean key of each query's group, or key i. `[N, D]`."""
    if q_group is None or k_group is None:
        return k[:n]
    sums, counts = group_sum(k, q_group, k_group)
    if not bool((counts > 0).all()):
        raise ValueError("a query has no key of its group: put the batch's own keys before the queue")
    return sums / counts[:, None]


def attend(logits_query: Tensor, k: Tensor) -> Tensor:
    """`sum_j softmax(<logits_query_i, k_j>)_j k_j`, by the fused attention kernel: linear memory. `[N, D]`."""
    q4, k4 = logits_query.to(k.dtype)[None, None], k[None, None]
    return scaled_dot_product_attention(q4, k4, k4, scale=1.0)[0, 0]
