"""What the public functions share: checks that teach, and one form for every way of giving an argument."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.ops.tiling.tiles import Pairs, tile_shape

BACKENDS = ("auto", "dense", "tiled", "ring")
ADMIT = ("all", "same", "different", "others")


def pairs(
    q: Tensor,
    k: Tensor,
    scale: float | Tensor,
    *,
    own: Tensor | None = None,
    q_group: Tensor | None = None,
    k_group: Tensor | None = None,
    admit: str = "all",
    one_set: bool = False,
    backend: str = "auto",
    tile: int | tuple[int, int] | None = None,
) -> Pairs:
    """The checked arguments, contiguous, in float32 or float64 (half precision is lifted), the scale as [N]."""
    for name, vectors in (("q", q), ("k", k)):
        if vectors.ndim != 2 or not vectors.is_floating_point():
            raise UserError(f"{name} must be a floating-point [rows, dim] tensor, not {describe(vectors)}")
    if q.shape[1] != k.shape[1]:
        raise UserError(f"q and k must have the same width: q is {describe(q)}, k is {describe(k)}")
    if backend not in BACKENDS:
        raise UserError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
    if admit not in ADMIT:
        raise UserError(f"admit must be one of {', '.join(ADMIT)}, not {admit!r}")
    if admit != "all" and (q_group is None or k_group is None):
        raise UserError(f"admit={admit!r} compares group ids: pass both q_group [N] and k_group [M]")
    if admit == "all" and (q_group is not None or k_group is not None):
        raise UserError("q_group and k_group have no effect with admit='all': say admit='same' or admit='different'")
    if admit != "all":
        q_group, k_group = group_ids(q_group, len(q), "q_group"), group_ids(k_group, len(k), "k_group")
    sides = (tile, tile) if isinstance(tile, int) else tile
    if sides is not None and (len(sides) != 2 or min(sides) < 1):
        raise UserError(f"tile must be a positive number of rows, or (rows, columns), not {tile!r}")
    lifted = torch.promote_types(torch.promote_types(q.dtype, k.dtype), torch.float32)
    q, k = q.to(lifted).contiguous(), k.to(lifted).contiguous()
    # One tensor on both sides becomes two views of it: autograd and torch.compile then see two arguments.
    k = k.view_as(k) if k is q else k
    k_group = k_group.view_as(k_group) if k_group is not None and k_group is q_group else k_group
    shape = tile_shape(len(q), len(k), sides, one_set=one_set, narrow=q.device.type == "cpu")
    return Pairs(q, k, per_row(scale, q, "scale"), own, q_group, k_group, admit, one_set, shape)


def per_row(value: float | Tensor, q: Tensor, name: str) -> Tensor:
    """A number, a tensor of one element or [N], as [N] in the type of q."""
    value = torch.as_tensor(value, dtype=q.dtype, device=q.device)  # a number keeps the digits of a float64 q
    if value.numel() == 1:
        return value.reshape(1).expand(len(q))
    if value.shape != q.shape[:1]:
        raise UserError(f"{name} must be a number or one number a row of q [{len(q)}], not {describe(value)}")
    return value


def group_ids(group: Tensor | None, length: int, name: str) -> Tensor:
    """Group ids as a vector of the expected length."""
    if group is None or group.shape != (length,) or group.is_floating_point():
        description = "None" if group is None else describe(group)
        raise UserError(f"{name} must hold one integer a row, [{length}], not {description}")
    return group.contiguous()


def near(
    positive: Tensor | None,
    q_group: Tensor | None,
    k_group: Tensor | None,
    n: int,
    m: int,
    device: torch.device,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """What says which of m keys are the positives of n queries, checked: pairs of a query and a key, int64 [P, 2] in
    the queries' order, or groups, or both."""
    if (q_group is None) != (k_group is None):
        raise UserError("pass both q_group [N] and k_group [M], or neither")
    if q_group is not None:
        q_group, k_group = group_ids(q_group, n, "q_group"), group_ids(k_group, m, "k_group")
        k_group = k_group.view_as(k_group)  # torch.compile wants two arguments where one tensor serves both sides
        return None if positive is None else near_pairs(positive, n, m), q_group, k_group
    if positive is not None:
        return near_pairs(positive, n, m), None, None
    if m < n:
        raise UserError(f"k[i] is the positive of q[i], so k needs at least the {n} rows of q, not {m}")
    return torch.arange(n, device=device)[:, None].expand(n, 2), None, None


def near_pairs(positive: Tensor, n: int, m: int) -> Tensor:
    """Pairs [P, 2] of a query and a key, or a mask [N, M], as pairs in order."""
    if positive.dtype == torch.bool:
        if positive.shape != (n, m):
            raise UserError(f"positive as a mask must be [{n}, {m}], a row a query, not {describe(positive)}")
        return positive.nonzero()
    if positive.ndim != 2 or positive.shape[1] != 2 or positive.is_floating_point():
        raise UserError(
            f"positive must hold the query and the key of each pair, integers [P, 2], or be a mask [{n}, {m}], bool, "
            f"not {describe(positive)}"
        )
    row, key = positive.long().unbind(1)
    if not torch.compiler.is_compiling() and len(row):
        if bool(((row < 0) | (row >= n) | (key < 0) | (key >= m)).any()):
            raise UserError(f"positive must name queries from 0 to {n - 1} and keys from 0 to {m - 1}")
        if len(torch.unique(row * m + key)) < len(row):
            raise UserError("positive names a pair of a query and a key twice: each counts once")
    order = row.argsort(stable=True)
    return torch.stack([row[order], key[order]], 1)


def describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"
