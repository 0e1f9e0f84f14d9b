"""The fused losses against their formulas in float64, and where float32 usually fails: a loss close to zero."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize, softplus

from nearfar import ops
from nearfar.errors import UserError
from nearfar.ops.softplus import SAFE, log1p_sums
from nearfar.ops.tiling.tiles import Pairs


def unit(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def info_nce_oracle(q, k, scale, symmetric, ids):
    z = scale * q @ k.T
    n, m = z.shape
    own = torch.eye(n, m, dtype=torch.bool)
    if ids is not None:
        z = z.masked_fill((ids[:n, None] == ids) & ~own, -math.inf)
    loss = cross_entropy(z, torch.arange(n))
    return (loss + cross_entropy(z[:, :n].T, torch.arange(n))) / 2 if symmetric else loss


def nt_xent_oracle(z, scale, partner):
    logits = (scale * z @ z.T).masked_fill(torch.eye(len(z), dtype=torch.bool), -math.inf)
    return cross_entropy(logits, partner)


def sigmoid_oracle(q, k, scale, bias, near):
    z = scale * q @ k.T + bias
    return softplus(torch.where(near, -z, z), threshold=50).sum() / len(q)


def value_and_gradients(function, tensors, dtype):
    leaves = [t.detach().to(dtype).clone().requires_grad_() for t in tensors]
    loss = function(*leaves)
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def assert_close(actual, expected, tolerance, mass=1.0):
    for f, e in zip(actual, expected, strict=True):
        assert f.shape == e.shape
        allowed = tolerance * max(float(e.norm()), 1e-3)
        if f.ndim == 0:
            # A gradient to a scale sums cosines of either sign: where they cancel, a quarter of a unit in the last
            # place of what is summed is all that the arithmetic can promise.
            allowed = max(allowed, mass * torch.finfo(f.dtype).eps / 4)
        assert (f - e).norm() <= allowed


def compare(ours, oracle, tensors, *, float32=3e-6, mass=1.0):
    """Both types against the formula; returns nothing, fails loudly. `mass`: the sum of the sizes of what a gradient to
    a scalar adds up, where it is more than 1, as the weights of a softmax are."""
    tensors = [torch.as_tensor(t, dtype=torch.float64) for t in tensors]
    expected = value_and_gradients(oracle, tensors, torch.float64)
    assert_close(value_and_gradients(ours, tensors, torch.float64), expected, 1e-10, mass)
    assert_close(value_and_gradients(ours, tensors, torch.float32), expected, float32, mass)


SIZES = {"n": st.integers(1, 20), "tile": st.sampled_from([None, 1, 6]), "seed": st.integers(0, 3)}


@settings(max_examples=25, deadline=None)
@given(
    **SIZES,
    extra=st.integers(0, 9),
    scale=st.sampled_from([1.0, 20.0, 100.0]),
    symmetric=st.booleans(),
    duplicates=st.booleans(),
    budget=st.sampled_from([None, 0, 500]),
    backend=st.sampled_from(["tiled", "tiled", "dense"]),
)
def test_info_nce(n, extra, scale, tile, symmetric, duplicates, budget, backend, seed):
    m = n + extra
    q, k = unit(n, 12, seed=seed), unit(m, 12, seed=seed + 9)
    ids = torch.randint(5, (m,), generator=torch.Generator().manual_seed(seed)) if duplicates else None
    options = {"symmetric": symmetric, "group": ids, "tile": tile, "budget": budget, "backend": backend}
    compare(
        lambda q, k, s: ops.info_nce(q, k, s, **options),
        lambda q, k, s: info_nce_oracle(q, k, s, symmetric, ids),
        (q, k, scale),
        float32=3e-6 + scale * 2e-7,
    )


@settings(max_examples=20, deadline=None)
@given(
    **SIZES, scale=st.sampled_from([1.0, 10.0, 100.0]), budget=st.sampled_from([None, 0, 500]), shuffle=st.booleans()
)
def test_nt_xent(n, scale, tile, budget, shuffle, seed):
    z = unit(2 * n, 12, seed=seed)
    order = torch.randperm(2 * n, generator=torch.Generator().manual_seed(seed)) if shuffle else torch.arange(2 * n)
    ids = (torch.arange(2 * n) % n)[order]
    partner = torch.stack([((ids == ids[i]) & (torch.arange(2 * n) != i)).nonzero()[0, 0] for i in range(2 * n)])
    compare(
        lambda z, s: ops.nt_xent(z, s, group=ids if shuffle else None, tile=tile, budget=budget),
        lambda z, s: nt_xent_oracle(z, s, partner),
        (z, scale),
        float32=3e-6 + scale * 2e-7,
    )


@settings(max_examples=25, deadline=None)
@given(
    **SIZES,
    extra=st.integers(0, 9),
    scale_bias=st.sampled_from([(10.0, -10.0), (1.0, 0.0), (100.0, -3.0), (1000.0, 20.0)]),
    grouped=st.booleans(),
    backend=st.sampled_from(["tiled", "tiled", "dense"]),
)
def test_sigmoid(n, extra, scale_bias, tile, grouped, backend, seed):
    q, k = unit(n, 12, seed=seed), unit(n + extra, 12, seed=seed + 9)
    groups, near = {}, torch.eye(n, n + extra, dtype=torch.bool)
    if grouped:
        generator = torch.Generator().manual_seed(seed)
        q_group, k_group = (
            torch.randint(4, (n,), generator=generator),
            torch.randint(4, (n + extra,), generator=generator),
        )
        groups, near = {"q_group": q_group, "k_group": k_group}, q_group[:, None] == k_group
    z = scale_bias[0] * q @ k.T + scale_bias[1]
    compare(
        lambda q, k, s, b: ops.sigmoid(q, k, s, b, tile=tile, backend=backend, **groups),
        lambda q, k, s, b: sigmoid_oracle(q, k, s, b, near),
        (q, k, *scale_bias),
        float32=3e-6 + scale_bias[0] * 2e-7,
        mass=max(1.0, float(torch.where(near, -z, z).sigmoid().sum()) / n),
    )


@pytest.mark.parametrize("backend", ["tiled", "dense"])
@pytest.mark.parametrize("admit", ["all", "same", "different"])
@pytest.mark.parametrize("budget", [0, None, 1000])
def test_pairwise_softplus(admit, budget, backend):
    q, k = unit(17, 8), unit(23, 8, seed=1)
    q_group, k_group = torch.arange(17) % 4, torch.arange(23) % 5
    same = q_group[:, None] == k_group
    admitted = {"all": torch.ones_like(same), "same": same, "different": ~same}[admit]
    groups = {} if admit == "all" else {"q_group": q_group, "k_group": k_group, "admit": admit}
    weights = torch.linspace(0.1, 2, 17, dtype=torch.float64)
    compare(
        lambda q, k, s, b: (
            ops.pairwise_softplus(q, k, s, b, tile=6, budget=budget, backend=backend, **groups) * weights.to(q.dtype)
        ).sum(),
        lambda q, k, s, b: ((softplus(s * q @ k.T + b[:, None]) * admitted).sum(1) * weights).sum(),
        (q, k, 7.0, torch.linspace(-5, 1, 17)),
    )


@settings(deadline=None)
@given(st.lists(st.floats(-140, SAFE), min_size=1, max_size=9))
def test_joined_logarithms_keep_their_digits(exponents):
    """log(1 + x) of columns joined two by two, from the smallest x that float32 has to the largest that is let in."""
    x = torch.tensor([exponents], dtype=torch.float64).exp2().float()
    expected = x.double().log1p().sum(1)
    torch.testing.assert_close(log1p_sums(x, x + 1).double(), expected, rtol=1e-6, atol=1e-44)


def test_sigmoid_is_two_softplus_sums():
    q, k = unit(9, 8), unit(11, 8, seed=1)
    groups = {"q_group": torch.arange(9) % 3, "k_group": torch.arange(11) % 3}
    far = ops.pairwise_softplus(q, k, 8.0, -3.0, admit="different", **groups)
    near = ops.pairwise_softplus(q, k, -8.0, 3.0, admit="same", **groups)
    assert torch.allclose(ops.sigmoid(q, k, 8.0, -3.0, **groups), (far + near).mean())
    assert torch.allclose(ops.sigmoid(q, k, 8.0, -3.0, reduction="none", **groups), far + near)


def almost_solved(n=512, dim=128, scale=100.0, loss=1e-6):
    """Pairs so near that the mean loss is about `loss`, the rest at random."""
    generator = torch.Generator().manual_seed(7)
    base = unit(n, dim)
    noise = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    low, high = 0.0, 1.0
    for _ in range(40):  # the noise that gives the loss asked for
        middle = (low + high) / 2
        k = normalize(base + middle * noise / dim**0.5 * 3, dim=1)
        low, high = (low, middle) if info_nce_oracle(base, k, scale, True, None) > loss else (middle, high)
    return base, k


def relative_gradient_error(function, tensors):
    expected = value_and_gradients(lambda *t: info_nce_oracle(*t, True, None), tensors, torch.float64)
    actual = value_and_gradients(function, tensors, torch.float32)
    return [float((f - e).norm() / e.norm()) for f, e in zip(actual, expected, strict=True)]


@pytest.mark.parametrize("loss", [1e-3, 1e-6])
def test_keeps_its_digits_near_zero_where_dense_float32_does_not(loss):
    q, k = almost_solved(loss=loss)
    tensors = (q, k, torch.tensor(100.0, dtype=torch.float64))
    assert loss / 2 < info_nce_oracle(q, k, 100.0, True, None) < loss * 2
    ours = relative_gradient_error(lambda q, k, s: ops.info_nce(q, k, s), tensors)
    assert max(ours) <= 1e-5
    dense = relative_gradient_error(lambda q, k, s: info_nce_oracle(q, k, s, True, None), tensors)
    assert max(dense) > 1e-4
    assert min(dense) > 1e-4 or loss > 1e-6


def test_one_direction_keeps_its_digits_near_zero():
    q, k = almost_solved()
    tensors = (q, k, torch.tensor(100.0, dtype=torch.float64))
    expected = value_and_gradients(lambda *t: info_nce_oracle(*t, False, None), tensors, torch.float64)
    actual = value_and_gradients(lambda *t: ops.info_nce(*t, symmetric=False), tensors, torch.float32)
    assert all((f - e).norm() <= 1e-5 * e.norm() for f, e in zip(actual, expected, strict=True))


def test_nt_xent_keeps_its_digits_near_zero():
    z = torch.cat(almost_solved())
    tensors = (z, torch.tensor(100.0, dtype=torch.float64))
    partner = torch.arange(1024).roll(512)
    expected = value_and_gradients(lambda *t: nt_xent_oracle(*t, partner), tensors, torch.float64)
    actual = value_and_gradients(ops.nt_xent, tensors, torch.float32)
    assert 1e-8 < expected[0] < 1e-4
    assert all((f - e).norm() <= 1e-5 * e.norm() for f, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("tile", [None, (4, 30), 4])
@pytest.mark.parametrize("scale", [2.0, 80.0])
@pytest.mark.parametrize("negatives", [1, 30])
def test_positives_apart_from_the_keys(negatives, scale, tile):
    q, positive, k = unit(9, 6), unit(9, 6, seed=1), unit(negatives, 6, seed=2)

    def oracle(q, k, s):
        z = torch.cat([(q * positive).sum(1, keepdim=True), q @ k.t()], 1) * s
        return torch.nn.functional.cross_entropy(z, torch.zeros(9, dtype=torch.long))

    def ours(q, k, s):
        options = {"symmetric": False, "positive": positive.to(q.dtype), "tile": tile}
        assert torch.allclose(
            ops.info_nce(q, k, s, reduction="none", **options).mean(), ops.info_nce(q, k, s, **options)
        )
        return ops.info_nce(q, k, s, **options)

    tensors = (q, k, torch.tensor(scale, dtype=torch.float64))
    expected = value_and_gradients(oracle, tensors, torch.float64)
    assert_close(value_and_gradients(ours, tensors, torch.float64), expected, 1e-10)
    assert_close(value_and_gradients(ours, tensors, torch.float32), expected, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
@pytest.mark.parametrize("form", ["symmetric", "one direction", "nt_xent", "sigmoid"])
def test_within_1e5_of_float64_at_4096(form, scale):
    # So near that there is something to learn at each scale: at 1e-17 the oracle itself would have no digits left.
    noise = 3.0 if scale > 50 else 0.8
    q, k = unit(4096, 128), normalize(unit(4096, 128) + noise * unit(4096, 128, seed=1), dim=1)
    partner = torch.arange(4096).roll(2048)
    ours, oracle, tensors = {
        "symmetric": (ops.info_nce, lambda *t: info_nce_oracle(*t, True, None), (q, k, scale)),
        "one direction": (
            lambda *t: ops.info_nce(*t, symmetric=False),
            lambda *t: info_nce_oracle(*t, False, None),
            (q, k, scale),
        ),
        "nt_xent": (ops.nt_xent, lambda *t: nt_xent_oracle(*t, partner), (torch.cat([q[:2048], k[:2048]]), scale)),
        "sigmoid": (
            ops.sigmoid,
            lambda *t: sigmoid_oracle(*t, torch.eye(4096, dtype=torch.bool)),
            (q, k, scale, -10.0),
        ),
    }[form]
    tensors = [torch.as_tensor(t, dtype=torch.float64) for t in tensors]
    expected = value_and_gradients(oracle, tensors, torch.float64)
    actual = value_and_gradients(ours, tensors, torch.float32)
    assert all((f - e).norm() <= 1e-5 * e.norm() for f, e in zip(actual, expected, strict=True))


FORMS = {
    "symmetric": lambda q, k, s, b: ops.info_nce(q, k, s, tile=3) + 0 * b,
    "one direction": lambda q, k, s, b: ops.info_nce(q, k, s, symmetric=False) + 0 * b,
    "positive apart": lambda q, k, s, b: (
        ops.info_nce(q, k.flip(0), s, symmetric=False, positive=k)
        + ops.info_nce(q, k[:3], s, symmetric=False, positive=torch.linspace(-1, 1, q.numel()).to(q).view_as(q))
        + 0 * b
    ),
    "none": lambda q, k, s, b: ops.info_nce(q, k, s, reduction="none", tile=3) + 0 * b,
    "nt_xent": lambda q, k, s, b: ops.nt_xent(torch.cat([q, k]), s, tile=3) + 0 * b,
    "sigmoid": lambda q, k, s, b: ops.sigmoid(q, k, s, b, tile=3),
    "softplus": lambda q, k, s, b: ops.pairwise_softplus(q, k, s, b, tile=3),
}


@pytest.mark.parametrize("form", FORMS)
def test_first_and_second_derivatives(form):
    tensors = [unit(5, 4), unit(5, 4, seed=1), torch.tensor(3.0).double(), torch.tensor(-1.0).double()]
    for tensor in tensors:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(FORMS[form], tensors)
    assert torch.autograd.gradgradcheck(FORMS[form], tensors)


@pytest.mark.parametrize("form", FORMS)
def test_backward_may_run_twice(form):
    q, k = unit(6, 4).requires_grad_(), unit(6, 4, seed=1)
    out = FORMS[form](q, k, 3.0, -1.0).sum()
    (first,) = torch.autograd.grad(out, q, retain_graph=True)
    (again,) = torch.autograd.grad(3 * out, q, retain_graph=True)
    assert torch.allclose(3 * first, again)
    for _ in range(3):  # accumulated in place, without touching what the graph has saved
        out.backward(retain_graph=True)
    assert torch.allclose(q.grad, 3 * first)


def test_whole_family_compiles_without_a_graph_break():
    def function(q, k, s, b):
        return (
            ops.info_nce(q, k, s, tile=16)
            + ops.info_nce(q, k, s) * ops.info_nce(q, k, s, symmetric=False)
            + ops.info_nce(q, k[:7], s, symmetric=False, positive=k.detach().flip(0))
            + ops.nt_xent(torch.cat([q, k]), s)
            + ops.sigmoid(q, k, s, b)
            + ops.pairwise_softplus(q, k, s, b).mean()
        )

    tensors = [unit(24, 8).float(), unit(24, 8, seed=1).float(), torch.tensor(10.0), torch.tensor(-10.0)]
    for tensor in tensors:
        tensor.requires_grad_()
    expected = torch.autograd.grad(function(*tensors), tensors)
    actual = torch.autograd.grad(torch.compile(function, backend="aot_eager", fullgraph=True)(*tensors), tensors)
    assert all(torch.allclose(f, e, rtol=1e-5, atol=1e-6) for f, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_autocast_leaves_the_products_in_float32(form):
    q, k = unit(40, 16).float().requires_grad_(), unit(40, 16, seed=1).float()
    expected = torch.autograd.grad(FORMS[form](q, k, 30.0, -10.0).sum(), q)[0]
    with torch.autocast("cpu", torch.bfloat16):
        actual = torch.autograd.grad(FORMS[form](q, k, 30.0, -10.0).sum(), q)[0]
    assert torch.allclose(actual, expected, rtol=1e-5, atol=1e-7)


def test_keys_of_a_queue_want_no_gradient():
    q, k = unit(6, 4).requires_grad_(), unit(30, 4, seed=1)
    loss = ops.info_nce(q, k, 9.0, symmetric=False)
    (actual,) = torch.autograd.grad(loss, q)
    (expected,) = torch.autograd.grad(info_nce_oracle(q, k, 9.0, False, None), q)
    assert torch.allclose(actual, expected)


@pytest.mark.parametrize(("tile", "most"), [(8, 64), ((8, 100), 800), ((16, 20), 320)])
def test_one_direction_takes_the_tile_that_was_asked_for(tile, most, monkeypatch):
    sizes, scratch = [], Pairs.scratch
    monkeypatch.setattr(Pairs, "scratch", lambda self: sizes.append(scratch(self).numel()) or scratch(self))
    q, k = unit(60, 8).requires_grad_(), unit(100, 8, seed=1).requires_grad_()
    loss = ops.info_nce(q, k, 9.0, symmetric=False, tile=tile, budget=0)
    actual = torch.autograd.grad(loss, (q, k))
    assert max(sizes) == most
    assert_close(actual, torch.autograd.grad(info_nce_oracle(q, k, 9.0, False, None), (q, k)), 1e-10)


def test_a_single_pair_has_loss_zero():
    q = unit(1, 4).float().requires_grad_()
    for symmetric in (True, False):
        loss = ops.info_nce(q, q.detach(), 10.0, symmetric=symmetric)
        assert loss == 0
        assert torch.autograd.grad(loss, q)[0].abs().max() == 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda z: ops.info_nce(z, z[:3], 1.0), "at least the 4 rows"),
        (lambda z: ops.info_nce(z, z, 1.0, group=torch.arange(3)), "group must hold"),
        (lambda z: ops.info_nce(z, z, 1.0, reduction="sum"), "reduction"),
        (lambda z: ops.info_nce(z, z, 1.0, positive=z), "symmetric=False"),
        (lambda z: ops.info_nce(z, z, 1.0, positive=z[:2], symmetric=False), "one row a query"),
        (lambda z: ops.nt_xent(z[:3], 1.0), "even number"),
        (lambda z: ops.nt_xent(z, 1.0, group=torch.tensor([0, 0, 0, 1])), "exactly two rows"),
        (lambda z: ops.nt_xent(z, 1.0, group=torch.tensor([0, 0, 0, 0])), "exactly two rows"),
        (lambda z: ops.nt_xent(z, torch.ones(4)), "one scale"),
        (lambda z: ops.sigmoid(z, z[:3], 1.0, 0.0), "at least the 4 rows"),
        (lambda z: ops.sigmoid(z, z, 1.0, 0.0, q_group=torch.arange(4)), "or neither"),
        (lambda z: ops.sigmoid(z, z, 1.0, torch.ones(3)), "bias must be"),
        (lambda z: ops.pairwise_softplus(z, z, 1.0, backend="ring"), "only this rank"),
    ],
)
def test_bad_input_says_what_is_wrong(call, says):
    with pytest.raises(UserError, match=says):
        call(unit(4, 3))


@pytest.mark.parametrize("logit", [40.0, 55.0, 85.0, 300.0])
def test_large_logits_do_not_overflow_where_two_are_multiplied(logit):
    q = torch.tensor([[1.0, 0.0]])
    k = torch.tensor([[1.0, 0.0]] * 4)
    torch.testing.assert_close(ops.pairwise_softplus(q, k, logit), torch.tensor([4 * logit]))


def test_the_reference_of_one_set_is_the_formula():
    z = torch.nn.functional.normalize(torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), dim=1).double()
    logits = (3 * z @ z.T).masked_fill(torch.eye(8, dtype=torch.bool), -math.inf)
    expected = cross_entropy(logits, torch.arange(8).roll(4))
    torch.testing.assert_close(ops.nt_xent(z, 3.0, backend="dense"), expected)
