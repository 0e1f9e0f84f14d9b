"""Several positives a row with a denominator each: the float64 formula with all gates at once, tiles, extremes,
gradients of two orders."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from nearfar import ops
from nearfar.errors import UserError


def explicit(q, k, scale, own_group, partner, k_group, gate, itself, each_row):
    """The formula, one pair at a time; keys through the row's gate as a tensor [N, M, D]."""
    keys = k[None].expand(len(q), -1, -1)
    if gate is not None:
        keys = keys / (gate[:, None] * keys.square()).sum(2, keepdim=True).sqrt()
    z = scale * (q[:, None] * keys).sum(2)
    rows, count = [], 0
    for i in range(len(q)):
        positives = (k_group == partner[i]).nonzero()[:, 0].tolist()
        if itself and len(positives) > 1:
            positives = [j for j in positives if j != i]
        negatives = (k_group != partner[i]) & (k_group != own_group[i])
        losses = [torch.cat([z[i, j : j + 1], z[i][negatives]]).logsumexp(0) - z[i, j] for j in positives]
        if losses:
            rows.append(torch.stack(losses).mean() if each_row else torch.stack(losses).sum())
        count += bool(losses) if each_row else len(losses)
    return (torch.stack(rows).sum() if rows else q.sum() * 0), count


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 20),
    m=st.integers(1, 20),
    classes=st.integers(1, 5),
    gated=st.booleans(),
    itself=st.booleans(),
    each_row=st.booleans(),
    tile=st.sampled_from([None, 1, 6]),
    backend=st.sampled_from(["tiled", "tiled", "dense"]),
    scale=st.sampled_from([1.0, 20.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 3),
)
def test_equal_to_the_plain_formula_with_its_gradient(
    n, m, classes, gated, itself, each_row, tile, backend, scale, dtype, seed
):
    g = torch.Generator().manual_seed(seed)
    m = n if itself else m
    leaves = [torch.randn(rows, 5, generator=g, dtype=torch.float64) for rows in (n, m)]
    leaves += [torch.tensor(scale, dtype=torch.float64), torch.rand(n, 5, generator=g, dtype=torch.float64)]
    groups = [torch.randint(classes, (rows,), generator=g) for rows in (n, n, m)]
    exact = [x.clone().requires_grad_() for x in leaves]
    expected, count = explicit(*exact[:3], *groups, exact[3] if gated else None, itself, each_row)
    cast = [x.to(dtype).requires_grad_() for x in leaves]
    total, counted = ops.pair_contrast(
        *cast[:3],
        q_group=groups[0],
        partner=groups[1],
        k_group=groups[2],
        key_gate=cast[3] if gated else None,
        own=torch.arange(n) if itself else None,
        each_row=each_row,
        backend=backend,
        tile=tile,
    )
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 2e-4, "atol": 2e-4 * scale}
    assert counted.item() == count
    torch.testing.assert_close(total.double(), expected, **tolerance)
    derivatives = [
        torch.autograd.grad(value, xs[: 4 if gated else 3], allow_unused=True, materialize_grads=True)
        for value, xs in ((total, cast), (expected, exact))
    ]
    for actual, right in zip(*derivatives, strict=True):
        torch.testing.assert_close(actual.double(), right, **tolerance)


def a_call(gated, seed=0):
    g = torch.Generator().manual_seed(seed)
    q, k, gate = (torch.randn(6, 3, generator=g, dtype=torch.float64) for _ in range(3))
    ids = torch.tensor([0, 0, 1, 1, 2, 2])

    def call(q, k, scale, gate):
        return ops.pair_contrast(
            q, k, scale, q_group=ids, partner=ids.roll(1), k_group=ids, key_gate=gate.exp() if gated else None
        ).total

    leaves = [x.requires_grad_() for x in (q, k, torch.tensor(1.7, dtype=torch.float64), gate)]
    return call, leaves


@pytest.mark.parametrize("gated", [False, True])
def test_gradients_of_two_orders(gated):
    call, leaves = a_call(gated)
    assert gradcheck(call, leaves)
    if not gated:
        leaves[3].requires_grad_(False)
    assert gradgradcheck(call, leaves)


@pytest.mark.parametrize("backend", ["tiled", "dense"])
def test_a_constant_added_to_a_row_changes_nothing(backend):
    """Shifted by a dimension in which all keys are 1."""
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(6, 4, generator=g).double(), torch.randn(6, 3, generator=g).double()
    ids = torch.tensor([0, 0, 1, 1, 2, 2])
    values, gradients = [], []
    for shift in (0.0, 300.0):
        one = torch.cat([q[:, :3], torch.full((6, 1), shift, dtype=torch.float64)], 1).requires_grad_()
        keys = torch.cat([k, torch.ones(6, 1, dtype=torch.float64)], 1)
        out = ops.pair_contrast(one, keys, 1.0, q_group=ids, partner=ids.roll(2), k_group=ids, backend=backend)
        values.append(out.total)
        gradients.append(torch.autograd.grad(out.total, one)[0][:, :3])
        assert out.total > 0
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("backend", ["tiled", "dense"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_far_beyond_what_exp_holds(backend, dtype):
    """The released code subtracts a row's mean, which does not bound it: at a scale of 1,000 it overflows."""
    x = torch.eye(3, dtype=dtype).repeat_interleave(2, 0).requires_grad_()
    ids = torch.tensor([0, 0, 1, 1, 2, 2])
    near = ops.pair_contrast(x, x, 1000.0, q_group=ids, partner=ids, k_group=ids, backend=backend).total
    far = ops.pair_contrast(x, -x, 1000.0, q_group=ids, partner=ids, k_group=ids, backend=backend).total
    assert near.item() == 0
    assert far.item() == pytest.approx(6 * 1000.0, rel=0.01)
    gradient = torch.autograd.grad(near + far, x)[0]
    assert gradient.isfinite().all()


@pytest.mark.parametrize("backend", ["tiled", "dense"])
def test_rows_without_negatives_or_without_positives(backend):
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    two = torch.tensor([0, 0, 1, 1])
    out = ops.pair_contrast(x, x, 1.0, q_group=two, partner=1 - two, k_group=two, backend=backend)
    assert (out.total.item(), out.number.item()) == (0.0, 4.0)  # no negative
    assert torch.equal(torch.autograd.grad(out.total, x)[0], torch.zeros_like(x))
    out = ops.pair_contrast(x, x, 1.0, q_group=two, partner=two + 5, k_group=two, backend=backend)
    assert (out.total.item(), out.number.item()) == (0.0, 0.0)  # no positive
    assert torch.equal(torch.autograd.grad(out.total, x)[0], torch.zeros_like(x))


@pytest.mark.parametrize("backend", ["tiled", "dense"])
def test_a_gate_that_is_closed_has_a_finite_gradient(backend):
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gate = torch.zeros(6, 3, requires_grad=True)
    ids = torch.tensor([0, 0, 1, 1, 2, 2])
    out = ops.pair_contrast(
        gate * x, x, 10.0, q_group=ids, partner=ids.roll(2), k_group=ids, key_gate=gate, backend=backend
    )
    assert out.total.item() == pytest.approx(6 * math.log(3))
    for gradient in torch.autograd.grad(out.total, [x, gate]):
        assert gradient.isfinite().all()


def test_no_matrix_of_all_pairs():
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else (out,):
                if isinstance(tensor, torch.Tensor) and func.namespace != "nearfar":
                    largest.append(tensor.numel())
            return out

    n = 3000
    q, k, gate = (torch.randn(n, 4, requires_grad=True) for _ in range(3))
    ids = torch.arange(n) // 2
    with Sizes():
        ops.pair_contrast(q, k, 1.0, q_group=ids, partner=ids.roll(2), k_group=ids, key_gate=gate**2).total.backward()
    assert max(largest) <= 4 * n * 4


def test_what_does_not_fit_is_named():
    x, ids = torch.randn(4, 3), torch.arange(4)
    good = {"q_group": ids, "partner": ids, "k_group": ids}
    for name, wrong in {"q_group": ids[:2], "partner": ids.float(), "k_group": ids[None], "own": ids[:3]}.items():
        with pytest.raises(UserError, match=name):
            ops.pair_contrast(x, x, 1.0, **good | {name: wrong})
    with pytest.raises(UserError, match="key_gate must be as q"):
        ops.pair_contrast(x, x, 1.0, **good, key_gate=torch.ones(4, 2))
    with pytest.raises(UserError, match="gather the keys"):
        ops.pair_contrast(x, x, 1.0, **good, backend="ring")
