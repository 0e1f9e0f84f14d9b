"""`log_partition` against sums written out in float64, at every edge: groups, tiles, scales, empty rows, types."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from nearfar import ops
from nearfar.errors import UserError


def vectors(n, m, dim=16, *, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(size, dim, generator=generator, dtype=torch.float64) for size in (n, m))
    return normalize(q, dim=1) * spread, normalize(k, dim=1) * spread


def oracle(q, k, scale, admitted):
    """One logarithm of one sum for each row and each column; no trick, float64."""
    z = torch.as_tensor(scale, dtype=torch.float64).reshape(-1, 1) * (q @ k.T)

    def lse(values):
        if not len(values):
            return torch.tensor(-math.inf, dtype=torch.float64)
        return (values - values.max()).exp().sum().log() + values.max()

    rows = torch.stack([lse(z[i][admitted[i]]) for i in range(len(q))])
    cols = torch.stack([lse(z[:, j][admitted[:, j]]) for j in range(len(k))])
    return rows, cols


def admitted_by(admit, q_group, k_group):
    same = q_group[:, None] == k_group
    return {"all": torch.ones_like(same), "same": same, "different": ~same, "others": ~same & (k_group >= 0)}[admit]


def gradients(function, q, k, scale, weights, dtype):
    q, k = (t.detach().to(dtype).requires_grad_() for t in (q, k))
    scale = torch.as_tensor(scale, dtype=dtype).requires_grad_()
    outs = function(q, k, scale)
    loss = sum((out * w.to(dtype))[out.isfinite()].sum() for out, w in zip(outs, weights, strict=True))
    loss.backward()
    return [*[out.detach() for out in outs], q.grad, k.grad, scale.grad]


def relative(actual, expected):
    """The largest error, against the largest entry; infinities must agree."""
    infinite = expected.isinf()
    assert torch.equal(actual.double()[infinite], expected[infinite])
    error = (actual.double() - expected)[~infinite].abs().max() if (~infinite).any() else torch.tensor(0.0)
    return float(error / expected[~infinite].abs().max().clamp(min=1e-300)) if error else 0.0


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 24),
    m=st.integers(1, 24),
    scale=st.sampled_from([1.0, 30.0, 60.0, 100.0, 3000.0]),
    spread=st.sampled_from([1.0, 0.1, 3.0]),
    tile=st.sampled_from([None, 1, 7, (16, 5)]),
    admit=st.sampled_from(["all", "same", "different", "others"]),
    budget=st.sampled_from([None, 0, 900]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    seed=st.integers(0, 5),
)
def test_values_and_gradients_match_float64(n, m, scale, spread, tile, admit, budget, dtype, seed):
    q, k = vectors(n, m, seed=seed, spread=spread)
    generator = torch.Generator().manual_seed(seed)
    q_group, k_group = (torch.randint(-1, 3, (size,), generator=generator) for size in (n, m))
    weights = torch.rand(n, generator=generator), torch.rand(m, generator=generator)
    groups = {} if admit == "all" else {"q_group": q_group, "k_group": k_group}

    def ours(q, k, scale):
        return ops.log_partition(q, k, scale, admit=admit, both=True, tile=tile, budget=budget, **groups)

    admitted = admitted_by(admit, q_group, k_group)
    if not admitted.any():
        assert torch.isneginf(ours(q, k, scale)[0]).all()
        return
    expected = gradients(lambda q, k, s: oracle(q, k, s, admitted), q, k, scale, weights, torch.float64)
    actual = gradients(ours, q, k, scale, weights, dtype)
    # A logit of size z carries an error of z * 2^-24 in float32: the probabilities cannot be better than that.
    size = scale * spread**2
    tolerance = 1e-10 if dtype == torch.float64 else 1e-6 + size * 3e-7
    for f, e in zip(actual, expected, strict=True):
        finite = e.isfinite()
        assert torch.equal(f.double()[~finite], e[~finite])
        assert not finite.any() or (f - e)[finite].abs().max() < tolerance * max(1.0, float(e[finite].abs().max()))


@pytest.mark.parametrize("scale", [1.0, 20.0, 100.0])
def test_large_batch_is_within_1e5_of_float64(scale):
    q, k = vectors(1500, 1100, 64)
    weights = torch.rand(1500), torch.rand(1100)
    expected = gradients(
        lambda q, k, s: ops.log_partition(q, k, s, both=True, backend="dense"), q, k, scale, weights, torch.float64
    )
    for budget in (0, 5 << 20, 1 << 30):
        actual = gradients(
            lambda q, k, s, b=budget: ops.log_partition(q, k, s, both=True, budget=b),
            q,
            k,
            scale,
            weights,
            torch.float32,
        )
        assert max(relative(f, e) for f, e in zip(actual, expected, strict=True)) < 1e-5


def test_scale_per_row_reaches_each_row():
    q, k = vectors(9, 13)
    scale = torch.linspace(1, 200, 9, dtype=torch.float64, requires_grad=True)
    out = ops.log_partition(q, k, scale, tile=4)
    assert torch.allclose(out, (scale[:, None] * (q @ k.T)).logsumexp(1))
    out.sum().backward()
    mean_logit = ((scale[:, None] * (q @ k.T)).softmax(1) * (q @ k.T)).sum(1)
    assert torch.allclose(scale.grad, mean_logit)


@pytest.mark.parametrize("backend", ["tiled", "dense"])
def test_row_that_admits_no_key_is_minus_infinity_with_zero_gradient(backend):
    q, k = (t.requires_grad_() for t in vectors(5, 4))
    rows, cols = ops.log_partition(
        q,
        k,
        100.0,
        q_group=torch.tensor([0, 0, 1, 7, 0]),
        k_group=torch.tensor([0, 1, 1, 9]),
        admit="same",
        both=True,
        backend=backend,
        tile=2,
    )
    assert torch.isneginf(rows).tolist() == [False, False, False, True, False]
    assert torch.isneginf(cols).tolist() == [False, False, False, True]
    torch.logaddexp(rows, torch.zeros(())).mean().backward(inputs=[q, k])
    assert (q.grad[3] == 0).all()
    assert (k.grad[3] == 0).all()
    assert q.grad.isfinite().all()
    assert k.grad.isfinite().all()


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_empty_sides(n, m):
    q, k = torch.zeros(n, 4, requires_grad=True), torch.zeros(m, 4, requires_grad=True)
    rows, cols = ops.log_partition(q, k, 2.0, both=True)
    assert rows.tolist() == [-math.inf] * n
    assert cols.tolist() == [-math.inf] * m
    (rows.exp().sum() + cols.exp().sum()).backward()
    assert not q.grad.any()
    assert not k.grad.any()


def test_extreme_vectors_neither_overflow_nor_vanish():
    # Rows whose maxima lie 20,000 apart share a tile, and one column is far below every row's maximum.
    q = torch.tensor([[100.0, 0.0], [-100.0, 0.0], [0.0, 1.0]], requires_grad=True)
    k = torch.tensor([[100.0, 0.0], [99.0, 0.0], [0.0, -300.0]], requires_grad=True)
    rows, cols = ops.log_partition(q, k, 1.0, both=True)
    z = q.detach().double() @ k.detach().double().T
    assert torch.allclose(rows.double(), z.logsumexp(1))
    assert torch.allclose(cols.double(), z.logsumexp(0))
    (rows.sum() + cols.sum()).backward()
    p = z.softmax(1) + z.softmax(0)
    assert torch.allclose(q.grad.double(), p @ k.detach().double())
    assert torch.allclose(k.grad.double(), p.T @ q.detach().double())


def test_nan_shows():
    q = torch.randn(4, 3)
    q[1, 1] = math.nan
    out = ops.log_partition(q, torch.randn(5, 3), 100.0)
    assert out.isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("budget", [0, None])
@pytest.mark.parametrize("scale", [2.0, 900.0])
def test_gradcheck(both, budget, scale):
    q, k = (t.requires_grad_() for t in vectors(5, 7, 4))
    scale = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    groups = {"q_group": torch.arange(5) % 3, "k_group": torch.arange(7) % 4}

    def function(q, k, scale):
        return ops.log_partition(q, k, scale, both=both, tile=3, budget=budget, admit="different", **groups)

    assert torch.autograd.gradcheck(function, (q, k, scale), eps=1e-7, atol=1e-4)


def test_second_derivatives():
    q, k = (t.requires_grad_() for t in vectors(4, 5, 3))
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    function = lambda q, k, s: ops.log_partition(q, k, s, both=True, tile=2)  # noqa: E731
    assert torch.autograd.gradgradcheck(function, (q, k, scale))


def test_one_tensor_on_both_sides():
    q = vectors(6, 1)[0].requires_grad_()
    ids = torch.arange(6)
    ops.log_partition(q, q, 5.0, q_group=ids, k_group=ids, admit="different", tile=4).sum().backward()
    twin = q.detach().clone().requires_grad_()
    z = (5.0 * twin @ twin.T).masked_fill(torch.eye(6, dtype=torch.bool), -math.inf)
    z.logsumexp(1).sum().backward()
    assert torch.allclose(q.grad, twin.grad)


def test_keys_without_gradient_get_none():
    q, k = vectors(6, 5)
    q.requires_grad_()
    ops.log_partition(q, k, 5.0, both=True)[0].sum().backward()
    assert q.grad is not None
    assert k.grad is None


def test_backward_twice_through_kept_tiles():
    q, k = (t.requires_grad_() for t in vectors(6, 5))
    out = ops.log_partition(q, k, 5.0, budget=1 << 20).sum()
    out.backward(retain_graph=True)
    first = q.grad.clone()
    out.backward()
    assert torch.allclose(q.grad, 2 * first)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    q, k = (t.to(dtype).requires_grad_() for t in vectors(6, 5))
    out = ops.log_partition(q, k, torch.tensor(20.0))
    assert out.dtype == torch.float32
    assert torch.equal(out, ops.log_partition(q.float(), k.float(), 20.0))
    out.sum().backward()
    assert q.grad.dtype == dtype


def test_works_under_compile():
    # The eager backend traces everything and needs no C++ compiler; fullgraph fails at any graph break.
    q, k = (t.float().requires_grad_() for t in vectors(40, 30))
    scale = torch.tensor(10.0, requires_grad=True)

    def function(q, k, scale):
        rows, cols = ops.log_partition(normalize(q, dim=1), k, scale.exp().log(), both=True, tile=16)
        ids = torch.arange(40)
        among = ops.log_partition(q, q, scale, q_group=ids, k_group=ids, admit="different")
        return rows.mean() + cols.mean() + among.mean()

    expected = torch.autograd.grad(function(q, k, scale), (q, k, scale))
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for f, e in zip(torch.autograd.grad(compiled(q, k, scale), (q, k, scale)), expected, strict=True):
        assert torch.allclose(f, e, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a C++ compiler runs, on whatever the machine has left
def test_works_under_inductor():
    q, k = (t.float().requires_grad_() for t in vectors(40, 30))
    function = lambda q, k: ops.log_partition(normalize(q, dim=1), k, 10.0, tile=16).mean()  # noqa: E731
    expected = torch.autograd.grad(function(q, k), (q, k))
    actual = torch.autograd.grad(torch.compile(function, fullgraph=True)(q, k), (q, k))
    assert all(torch.allclose(f, e, atol=1e-7) for f, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"q": torch.zeros(3)}, "q must be"),
        ({"q": torch.zeros(3, 4, dtype=torch.long)}, "q must be"),
        ({"k": torch.zeros(3, 5)}, "same width"),
        ({"scale": torch.zeros(2)}, "scale must be"),
        ({"admit": "some"}, "admit must be"),
        ({"admit": "same"}, "pass both"),
        ({"q_group": torch.zeros(3, dtype=torch.long)}, "no effect"),
        ({"backend": "fast"}, "backend must be"),
        ({"tile": 0}, "tile must be"),
        ({"admit": "same", "q_group": torch.zeros(3).long(), "k_group": torch.zeros(2).long()}, "k_group must hold"),
    ],
)
def test_bad_input_says_what_is_wrong(change, says):
    arguments = {"q": torch.zeros(3, 4), "k": torch.zeros(4, 4), "scale": 1.0} | change
    with pytest.raises(UserError, match=says):
        ops.log_partition(**arguments)


@pytest.mark.parametrize("budget", [0, None])
def test_a_row_far_below_in_a_tile_that_admits_none_of_it(budget):
    """Row 0's keys lie at logit -300 in the first tile, and it has none in the second: it weighs 0 there."""
    q = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    k = torch.tensor([[-1.0, 0.1], [-1.0, 0.2], [0.3, 0.0], [0.4, 0.1]], requires_grad=True)
    groups = {"q_group": torch.tensor([7, 8]), "k_group": torch.tensor([1, 2, 7, 7]), "admit": "different"}
    actual = ops.log_partition(q, k, 300.0, tile=(2, 2), budget=budget, **groups)
    exact = ops.log_partition(q.double(), k.double(), 300.0, backend="dense", **groups)
    torch.testing.assert_close(actual.double(), exact, rtol=1e-5, atol=1e-4)
    for mine, theirs in zip(
        torch.autograd.grad(actual.sum(), (q, k)), torch.autograd.grad(exact.sum(), (q, k)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("budget", [0, None])
def test_a_row_that_admits_no_key_beside_rows_that_lie_far_apart(budget):
    q = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8]], requires_grad=True)
    k = torch.tensor([[1.0, 0.0], [0.8, 0.6]], requires_grad=True)
    groups = {"q_group": torch.tensor([0, 1, 7]), "k_group": torch.tensor([7, 7]), "admit": "different"}
    rows = ops.log_partition(q, k, 300.0, budget=budget, **groups)
    assert rows[2] == -math.inf
    rows[:2].sum().backward()
    assert q.grad[2].tolist() == [0, 0]
    assert k.grad.isfinite().all()


def test_autocast_reaches_no_second_derivative():
    def second(q, k):
        q = normalize(q, dim=1).requires_grad_()
        (g,) = torch.autograd.grad(ops.log_partition(q, k, 5.0).sum(), q, create_graph=True)
        return torch.autograd.grad(g.square().sum(), q)[0]

    a, b = vectors(24, 24)
    with torch.autocast("cpu", torch.bfloat16):
        actual = second(a, b)
    torch.testing.assert_close(actual, second(a, b), rtol=1e-6, atol=1e-6)
