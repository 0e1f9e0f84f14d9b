"""Group whitening: what it makes of rows, its gradient, and what cannot be whitened."""

import math

import pytest
import torch

from nearfar.errors import UserError
from nearfar.ops.whitening import group_whitening


def rows(n, d, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(n, d, generator=generator, dtype=torch.float64) @ torch.randn(
        d, d, generator=generator, dtype=torch.float64
    )
    return (mixed + torch.arange(d)).to(dtype)


def covariance(y):
    z = y - y.mean(0)
    return z.T @ z / len(z)


def shuffled(d, seed=0):
    return torch.randperm(d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["zca", "cholesky"])
def test_each_group_is_white_and_others_are_not(kind):
    x, order = rows(64, 12), shuffled(12)
    y = group_whitening(x, 3, permutation=order, kind=kind)
    assert y.mean(0).abs().max() < 1e-12
    whole = covariance(y)[order][:, order]
    same = torch.arange(12)[:, None] // 4 == torch.arange(12) // 4
    assert (whole - torch.eye(12))[same].abs().max() < 1e-12
    assert whole[~same].abs().max() > 0.05
    assert y.square().sum(1).mean().item() == pytest.approx(12)


def test_by_hand():
    x, r = torch.tensor([[2.0, 0], [-2, 0], [0, 1], [0, -1]], dtype=torch.float64), math.sqrt(2)
    expected = torch.tensor([[r, 0], [-r, 0], [0, r], [0, -r]], dtype=torch.float64)
    torch.testing.assert_close(group_whitening(x, 1), expected)


def test_a_group_a_channel_is_batch_norm():
    x = rows(32, 6)
    expected = (x - x.mean(0)) / x.std(0, correction=0)
    torch.testing.assert_close(group_whitening(x, 6), expected)
    torch.testing.assert_close(group_whitening(x, 6, permutation=shuffled(6)), expected)


def test_of_one_group_the_order_does_not_matter():
    x = rows(32, 6)
    torch.testing.assert_close(group_whitening(x, 1, permutation=shuffled(6)), group_whitening(x, 1))
    cholesky = group_whitening(x, 1, permutation=shuffled(6), kind="cholesky")
    assert (cholesky - group_whitening(x, 1, kind="cholesky")).abs().max() > 0.1, "Cholesky depends on the order"


def test_what_it_does_not_see():
    """A constant, a positive factor; rows in another order come in that order."""
    x, order = rows(40, 12), shuffled(12)
    y = group_whitening(x, 3, permutation=order)
    torch.testing.assert_close(group_whitening(7 * x + torch.arange(12) * 3, 3, permutation=order), y)
    torch.testing.assert_close(group_whitening(x.flip(0), 3, permutation=order), y.flip(0))
    again = group_whitening(x, 3, permutation=order)
    assert torch.equal(again, y)


def test_other_groups_give_another_view():
    x = torch.randn(256, 12, generator=torch.Generator().manual_seed(0))
    one, other = (group_whitening(rows(256, 12), 3, permutation=shuffled(12, seed)) for seed in (0, 1))
    cosine = torch.cosine_similarity(one, other).mean()
    assert 0.3 < cosine < 0.99
    plain = [group_whitening(x, 3, permutation=shuffled(12, seed)) for seed in (0, 1)]
    assert torch.cosine_similarity(*plain).mean() > 0.9, "channels that are independent already stay near"


@pytest.mark.parametrize("kind", ["zca", "cholesky"])
@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_the_gradient_is_that_of_finite_differences(kind, eps):
    x = rows(10, 6).requires_grad_()
    order = shuffled(6)
    assert torch.autograd.gradcheck(lambda x: group_whitening(x, 2, permutation=order, eps=eps, kind=kind), x)


def test_equal_eigenvalues_have_a_gradient():
    """There the derivative of an eigendecomposition is infinite."""
    corners = torch.tensor([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)], dtype=torch.float64).requires_grad_()
    weights = torch.arange(8, dtype=torch.float64).view(4, 2)
    (group_whitening(corners, 1) * weights).sum().backward()
    assert corners.grad.isfinite().all()
    assert torch.autograd.gradcheck(lambda x: group_whitening(x, 1), corners.detach().requires_grad_())


def test_detached_the_gradient_is_centred_and_turned_back():
    """The gradient of the rows is centred(g W^T): the published one, which differs from the whole gradient."""
    x = rows(20, 4).requires_grad_()
    g = rows(20, 4, seed=1)
    (group_whitening(x, 1, detach=True) * g).sum().backward()
    z = (x - x.mean(0)).detach()
    values, basis = torch.linalg.eigh(z.T @ z / 20)
    expected = g @ (basis * values.rsqrt()) @ basis.T
    torch.testing.assert_close(x.grad, expected - expected.mean(0))
    whole = rows(20, 4).requires_grad_()
    (group_whitening(whole, 1) * g).sum().backward()
    assert ((whole.grad - x.grad).norm() / whole.grad.norm()).item() > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_statistics_are_taken_in_double_precision(dtype):
    """Channels far from the origin, where float32 sums of squares lose the variance."""
    x = (rows(64, 6) + 3000).float() if dtype == torch.float32 else rows(64, 6).to(dtype)
    y = group_whitening(x, 1)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), group_whitening(x.double(), 1), rtol=1e-2, atol=1e-2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(group_whitening(x, 1), y)


@pytest.mark.parametrize("kind", ["zca", "cholesky"])
def test_too_few_rows_are_named(kind):
    with pytest.raises(UserError, match="3 rows cannot whiten groups of 6 channels: take 7 rows at least"):
        group_whitening(rows(3, 6), 1, kind=kind)
    flat = rows(30, 6)
    flat[:, 3] = 2 * flat[:, 1]
    with pytest.raises(UserError, match="varies in fewer directions"):
        group_whitening(flat, 1, kind=kind)
    with pytest.raises(UserError, match="varies in fewer directions"):
        group_whitening(torch.ones(30, 6, dtype=torch.float64), 3, kind=kind)
    still, order = rows(30, 6), torch.tensor([5, 0, 2, 1, 4, 3])
    still[:, 4] = 7
    with pytest.raises(UserError, match=r"\(channels 3, 4, of which 4 not at all; 1 such groups\).*method\.eps"):
        group_whitening(still, 3, permutation=order, kind=kind)
    assert group_whitening(flat, 1, eps=1e-3, kind=kind).isfinite().all()
    assert group_whitening(rows(3, 6), 1, eps=1e-3, kind=kind).isfinite().all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"groups": 4}, "groups=4 do not divide 6 channels: choose one of 1, 2, 3, 6"),
        ({"groups": 2, "kind": "pca"}, "choose zca or cholesky"),
        ({"groups": 2, "eps": -1.0}, "eps=-1.0"),
        ({"groups": 2, "permutation": torch.zeros(6).long()}, "each of 0 to 5 once"),
    ],
)
def test_what_does_not_fit_is_named(options, words):
    with pytest.raises(UserError, match=words):
        group_whitening(rows(30, 6), **options)


def test_as_many_rows_as_channels_are_one_too_few():
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="4 rows cannot whiten groups of 4 channels: take 5 rows at least"):
        group_whitening(x, 2)
    assert group_whitening(x, 4).isfinite().all()
