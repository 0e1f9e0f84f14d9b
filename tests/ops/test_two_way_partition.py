"""Log-sums with a scale for every row on either side: the float64 formula, tiles, extremes, gradients of two orders."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from nearfar import ops
from nearfar.errors import UserError


def vectors(n, m=None, d=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(n, d, generator=g, dtype=torch.float64)
    k = q if m is None else torch.randn(m, d, generator=g, dtype=torch.float64)
    scales = [torch.rand(len(x), generator=g, dtype=torch.float64) * 9 + 0.5 for x in (q, k)]
    return q, k, scales[0], scales[0] if m is None else scales[1]


def plain(q, k, q_scale, k_scale, hidden):
    """Log-sums and mean logits of rows, then of columns; the formula, one anchor at a time."""
    values = []
    for z, h in ((q_scale[:, None] * (q @ k.T), hidden), (k_scale[:, None] * (k @ q.T), hidden.T)):
        logs, means = [], []
        for row, out in zip(z, h, strict=True):
            x = row[~out]
            logs.append(x.logsumexp(0) if len(x) else x.new_tensor(-math.inf))
            means.append((x.softmax(0) * x).sum() if len(x) else x.new_tensor(0.0))
        values += [torch.stack(logs), torch.stack(means)]
    return values


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 20),
    one_set=st.booleans(),
    groups=st.booleans(),
    tile=st.sampled_from([None, 1, 6]),
    budget=st.sampled_from([None, 0, 500]),
    backend=st.sampled_from(["tiled", "tiled", "dense"]),
    sharp=st.sampled_from([1.0, 40.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 3),
)
def test_equal_to_the_plain_formula_with_its_gradient(n, one_set, groups, tile, budget, backend, sharp, dtype, seed):
    q, k, q_scale, k_scale = vectors(n, None if one_set else n, seed=seed)
    ids = torch.arange(n) // 3 if groups else None
    hidden = torch.eye(n, dtype=torch.bool) if ids is None else ids[:, None] == ids
    leaves = [x.clone().requires_grad_() for x in ((q, q_scale) if one_set else (q, k, q_scale, k_scale))]
    args = (leaves[0], leaves[0], leaves[1], leaves[1]) if one_set else leaves
    expected = plain(args[0], args[1], args[2] * sharp, args[3] * sharp, hidden)
    cast = [x.detach().to(dtype).requires_grad_() for x in leaves]
    vectors_of, scales = (cast[:1] * 2, cast[1:] * 2) if one_set else (cast[:2], cast[2:])
    sides = ops.two_way_partition(
        *vectors_of,
        *(scale * sharp for scale in scales),
        q_group=ids,
        k_group=ids,
        one_set=one_set,
        backend=backend,
        budget=budget,
        tile=tile,
    )
    values = [x for side in sides for x in side]
    exact = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 2e-5 * sharp}
    for f, e in zip(values, expected, strict=True):
        torch.testing.assert_close(f.double(), e, **exact)
    assert not sides[0].mean_logit.requires_grad
    weights = torch.linspace(1, 2, n, dtype=torch.float64)
    real = ~hidden.all(1)

    def total(logs):
        chosen = logs if not one_set else logs[:1]
        return sum((x[real] * weights[real] * (i + 1)).sum() for i, x in enumerate(chosen))

    if real.any():
        right_gradients = torch.autograd.grad(total([expected[0], expected[2]]), leaves)
        gradients = torch.autograd.grad(total([sides[0].log_sum, sides[1].log_sum]), cast)
        for g, w in zip(gradients, right_gradients, strict=True):
            assert (g.double() - w).norm() <= (1e-9 if dtype == torch.float64 else 1e-4) * max(float(w.norm()), 1.0)


@pytest.mark.parametrize("one_set", [False, True])
def test_gradients_of_both_orders(one_set):
    q, k, q_scale, k_scale = (x.clone().requires_grad_() for x in vectors(4, 4, d=3))

    def logs(q, k, q_scale, k_scale):
        if one_set:
            return ops.two_way_partition(q, q, q_scale, q_scale, one_set=True, tile=3)[0].log_sum
        sides = ops.two_way_partition(q, k, q_scale, k_scale, tile=3)
        return sides[0].log_sum, sides[1].log_sum

    args = (q, k.detach(), q_scale, k_scale.detach()) if one_set else (q, k, q_scale, k_scale)
    assert gradcheck(logs, args)
    assert gradgradcheck(logs, args)


def test_the_mean_logit_is_the_derivative_to_the_log_of_the_scale():
    q, k, q_scale, k_scale = vectors(7, 7)
    q_scale.requires_grad_()
    side, _ = ops.two_way_partition(q, k, q_scale, k_scale)
    (slope,) = torch.autograd.grad(side.log_sum.sum(), q_scale)
    torch.testing.assert_close(slope * q_scale.detach(), side.mean_logit)


def test_equal_scales_are_the_partition_of_one_scale():
    q, k, *_ = vectors(9, 9)
    rows, cols = ops.log_partition(
        q, k, 3.0, q_group=torch.arange(9), k_group=torch.arange(9), admit="different", both=True
    )
    of_q, of_k = ops.two_way_partition(q, k, 3.0, 3.0)
    torch.testing.assert_close(of_q.log_sum, rows)
    torch.testing.assert_close(of_k.log_sum, cols)


@pytest.mark.parametrize("one_set", [False, True])
def test_scales_so_sharp_that_exponentials_overflow(one_set):
    """A row whose best logit is 4,000 beside one at -4,000: float32 exponentials hold neither."""
    q, k, *_ = vectors(12, 12)
    q, k = (torch.nn.functional.normalize(x, dim=1).float() for x in (q, q if one_set else k))
    scale = torch.logspace(0, 3.6, 12)
    sides = ops.two_way_partition(q, k, scale, scale, one_set=one_set, tile=4)
    hidden = torch.eye(12, dtype=torch.bool)
    expected = plain(q.double(), k.double(), scale.double(), scale.double(), hidden)
    for values, right in zip((x for side in sides for x in side), expected, strict=True):
        assert values.isfinite().all()
        torch.testing.assert_close(values.double(), right, rtol=1e-5, atol=1e-3)


def test_an_anchor_that_meets_nothing_has_minus_infinity_and_no_gradient():
    q, k, q_scale, k_scale = vectors(3, 3)
    q.requires_grad_()
    group = torch.tensor([0, 0, 0])
    for backend in ("tiled", "dense"):
        side, _ = ops.two_way_partition(q, k, q_scale, k_scale, q_group=group, k_group=group, backend=backend)
        assert side.log_sum.isneginf().all()
        assert not side.mean_logit.any()
        (gradient,) = torch.autograd.grad(side.log_sum.sum(), q)
        assert not gradient.any()
    empty = ops.two_way_partition(q[:0], k[:0], 1.0, 1.0)
    assert len(empty[0].log_sum) == 0


def test_bad_input_is_named():
    q, k, *_ = vectors(3, 4)
    with pytest.raises(UserError, match="3 rows, k 4"):
        ops.two_way_partition(q, k, 1.0, 1.0)
    with pytest.raises(UserError, match="both q_group"):
        ops.two_way_partition(q, k, 1.0, 1.0, q_group=torch.arange(3))
    with pytest.raises(UserError, match="in one set k is q"):
        ops.two_way_partition(q, k, 1.0, 1.0, one_set=True)
    with pytest.raises(UserError, match="q_scale"):
        ops.two_way_partition(q, q, torch.ones(2), 1.0)
    with pytest.raises(UserError, match="gather them"):
        ops.two_way_partition(q, q, 1.0, 1.0, backend="ring")
