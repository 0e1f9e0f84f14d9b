"""Tiles multiplied in bfloat16 under autocast: float32 logits, the own pair untouched, gradients far nearer to the
truth than those of logits in bfloat16."""

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from nearfar import ops
from nearfar.ops.tiling import half_products
from nearfar.ops.tiling.half_products import centred_product, half_pays
from nearfar.ops.tiling.tiles import LN2, LOG2E, Pairs, _few

AUTOCAST = {"device_type": "cpu", "dtype": torch.bfloat16}


@pytest.fixture(autouse=True)
def small_problems_count(monkeypatch):
    monkeypatch.setattr(half_products, "LEAST", 1)
    monkeypatch.setattr(half_products, "has_bfloat16", lambda: True)


def pairs(n=96, d=48, noise=2.0, dtype=torch.float32):
    """Vectors whose own pair is the nearest for many, and not for all."""
    g = torch.Generator().manual_seed(0)
    k = torch.randn(n, d, generator=g, dtype=torch.float64)
    q = k + noise * torch.randn(n, d, generator=g, dtype=torch.float64)
    return normalize(q).to(dtype).requires_grad_(), normalize(k).to(dtype).requires_grad_()


def with_gradients(loss, q, k):
    value = loss(q, k)
    return value.detach(), *torch.autograd.grad(value.sum(), (q, k) if k is not q else q)


def errors(actual, expected):
    return [float((a.double() - e).norm() / e.norm()) for a, e in zip(actual, expected, strict=True)]


def dense(q, k, scale):
    """As peers write it: under autocast its logits are bfloat16."""
    own = torch.arange(len(q))
    return (cross_entropy(scale * q @ k.T, own) + cross_entropy(scale * k @ q.T, own)) / 2


FORMS = {
    "both directions": lambda q, k, scale, **more: ops.info_nce(q, k, scale, tile=40, **more),
    "one direction": lambda q, k, scale, **more: ops.info_nce(q, k, scale, symmetric=False),
    "one set": lambda q, k, scale, **more: ops.nt_xent(torch.cat([q, k]), scale, tile=40, **more),
    "log-partition": lambda q, k, scale, **more: ops.log_partition(q, k, scale, tile=40, **more).mean(),
}


@pytest.mark.parametrize("budget", [0, 1 << 30])
@pytest.mark.parametrize("scale", [10.0, 100.0])
@pytest.mark.parametrize("form", FORMS)
def test_loss_and_gradients_are_near_those_of_float64(form, scale, budget):
    def loss(q, k):
        return FORMS[form](q, k, scale, budget=budget)

    expected = with_gradients(loss, *pairs(dtype=torch.float64))
    with torch.autocast(**AUTOCAST):
        actual = with_gradients(loss, *pairs())
    value, *gradients = errors(actual, expected)
    assert 0 < value < 2e-5 * scale  # it did go through bfloat16, whose vectors are off by 2e-3
    assert max(gradients) < 0.02  # a few times what bfloat16 rounds by, 0.004


@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_errors_are_smaller_than_those_of_logits_in_bfloat16(scale):
    expected = with_gradients(lambda q, k: dense(q, k, scale), *pairs(dtype=torch.float64))
    with torch.autocast(**AUTOCAST):
        ours = errors(with_gradients(lambda q, k: ops.info_nce(q, k, scale), *pairs()), expected)
        theirs = errors(with_gradients(lambda q, k: dense(q, k, scale), *pairs()), expected)
    assert all(1.5 * a < b for a, b in zip(ours, theirs, strict=True)), (ours, theirs)


def test_a_loss_near_zero_keeps_its_digits():
    """The own pair stays in float32."""
    q, k = pairs(noise=0.01)
    expected = ops.info_nce(q.detach().double(), k.detach().double(), 30.0)
    with torch.autocast(**AUTOCAST):
        actual = ops.info_nce(q.detach(), k.detach(), 30.0)
    assert expected < 1e-4
    assert actual.item() == pytest.approx(expected.item(), rel=0.02)


@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_rows_that_peak_far_apart(budget):
    """Long and short queries in one tile: no shift serves both, and the tile's logits are computed again."""

    def loss(q, k):
        return ops.info_nce(q * torch.logspace(0, 2, len(q), dtype=q.dtype)[:, None], k, 20.0, tile=40, budget=budget)

    expected = with_gradients(loss, *pairs(dtype=torch.float64))
    with torch.autocast(**AUTOCAST):
        actual = with_gradients(loss, *pairs())
    assert max(errors(actual, expected)) < 0.02


def test_groups_leave_out_the_same_pairs():
    group = torch.arange(96) % 7

    def loss(q, k):
        return ops.info_nce(q, k, 20.0, group=group, tile=40)

    expected = with_gradients(loss, *pairs(dtype=torch.float64))
    with torch.autocast(**AUTOCAST):
        actual = with_gradients(loss, *pairs())
    assert max(errors(actual, expected)) < 4e-3


def test_a_product_keeps_the_digits_of_its_distance_from_the_centre():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(70, 40, generator=g).bfloat16() for _ in range(2))
    expected = a.double() @ b.double().t()
    centres = (expected[:, 0] + 0.1).bfloat16().float()  # each row's first product is near it
    actual = centred_product(a, b.t(), centres, torch.empty(70, 70, dtype=torch.bfloat16), out=torch.empty(70, 70))
    off, distance = (actual - expected).abs(), (expected - centres[:, None].double()).abs()
    assert (off <= 2**-8 * distance + 1e-5).all()
    assert off[:, 0].max() < 2**-9 < off.max()


def spread(pairs):
    """How far from their centres, in base 2, the logits lie that make up most of their row's sum."""
    z = pairs.q.double() @ pairs.k.double().t() * pairs.scale[:, None].double() * LOG2E
    hidden = torch.eye(len(z), dtype=bool)
    if pairs.q_group is not None:
        hidden |= pairs.q_group[:, None] == pairs.k_group
    p = (z * LN2).masked_fill(hidden, -torch.inf).softmax(1)
    return (p * (z - pairs.centres[:, None].double()).abs()).sum(1)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("one_set", [False, True])
def test_centres_lie_where_the_weight_of_a_row_lies(one_set, grouped):
    """The own pair, and pairs that are left out, have far larger logits and no say."""
    g = torch.Generator().manual_seed(0)
    group = torch.arange(640) % 4
    k = normalize(torch.randn(640, 32, generator=g) + 3 * grouped * torch.eye(32)[group])
    ids = {"q_group": group, "k_group": group, "admit": "different"} if grouped else {}
    own = None if one_set else torch.arange(640)
    problem = Pairs(k, k, torch.full((640,), 50.0), own, one_set=one_set, half=True, **ids)
    assert problem.centres.equal(problem.centres.bfloat16().float())
    assert (problem.centres < 0.8 * 50 * LOG2E).all()  # where the own logit is
    centred = spread(problem).median()
    problem.__dict__["centres"] = torch.zeros(640)
    assert 3 * centred < spread(problem).median()


@pytest.mark.parametrize("size", [1, 63, 64, 65, 640, 4096, 100_003])
def test_few_keys_are_of_all_classes_that_take_turns(size):
    few = _few(size).tolist()
    assert 0.85 * min(size, 64) <= len({*few}) <= len(few) == min(size, 64)
    assert 0 <= min(few) <= max(few) < size
    if size >= 640:
        assert all({key % classes for key in few} == {*range(classes)} for classes in (2, 3, 4, 5, 8, 10))


def test_rows_that_admit_no_key_have_a_centre():
    group = torch.zeros(64, dtype=torch.int64)
    q = normalize(torch.ones(64, 8) + torch.eye(64, 8))
    problem = Pairs(q, q, torch.ones(64), q_group=group, k_group=group, admit="different", half=True)
    assert problem.centres.equal(torch.zeros(64))


def test_where_it_pays(monkeypatch):
    q, k = pairs()
    assert not half_pays(q, k)  # without autocast
    with torch.autocast("cpu", torch.float16):
        assert not half_pays(q, k)
    with torch.autocast(**AUTOCAST):
        assert half_pays(q, k)
        assert not half_pays(q.double(), k.double())
        with torch.autocast("cpu", enabled=False):
            assert not half_pays(q, k)
        monkeypatch.setattr(half_products, "has_bfloat16", lambda: False)
        assert not half_pays(q, k)
        monkeypatch.setattr(half_products, "has_bfloat16", lambda: True)
        monkeypatch.setattr(half_products, "LEAST", 96 * 96 + 1)
        assert not half_pays(q, k)


def test_second_derivatives_stay_in_float32():
    def second(q, k):
        (g,) = torch.autograd.grad(ops.info_nce(q, k, 5.0), q, create_graph=True)
        return torch.autograd.grad(g.square().sum(), q)[0]

    q, k = pairs()
    with torch.autocast(**AUTOCAST):
        actual = second(q, k)
    torch.testing.assert_close(actual, second(q, k), rtol=1e-2, atol=1e-6)


def test_compiles_without_a_graph_break():
    q, k = pairs()

    def loss(q, k):
        with torch.autocast(**AUTOCAST):
            return ops.info_nce(q, k, 20.0)

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for a, b in zip(with_gradients(compiled, q, k), with_gradients(loss, q, k), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
