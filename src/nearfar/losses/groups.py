"""Sums and means over groups of embeddings, in O(N) memory: what a mask of N x M would do, without the mask."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.ops.tiling.inputs import describe


def unit(x: Tensor) -> Tensor:
    """Rows of `x` `[N, D]`, floating point, on the unit sphere; a zero row stays zero. Half precision is lifted to
    float32 before: rounded unit vectors are off by 2e-3, which a scale of 100 would turn into 0.2."""
    return torch.nn.functional.normalize(lifted(x), dim=-1)


def unit_keys(k: Tensor) -> Tensor:
    """Keys `k` `[M, D]`, floating point, on the unit sphere. Those that want no gradient and lie there already, as a
    queue's do, are taken as they are: a copy of them would be as large as all else that a loss needs."""
    if k.requires_grad or torch.compiler.is_compiling():  # no branch of a graph may depend on the data
        return unit(k)
    k = lifted(k)
    off = (torch.linalg.vector_norm(k, dim=1) - 1).abs()
    return k if bool((off <= 4 * torch.finfo(k.dtype).eps).all()) else unit(k)


def lifted(x: Tensor) -> Tensor:
    """`x`, floating point of any shape `[...]`, in float32, or float64 as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def group_sum(k: Tensor, q_group: Tensor, k_group: Tensor) -> tuple[Tensor, Tensor]:
    """For each query, the sum and the number of the keys of its group.

    Args:
        k: keys `[M, D]`, floating point.
        q_group: `[N]` long, the queries' groups.
        k_group: `[M]` long, the keys' groups.

    Returns:
        sums `[N, D]` and counts `[N]` (dtype of `k`); both zero where the group holds no key.

    Example:
        >>> sums, counts = group_sum(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([7, 9]), torch.tensor([7, 7, 8]))
        >>> sums.tolist(), counts.tolist()
        ([[3.0], [0.0]], [2.0, 0.0])
    """
    # A group's place is that of its first key in order: no size depends on how many groups there are.
    in_order = k_group.sort().values
    q_id, k_id = torch.searchsorted(in_order, q_group), torch.searchsorted(in_order, k_group)
    counts = torch.searchsorted(in_order, q_group, right=True) - q_id
    sums = k.new_zeros(len(k) + 1, k.shape[1]).index_add(0, k_id, k)[q_id]
    return sums * (counts > 0)[:, None], counts.to(k.dtype)


def check_rows(**tensors: Tensor) -> None:
    """Raise a UserError that names the argument unless each is `[N, D]`, floating point."""
    for name, x in tensors.items():
        if x.ndim != 2 or not x.is_floating_point():
            raise UserError(f"{name} must be floating-point [N, D], got shape {describe(x)}")


def check_pair(a: Tensor, b: Tensor) -> None:
    """Raise a UserError that says what is wrong unless `a` and `b` are `[N, D]` of one shape (of any dtype)."""
    check_rows(a=a, b=b)
    if a.shape != b.shape:
        raise UserError(
            f"a and b must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}: "
            "row i of one is the positive of row i of the other"
        )


def check_teacher(student: Tensor, teacher: Tensor) -> None:
    """Raise a UserError unless `student` and `teacher` are `[N, D]` of one shape, floating point."""
    check_rows(student=student, teacher=teacher)
    if teacher.shape != student.shape:
        raise UserError(
            f"student and teacher must have one shape, got {tuple(student.shape)} and {tuple(teacher.shape)}: row i of "
            "both is one picture"
        )


def refuse_ring(backend: str, loss: str) -> None:
    """Raise a UserError where a rank's part of the batch would silently give another loss."""
    if backend == "ring":
        raise UserError(
            f"{loss} needs all rows in one process, and backend='ring' would give another loss: gather the embeddings "
            "of all ranks (with their gradient: torch.distributed.nn.functional.all_gather), and use backend='auto'"
        )
