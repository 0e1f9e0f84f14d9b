"""`soft_target` against its formula in float64, near zero too; what it costs; and that targets are constants."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import log_softmax, normalize

from nearfar import ops
from nearfar.errors import UserError
from nearfar.ops.fused_soft_target import strip_rows


def unit(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def oracle(q, k, scale, *, q_group=None, k_group=None, teacher_q=None, alpha=0.0, one_set=False):
    """Both matrices written out; the target without a graph."""
    row_scale = scale.reshape(-1, 1) if isinstance(scale, torch.Tensor) else scale
    itself = torch.eye(len(q), len(k), dtype=torch.bool) & one_set
    with torch.no_grad():
        same = torch.eye(len(q), len(k), dtype=torch.bool) if q_group is None else q_group[:, None] == k_group
        same = (same & ~itself).double()
        target = (1 - alpha) * same / same.sum(1, keepdim=True).clamp(min=1)
        if teacher_q is not None:
            target += alpha * (row_scale * (teacher_q @ k.T)).softmax(1)
    logits = (row_scale * (q @ k.T)).masked_fill(itself, -1e9)
    losses = -(target * log_softmax(logits, 1)).sum(1)
    return losses[same.any(1)].sum() / same.any(1).sum().clamp(min=1)


def value_and_gradients(function, tensors, dtype, options):
    leaves = [t.detach().to(dtype).clone().requires_grad_() for t in tensors]
    options = {
        n: o.to(dtype) if isinstance(o, torch.Tensor) and o.is_floating_point() else o for n, o in options.items()
    }
    loss = function(*leaves, **options)
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def assert_close(actual, expected, tolerance, floor=1e-3):
    for f, e in zip(actual, expected, strict=True):
        assert f.shape == e.shape
        assert (f - e).norm() <= tolerance * max(float(e.norm()), floor)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 20),
    extra=st.integers(0, 9),
    scale=st.sampled_from([1.0, 20.0, 100.0]),
    per_row=st.booleans(),
    alpha=st.sampled_from([None, 0.0, 0.4, 1.0]),
    grouped=st.booleans(),
    tile=st.sampled_from([None, 1, 7]),
    backend=st.sampled_from(["tiled", "tiled", "dense"]),
    seed=st.integers(0, 3),
)
def test_value_and_gradients(n, extra, scale, per_row, alpha, grouped, tile, backend, seed):
    q, k = unit(n, 12, seed=seed), unit(n + extra, 12, seed=seed + 9)
    options = {} if alpha is None else {"teacher_q": unit(n, 12, seed=seed + 5), "alpha": alpha}
    if grouped:
        ids = torch.randint(5, (n + extra,), generator=torch.Generator().manual_seed(seed))
        options |= {"q_group": ids[:n].flip(0), "k_group": ids}
    scale = torch.linspace(scale / 2, scale, n).double() if per_row else torch.tensor(scale).double()
    expected = value_and_gradients(oracle, (q, k, scale), torch.float64, options)
    ours = lambda *t, **o: ops.soft_target(*t, tile=tile, backend=backend, **o)  # noqa: E731
    assert_close(value_and_gradients(ours, (q, k, scale), torch.float64, options), expected, 1e-10)
    single = value_and_gradients(ours, (q, k, scale), torch.float32, options)
    # Targets and probabilities carry the error of their logits, and their difference to the scale cancels.
    assert_close(single, expected, 3e-6 + float(scale.max()) * 3e-7, floor=0.1)


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 20),
    scale=st.sampled_from([1.0, 20.0, 100.0]),
    tile=st.sampled_from([None, 1, 7]),
    seed=st.integers(0, 5),
)
@pytest.mark.parametrize("backend", ["tiled", "dense"])
def test_one_set(n, scale, tile, backend, seed):
    z, group = unit(n, 12, seed=seed), torch.randint(6, (n,), generator=torch.Generator().manual_seed(seed))
    options = {"q_group": group, "k_group": group, "one_set": True}
    scale = torch.tensor(scale).double()
    expected = value_and_gradients(lambda z, s, **o: oracle(z, z, s, **o), (z, scale), torch.float64, options)
    ours = lambda z, s, **o: ops.soft_target(z, z, s, tile=tile, backend=backend, **o)  # noqa: E731
    assert_close(value_and_gradients(ours, (z, scale), torch.float64, options), expected, 1e-10)
    assert_close(value_and_gradients(ours, (z, scale), torch.float32, options), expected, 3e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
@pytest.mark.parametrize("grouped", [False, True])
def test_keeps_its_digits_near_zero(alpha, grouped):
    """Where student and teacher both know the answer: the plain form in float32 has hardly a digit left."""
    k = unit(300, 64)
    q, teacher = (normalize(k[:200] + 0.045 * unit(200, 64, seed=s) * 8, dim=1) for s in (1, 2))
    scale = torch.tensor(35.0, dtype=torch.float64)
    options = {"teacher_q": teacher, "alpha": alpha}
    if grouped:
        options |= {"q_group": torch.arange(200) + 7, "k_group": torch.arange(300) + 7}
    expected = value_and_gradients(oracle, (q, k, scale), torch.float64, options)
    assert 1e-9 < expected[0] < 3e-5
    actual = value_and_gradients(ops.soft_target, (q, k, scale), torch.float32, options)
    assert_close(actual, expected, 1e-5, floor=0)
    plain = value_and_gradients(oracle, (q, k, scale), torch.float32, options)
    assert (plain[1] - expected[1]).norm() > 1e-4 * expected[1].norm()


def test_first_and_second_derivatives():
    tensors = [unit(5, 4), unit(7, 4, seed=1), torch.tensor(3.0).double()]
    for tensor in tensors:
        tensor.requires_grad_()
    # The teacher lies apart: as targets are constants, it must not move when k and the scale do.
    fixed = {"q_group": torch.arange(5) % 3, "k_group": torch.arange(7) % 3}
    function = lambda q, k, s: ops.soft_target(q, k, s, tile=2, **fixed)  # noqa: E731
    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


def test_second_derivatives_with_a_teacher():
    q, k, teacher = unit(5, 4), unit(7, 4, seed=1), unit(5, 4, seed=2)
    hessians = [
        torch.autograd.functional.hessian(lambda q, k, f=f: f(q, k, 4.0, teacher_q=teacher, alpha=0.4), (q, k))
        for f in (ops.soft_target, oracle)
    ]
    for mine, theirs in zip(*hessians, strict=True):
        for m, t in zip(mine, theirs, strict=True):
            torch.testing.assert_close(m, t)


def test_three_products_where_keys_want_no_gradient():
    q, k, teacher = unit(40, 8).requires_grad_(), unit(90, 8, seed=1), unit(40, 8, seed=2)
    with torch.profiler.profile() as profile:
        ops.soft_target(q, k, 9.0, teacher_q=teacher, alpha=0.4).backward()
    calls = {event.key: event.count for event in profile.key_averages()}
    products = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::matmul")
    assert {name: calls[name] for name in products if name in calls} == {"aten::mm": 3}


def test_compiles_without_a_graph_break():
    q, k, teacher = (x.float() for x in (unit(24, 8), unit(30, 8, seed=1), unit(24, 8, seed=2)))
    q.requires_grad_()
    ids = torch.arange(30) // 2

    def function(q, k):
        soft = ops.soft_target(q, k, 9.0, teacher_q=teacher, alpha=0.4, q_group=ids[:24], k_group=ids)
        return soft + ops.soft_target(q, q, 9.0, q_group=ids[:24], k_group=ids[:24], one_set=True)

    (expected,) = torch.autograd.grad(function(q, k), q)
    (actual,) = torch.autograd.grad(torch.compile(function, backend="aot_eager", fullgraph=True)(q, k), q)
    torch.testing.assert_close(actual, expected)


def test_a_row_that_is_alone_weighs_nothing():
    z = unit(3, 4).requires_grad_()
    loss = ops.soft_target(z, z, 9.0, q_group=torch.arange(3), k_group=torch.arange(3), one_set=True)
    assert loss == 0
    assert not torch.autograd.grad(loss, z)[0].any()


def test_nan_shows():
    q = unit(4, 3).clone()
    q[1, 1] = float("nan")
    assert ops.soft_target(q, unit(6, 3), 9.0).isnan()
    assert ops.soft_target(unit(4, 3), unit(6, 3), 9.0, teacher_q=q, alpha=0.4).isnan()


def test_strips_stay_within_their_memory():
    for m in (100, 5_000, 66_048, 250_000):
        for strips in (1, 2):
            assert 32 <= strip_rows(m, strips) <= 1024
            assert strip_rows(m, strips) * m * strips * 4 <= 64 << 20


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda z: ops.soft_target(z, z[:3], 1.0), "at least the 4 rows"),
        (lambda z: ops.soft_target(z, z, 1.0, q_group=torch.arange(4)), "or neither"),
        (lambda z: ops.soft_target(z, z, 1.0, teacher_q=z[:3]), "teacher_q must be as q"),
        (lambda z: ops.soft_target(z, z, 1.0, q_group=torch.arange(4), k_group=torch.arange(4) + 1), "no key of its"),
        (lambda z: ops.soft_target(z, z, 1.0, backend="ring"), "in one process"),
        (lambda z: ops.soft_target(z, z, 1.0, one_set=True), "q_group"),
    ],
)
def test_bad_input_says_what_is_wrong(call, says):
    with pytest.raises(UserError, match=says):
        call(unit(4, 3))
