"""Supervised contrast: all samples of a class are positives of one another (arXiv 2004.11362, its L_out), those of a
rehearsal memory as a frozen teacher saw them, and those of two modalities (both arXiv 2310.02699)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nearfar import ops
from nearfar.errors import UserError
from nearfar.losses.groups import check_pair, check_rows, group_sum, refuse_ring, unit
from nearfar.losses.temperature import Tau, as_scale, as_temperature
from nearfar.ops.tiling import inputs

SIDES = ("student", "teacher")


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


def rehearsal_contrastive_loss(
    z: Tensor,
    teacher: Tensor,
    label: Tensor,
    is_memory: Tensor,
    *,
    temperature: Tau = 0.1,
    positives_from: str = "teacher",
    negatives_from: str = "student",
    denominator: str = "softmax",
    negatives: str = "all",
    self_positive: bool | None = None,
    backend: str = "auto",
) -> Tensor:
    """Contrast of rehearsed samples with a frozen teacher; see :class:`RehearsalContrastive`.

    Takes `z` and `teacher` `[N, D]`, floating point, `label` `[N]` int64 and `is_memory` `[N]` bool. The temperature
    may also be one a row, `[N]`. Returns a scalar.

    Raises:
        UserError: shapes that do not fit, labels that are no integers, a choice that there is not, the student's own
            row as its positive, or `backend="ring"`.

    Example:
        >>> import torch
        >>> eye, label = torch.eye(3), torch.tensor([0, 1, 2])
        >>> memory = torch.tensor([True, True, False])
        >>> round(rehearsal_contrastive_loss(eye, eye, label, memory, temperature=1.0).item(), 6)
        0.551445
    """
    check_rows(z=z, teacher=teacher)
    n, device = len(z), z.device
    if teacher.shape != z.shape:
        raise UserError(f"z and teacher must have one shape, got {tuple(z.shape)} and {tuple(teacher.shape)}")
    if is_memory.shape != (n,) or is_memory.is_floating_point():
        raise UserError(f"is_memory must say of each row whether it was rehearsed, [{n}], not {tuple(is_memory.shape)}")
    _check(positives_from=(positives_from, SIDES), negatives_from=(negatives_from, SIDES))
    _check(denominator=(denominator, ("softmax", "literal")), negatives=(negatives, ("all", "current")))
    own = positives_from == "teacher" if self_positive is None else self_positive
    if own and positives_from == "student":
        raise UserError(
            "self_positive=True with positives_from='student': a row would be its own positive; leave it out"
        )
    refuse_ring(backend, "the rehearsal loss")
    label, memory = inputs.group_ids(label, n, "label"), is_memory.bool()
    z, t = unit(z), unit(teacher.detach())
    positive, negative = (t if side == "teacher" else z for side in (positives_from, negatives_from))
    scale, rows = as_scale(temperature, n), torch.arange(n, device=device)
    in_order = label.sort().values
    label = torch.searchsorted(in_order, label)  # from 0 on, whatever the labels are

    # Positives: the rehearsed rows of the anchor's label; other rows get a group of their own, which no anchor has.
    group = torch.where(memory, label, n + rows)
    sums, count = group_sum(positive, group, group)
    if not own:
        sums, count = sums - positive, count - 1
    mean = (z * sums).sum(1) * scale / count.clamp(min=1)
    usable = memory & (count > 0)
    # Negatives: rows of other labels, or (as printed) all but the anchor's own row; -1 leaves a row out for all.
    apart = label if denominator == "softmax" else rows
    keys = torch.where(memory, -1, apart) if negatives == "current" else apart
    against = ops.log_partition(z, negative, scale, q_group=apart, k_group=keys, admit="others", backend=backend)
    if denominator == "literal":
        usable = usable & (against != -torch.inf)  # NaN is to show
        each = torch.where(usable, against, 0.0) - mean
    else:
        same = _of_own_label(z, positive, scale, group, own=own, backend=backend)
        same = torch.where(usable, same, 0.0)
        each = (same - mean) + torch.logaddexp(torch.zeros_like(against), against - same)
    return torch.where(usable, each, 0.0).sum() / usable.sum().clamp(min=1)


def _of_own_label(z: Tensor, k: Tensor, scale: float | Tensor, group: Tensor, *, own: bool, backend: str) -> Tensor:
    """Of each row the log of its sum over the keys `[N, D]` of its group, `[N]`; without `own` over all but its own.
    Two rows differ in a highest bit of their numbers, which parts the other rows into log2(N) sets of groups."""
    if own:
        return ops.log_partition(z, k, scale, q_group=group, k_group=group, admit="same", backend=backend)
    n, rows = len(z), torch.arange(len(z), device=z.device)
    parts = []
    for bit in range(max(1, (n - 1).bit_length())):
        upper = (group * (2 * n) + (rows >> (bit + 1))) * 2
        mine, theirs = upper + (rows >> bit & 1), upper + 1 - (rows >> bit & 1)
        parts.append(ops.log_partition(z, k, scale, q_group=mine, k_group=theirs, admit="same", backend=backend))
    lowest = torch.finfo(z.dtype).min  # of no row at all the logarithm is minus infinity, whose gradient would be NaN
    return torch.stack([part.clamp_min(lowest) for part in parts]).logsumexp(0)


class RehearsalContrastive(nn.Module):
    """Samples of earlier tasks, rehearsed from a memory, find their class where a frozen teacher, the model before this
    task, saw it, among negatives of the model as it is (NSPT: negative student, positive teacher; COCONUT, arXiv
    2310.02699).

    The teacher never saw the new classes, so that what it makes of them is arbitrary; the student is learning them, and
    sees where they come to lie on old ones. The mean, over rehearsed anchors k with a positive, of `mean_p -log
    exp(z_k t_p) / Z_k`. The paper's body was not readable to those who wrote this: what its abstract and reviews leave
    open is a setting. Normalises the embeddings itself; no gradient reaches the teacher.

    Args:
        temperature: 0.1; a number, a tensor of one element or a :class:`Temperature`, taken as it is.
        learnable: whether the temperature is trained.
        positives_from, negatives_from: whose embeddings they are, "teacher" or "student".
        denominator: "softmax", Z_k sums the positives and the rows of other labels: never below 0; "literal", all rows
            but the anchor's, as a review quotes it: the positives are not in it, so that the loss may be negative.
        negatives: "all" rows, or those of the "current" task alone.
        self_positive: whether the anchor's own teacher embedding is a positive; None: where those are the teacher's.
        backend: handed to :mod:`nearfar.ops`; "ring" is refused: an anchor's positives may lie on any rank.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `z` | `[N, D]`, floating point | the student's embeddings of rehearsed and new samples |
        | `teacher` | `[N, D]`, floating point | the teacher's, of the same samples |
        | `label` | `[N]`, integers | the class of each |
        | `is_memory` | `[N]`, bool | whether it was rehearsed |

    Returns:
        A scalar, float32 (float64 from float64); 0 without a rehearsed sample that has a positive.

    Raises:
        UserError: shapes that do not fit, labels that are no integers, a choice that there is not, the student's own
            row as its positive, or a backend that sees a part of the batch.

    Relations:
        - With teacher and student alike, NSPT and NTPT are one.
        - All samples rehearsed, both sides the student's and `denominator="literal"`: `SupCon`.

    Variants:
        - NSPT (COCONUT): the defaults
        - NTPT, its baseline: `RehearsalContrastive(negatives_from="teacher")`
        - SupCon among the rehearsed: `RehearsalContrastive(positives_from="student", denominator="literal")`

    Example:
        >>> import torch
        >>> memory = torch.tensor([True, True, False, False])
        >>> RehearsalContrastive()(torch.randn(4, 8), torch.randn(4, 8), torch.tensor([0, 1, 2, 2]), memory).shape
        torch.Size([])
    """

    def __init__(
        self,
        temperature: Tau = 0.1,
        *,
        learnable: bool = True,
        positives_from: str = "teacher",
        negatives_from: str = "student",
        denominator: str = "softmax",
        negatives: str = "all",
        self_positive: bool | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.temperature = as_temperature(temperature, learnable=learnable)
        self.settings: dict[str, Any] = {
            "positives_from": positives_from,
            "negatives_from": negatives_from,
            "denominator": denominator,
            "negatives": negatives,
            "self_positive": self_positive,
            "backend": backend,
        }

    def forward(self, z: Tensor, teacher: Tensor, label: Tensor, is_memory: Tensor) -> Tensor:
        return rehearsal_contrastive_loss(z, teacher, label, is_memory, temperature=self.temperature, **self.settings)


def supervised_cross_modal_loss(
    a: Tensor,
    b: Tensor,
    label: Tensor,
    *,
    temperature: Tau = 0.1,
    positives: str = "class",
    backend: str = "auto",
) -> Tensor:
    """Supervised contrast of two modalities, both ways; see :class:`SupervisedCrossModal`.

    Takes `a` and `b` `[N, D]`, floating point, and `label` `[N]` int64. The temperature may also be one a row, `[N]`.
    Returns a scalar.

    Raises:
        UserError: shapes that do not fit, labels that are no integers, a choice that there is not, or `backend="ring"`.

    Example:
        >>> import torch
        >>> eye = torch.eye(4)
        >>> round(supervised_cross_modal_loss(eye, eye, torch.zeros(4, dtype=torch.long), temperature=1.0).item(), 6)
        1.493668
    """
    check_pair(a, b)
    _check(positives=(positives, ("class", "instance")))
    refuse_ring(backend, "the cross-modal loss")
    label = inputs.group_ids(label, len(a), "label")
    label = label if positives == "class" else torch.arange(len(a), device=a.device)
    a, b, scale = unit(a), unit(b), as_scale(temperature, len(a))
    ways = [ops.soft_target(q, k, scale, q_group=label, k_group=label, backend=backend) for q, k in ((a, b), (b, a))]
    return (ways[0] + ways[1]) / 2


class SupervisedCrossModal(nn.Module):
    """Sounds and texts (any two modalities) of one class are positives of one another (the MM loss of COCONUT, arXiv
    2310.02699): half the mean over rows of `log sum_i exp(s_ki) - mean_{p: y_p = y_k} s_kp`, both ways. Normalises the
    embeddings itself.

    Args:
        temperature: 0.1; a number, a tensor of one element or a :class:`Temperature`, taken as it is.
        learnable: whether the temperature is trained.
        positives: all rows of the "class", or the one "instance".
        backend: handed to :mod:`nearfar.ops`; "ring" is refused: a row's positives may lie on any rank.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `a`, `b` | `[N, D]`, floating point | the two modalities' embeddings of the same samples |
        | `label` | `[N]`, integers | the class of each |

    Returns:
        A scalar, float32 (float64 from float64).

    Raises:
        UserError: shapes that do not fit, labels that are no integers, a choice that there is not, or a backend that
            sees a part of the batch.

    Relations:
        - With a label of its own for each sample, or `positives="instance"`, it is `InfoNCE`.
        - `SupCon` is its form within one modality.

    Variants:
        - COCONUT: `SupervisedCrossModal(0.1, learnable=False)` on the samples of the current task

    Example:
        >>> import torch
        >>> SupervisedCrossModal()(torch.randn(4, 8), torch.randn(4, 8), torch.tensor([0, 0, 1, 1])).shape
        torch.Size([])
    """

    def __init__(
        self, temperature: Tau = 0.1, *, learnable: bool = True, positives: str = "class", backend: str = "auto"
    ) -> None:
        super().__init__()
        self.temperature = as_temperature(temperature, learnable=learnable)
        self.positives, self.backend = positives, backend

    def forward(self, a: Tensor, b: Tensor, label: Tensor) -> Tensor:
        return supervised_cross_modal_loss(
            a, b, label, temperature=self.temperature, positives=self.positives, backend=self.backend
        )


def _check(**choices: tuple[str, tuple[str, ...]]) -> None:
    for name, (value, known) in choices.items():
        if value not in known:
            raise UserError(f"{name}={value!r}: choose one of {', '.join(known)}")
