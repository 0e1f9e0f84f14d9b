"""`soft_target`: InfoNCE whose target is spread over several keys, evenly over a group and by a teacher's softmax
(ALBEF, arXiv 2107.07651).

For each query one key that it should find is kept apart, its anchor o. With p and Q the softmax and the target,

    L_i = softplus(log sum_{j != o} exp(s_ij) - s_io) + sum_{j != o} Q_ij (s_io - s_ij) ,   dL_i/ds_ij = p_ij - Q_ij ,

and the gradient to s_io is minus the sum of the others: nothing cancels where loss and gradient are close to zero. In
strips of whole rows p and Q are both there at once, so that one product forms the gradient to q from their difference.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from nearfar.errors import UserError
from nearfar.ops.tiling import inputs
from nearfar.ops.tiling.dealing import deal, each
from nearfar.ops.tiling.dense import logsumexp
from nearfar.ops.tiling.float_products import add_mm, mm
from nearfar.ops.tiling.kernels import finish_gradients, limit
from nearfar.ops.tiling.one_pass import one_pass
from nearfar.ops.tiling.operators import operator
from nearfar.ops.tiling.products import product
from nearfar.ops.tiling.tiles import LN2, LOG2E, RUN, Pairs, Tile, own_logits, wide

STRIP = 4 << 20  # entries of a strip of whole rows: 16 MiB of float32
WIDEST = 16 << 20  # entries that student's and teacher's strip may have together for the sake of 128 rows
THICKEST, THICK, THINNEST = 1024, 128, 32  # rows: no use for more, at full speed, still bearable


def soft_target(
    q: Tensor,
    k: Tensor,
    scale: float | Tensor,
    *,
    q_group: Tensor | None = None,
    k_group: Tensor | None = None,
    teacher_q: Tensor | None = None,
    alpha: float | Tensor = 0.0,
    one_set: bool = False,
    backend: str = "auto",
    tile: int | None = None,
) -> Tensor:
    """Mean over queries of the cross-entropy of `softmax_j(scale_i * <q_i, k_j>)` against a target, which gives
    1 - alpha evenly to the keys of the query's group and alpha by the teacher's softmax over the same keys.

    Targets are constants: gradients reach q, k and scale through the logits alone. In products of N x M x D, forward
    and backward: one for the logits, one for the teacher's, one for the gradient to q and one for that to k where it
    is wanted.

    Args:
        q: queries [N, D].
        k: keys [M, D].
        scale: inverse temperature of student and teacher, a number, a scalar tensor or one number a row [N].
        q_group, k_group: integers [N] and [M]. Without them `k[i]` is the one positive of `q[i]`, and M >= N.
        teacher_q: the teacher's queries [N, D].
        alpha: the teacher's share, in [0, 1], a number or a scalar tensor.
        one_set: k is q: rows do not meet themselves, and rows whose group holds no other row count for nothing.
        backend: "auto", "tiled" or "dense".
        tile: rows of a strip. By default some 64 MiB are not exceeded below 260,000 keys.

    Returns:
        A scalar in the type of q; 0 for one set in which no row has a positive.

    Raises:
        UserError: shapes or options that do not fit together, a query without a key of its group.

    >>> import torch
    >>> soft_target(torch.eye(2), torch.eye(2), 1.0, teacher_q=torch.zeros(2, 2), alpha=0.5)  # 0.3133 + 0.5 * 0.5
    tensor(0.5633)
    """
    if backend == "ring":
        raise UserError("soft targets need all keys in one process: gather them, and use backend='auto'")
    if (q_group is None) != (k_group is None):
        raise UserError("pass both q_group [N] and k_group [M], or neither")
    if one_set and (q_group is None or teacher_q is not None or len(q) != len(k)):
        raise UserError("in one set q_group and k_group say what is near, and there is no teacher")
    if teacher_q is not None and teacher_q.shape != q.shape:
        raise UserError(f"teacher_q must be as q: {inputs.describe(teacher_q)} and {inputs.describe(q)}")
    pairs = inputs.pairs(q, k, scale, backend=backend, tile=tile)
    q, k, scale = pairs.q, pairs.k, pairs.scale
    target = _evenly(q_group, k_group, q, len(k), one_set=one_set)
    teacher = None if teacher_q is None else teacher_q.detach().to(q.dtype).contiguous()
    share = torch.as_tensor(alpha, dtype=wide(q), device=q.device).detach()
    if q_group is not None and k_group is not None:
        # Views: torch.compile wants two arguments where one tensor serves both sides.
        q_group, k_group = q_group.contiguous(), k_group.contiguous().view_as(k_group)
    tensors = (q, k, scale, target.anchor, q_group, k_group, teacher, share, target.positives, target.weight)
    rows = tile or strip_rows(len(k), 1 if teacher is None else 2)
    if backend == "dense":
        return _reference(*tensors, one_set, rows, k.requires_grad).to(q.dtype)
    return _soft_target(*tensors, one_set, rows, k.requires_grad).to(q.dtype)


class _Target(NamedTuple):
    """One positive key of each query, how many there are, and what the query's loss weighs in the mean; each [N]."""

    anchor: Tensor
    positives: Tensor
    weight: Tensor


def _evenly(q_group: Tensor | None, k_group: Tensor | None, q: Tensor, m: int, *, one_set: bool) -> _Target:
    itself = torch.arange(len(q), device=q.device)
    if q_group is None or k_group is None:
        if m < len(q):
            raise UserError(f"k[i] is the positive of q[i], so k needs at least the {len(q)} rows of q, not {m}")
        every = q.new_ones(len(q), dtype=wide(q))
        return _Target(itself, every, every / len(q))
    q_group = inputs.group_ids(q_group, len(q), "q_group").long()
    k_group = inputs.group_ids(k_group, m, "k_group").long()
    in_order, order = k_group.sort(stable=True)
    first = torch.searchsorted(in_order, q_group)
    count = torch.searchsorted(in_order, q_group, right=True) - first
    anchor = order[first.clamp(max=m - 1)]
    if one_set:
        # The second of its group where the first is the row itself; a row alone takes itself, and weighs nothing.
        anchor = torch.where((anchor == itself) & (count > 1), order[(first + 1).clamp(max=m - 1)], anchor)
        count = count - 1
    elif not torch.compiler.is_compiling() and not bool((count > 0).all()):
        raise UserError("a query has no key of its group: put the batch's own keys before the queue")
    weight = (count > 0).to(wide(q))
    return _Target(anchor, count.clamp(min=1).to(wide(q)), weight / weight.sum().clamp(min=1))


def strip_rows(m: int, strips: int) -> int:
    """How many whole rows a strip takes."""
    m = max(m, 1)
    return max(min(STRIP // m, THICKEST), min(THICK, WIDEST // (strips * m)), THINNEST)


SCHEMA = (
    "Tensor q, Tensor k, Tensor scale, Tensor anchor, Tensor? q_group, Tensor? k_group, Tensor? teacher, "
    "Tensor alpha, Tensor count, Tensor weight, bool one_set, int rows, bool want_k, bool gradients"
)


def _shapes(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, want_k, gradients = args[0], args[1], args[-2], args[-1]
    shapes = (q.shape, k.shape if want_k else (0,), q.shape[:1]) if gradients else ((0,),) * 3
    dq, dk, dscale = (q.new_empty(shape) for shape in shapes)
    return q.new_empty((), dtype=wide(q)), dq, dk, dscale


@operator(f"soft_target({SCHEMA}) -> (Tensor, Tensor, Tensor, Tensor)", _shapes)
def _kernel(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The weighted sum of the rows' losses and its gradients to q, k and scale."""
    q, k, scale, anchor, q_group, k_group, teacher, alpha, count, weight, one_set, rows, want_k, gradients = args
    student = Pairs(q, k, scale, own=anchor, tile=(rows, max(len(k), 1)))
    shares = deal(student)
    teachers = [None if teacher is None else _Teacher(teacher, student, alpha) for _ in shares]
    evenly = None if q_group is None else ((1 - alpha) / count).to(q.dtype)
    own, bounded = own_logits(student), student.bound() <= limit(q.dtype)
    g_own, losses = torch.zeros_like(own), [own.new_zeros(()) for _ in shares]
    dq = torch.zeros_like(q) if gradients else q.new_empty(0)
    dks = [torch.zeros_like(k) if gradients and want_k else q.new_empty(0) for _ in shares]
    scratches = [student.scratch() for _ in shares]

    def compute(index: int, pairs: Pairs, tiles: list[Tile]) -> None:
        taught = teachers[index]
        for tile, queries in pairs.walk(tiles):
            z = mm(queries, k.t(), out=tile.view(scratches[index]))
            if taught is not None:
                taught.enter(tile.rows)
            for part in parts(z):
                at = slice(tile.rows.start + part.start, tile.rows.start + part.stop)
                hidden = [anchor[at], torch.arange(at.start, at.stop, device=q.device)] if one_set else [anchor[at]]
                x = z[part]
                target = torch.zeros_like(x) if taught is None else taught.shares(part, at, hidden)
                if evenly is not None:
                    same = fill_(q_group[at, None] == k_group, hidden, False)
                    target.addcmul_(same.to(x.dtype), evenly[at, None])
                fill_(x, hidden, 0.0)
                spread = target.sum(1) * own[at] - (target * x).sum(1) * LN2
                total, log_total = exponentials_(fill_(x, hidden, -math.inf), bounded)
                gap = log_total - own[at]  # log of (all the others / the anchor)
                losses[index] += ((spread - logsigmoid(-gap)) * weight[at]).sum()
                if gradients:
                    x.mul_((gap.sigmoid() / total).to(x.dtype)[:, None]).sub_(target).mul_(weight[at, None].to(x.dtype))
                    g_own[at] = -x.sum(1)
            if gradients:
                mm(z, k, out=dq[tile.rows])
                if want_k:
                    add_mm(dks[index], z.t(), queries, alpha=LN2)

    each(student, shares, compute)
    loss, dk = (reduce(Tensor.add_, sums) for sums in (losses, dks))
    if not gradients:
        return loss, dq, dk, q.new_empty(0)
    return loss, *finish_gradients(student, dq, dk, g_own)


class _Teacher:
    """The teacher's softmax over the keys, strip by strip."""

    def __init__(self, queries: Tensor, student: Pairs, alpha: Tensor) -> None:
        self.pairs = Pairs(queries, student.k, student.scale, own=student.own, tile=student.tile)
        self.own, self.alpha, self.strip = own_logits(self.pairs), alpha, self.pairs.scratch()
        self.bounded = self.pairs.bound() <= limit(queries.dtype)

    def enter(self, rows: slice) -> None:
        p = self.pairs
        queries = p.q[rows] * (p.scale[rows, None] * LOG2E)
        self.z = mm(queries, p.k.t(), out=self.strip[: len(queries) * len(p.k)].view(-1, len(p.k)))

    def shares(self, part: slice, at: slice, hidden: list[Tensor]) -> Tensor:
        """alpha times the softmax of some rows, 0 at the hidden places, in place."""
        x = fill_(self.z[part], hidden, -math.inf)
        total, log_total = exponentials_(x, self.bounded)
        share = self.alpha * (log_total - self.own[at]).sigmoid() / total
        return x.mul_(share.to(x.dtype)[:, None])


def parts(z: Tensor) -> list[slice]:
    """Rows taken at a time by all that is no product: few enough for the nearest caches, except on a GPU."""
    step = max(8, RUN // max(z.shape[1], 1)) if z.device.type == "cpu" else max(len(z), 1)
    return [slice(i, min(i + step, len(z))) for i in range(0, len(z), step)]


def fill_(x: Tensor, columns: list[Tensor], value: float) -> Tensor:
    """Set one entry a row for each of the column indices."""
    for column in columns:
        x.scatter_(1, column[:, None], value)
    return x


def exponentials_(x: Tensor, bounded: bool) -> tuple[Tensor, Tensor]:
    """Turn base-2 logits into exponentials up to a factor a row. Their sums, and the log of their true sums, in base e
    and float64."""
    top = x.new_zeros(()) if bounded else x.amax(1, keepdim=True).clamp_(min=torch.finfo(x.dtype).min)
    torch.exp2(x if bounded else x.sub_(top), out=x)
    total = x.sum(1).to(wide(x))
    return total.clamp(min=torch.finfo(x.dtype).tiny), (total.log2() + top.reshape(-1)) * LN2


def _reference(*args: Any) -> Tensor:
    """The same by autograd, the anchors apart as well."""
    q, k, scale, anchor, q_group, k_group, teacher, alpha, count, weight, one_set, *_ = args
    columns = torch.arange(len(k), device=q.device)
    own = anchor[:, None] == columns
    itself = (torch.arange(len(q), device=q.device)[:, None] == columns) & one_set
    with torch.no_grad():
        target = q.new_zeros(len(q), len(k))
        if teacher is not None:
            logits = product(teacher * scale[:, None], k)
            target = alpha.to(q.dtype) * logits.masked_fill(itself, -math.inf).softmax(1)
        if q_group is not None:
            target = target + (q_group[:, None] == k_group) * ((1 - alpha) / count).to(q.dtype)[:, None]
        target = target.masked_fill(own | itself, 0.0)
    z, positive = product(q * scale[:, None], k), (q * k[anchor]).sum(1) * scale
    losses = (target * (positive[:, None] - z)).sum(1) - logsigmoid(positive - logsumexp(z, own | itself, dim=1))
    return (losses * weight).sum()


_soft_target = one_pass(_kernel, _reference)
