"""SepCLR's salient term of known attributes (arXiv 2402.11928): worked values, the dense formula in float64, and where
no gradient may go."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.losses import common_salient as module
from nearfar.losses.common_salient import gaussian_uniformity, salient_attributes

TARGET = torch.tensor([0, 1, 1, 0, 1, 1, 1, 0, 1])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(s: Tensor, a: Tensor, target: Tensor, discrete: tuple[int, ...], tau: float, width: float) -> Tensor:
    """The formula as it is printed, pair by pair."""
    rows = target.nonzero().flatten().tolist()
    pairs = [(i, j) for i in rows for j in rows if i < j]
    terms = []
    for k in range(s.shape[1]):
        kappa = [
            (a[i, k] == a[j, k]).double() if k in discrete else (-((a[i, k] - a[j, k]) ** 2) / (2 * width)).exp()
            for i, j in pairs
        ]
        align = sum(w * (s[i, k] - s[j, k]) ** 2 for w, (i, j) in zip(kappa, pairs, strict=True)) / len(pairs)
        zero = s[target == 0, k].square().mean() / (2 * (tau if k in discrete else width))
        t = torch.where(target.bool(), s[:, k], 0.0)
        others = [(i, j) for i in range(len(s)) for j in range(len(s)) if i != j]
        unif = torch.stack([(-((t[i] - t[j]) ** 2) / (2 * tau)).exp() for i, j in others]).mean().log()
        terms.append((align + zero) / 2 + unif)
    return torch.stack(terms).mean()


@pytest.mark.parametrize("block", [1, 20, 1 << 20])
@pytest.mark.parametrize(("discrete", "tau", "width"), [((), 0.5, 0.025), ((0,), 0.5, 0.025), ((1, 2), 0.2, 0.3)])
def test_value_and_gradient_are_those_of_the_formula(discrete, tau, width, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    s, a = (2 * drawn(9, 3)).requires_grad_(), drawn(9, 3, seed=1)
    a[:, list(discrete)] = a[:, list(discrete)].mul(3).floor()
    value = salient_attributes(s, a, TARGET, discrete=discrete, variance=tau, width=width)
    expected = dense(s, a, TARGET, discrete, tau, width)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    (g,), (expected_g,) = torch.autograd.grad(3 * value, s), torch.autograd.grad(3 * expected, s)
    assert torch.allclose(g, expected_g, rtol=1e-10, atol=1e-12)


def test_gradcheck():
    s = drawn(9, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: salient_attributes(s, drawn(9, 2, seed=1), TARGET, discrete=[1]), s)


@pytest.mark.parametrize("discrete", [(), (0,)])
def test_of_equal_attributes_all_pairs_count_and_of_distant_ones_none(discrete):
    s, target = drawn(6, 1), torch.ones(6, dtype=torch.long)
    squares = (s - s.T).square()
    spread = gaussian_uniformity(s)
    equal = salient_attributes(s, torch.ones(6, 1), target, discrete=discrete)
    assert (2 * (equal - spread)).item() == pytest.approx(squares.sum().item() / 30)
    distant = salient_attributes(s, torch.arange(6.0)[:, None] * 100, target, discrete=discrete)
    assert distant.item() == pytest.approx(spread.item())


def test_background_is_drawn_to_zero_and_its_attributes_are_not_read():
    s, a = drawn(9, 2).requires_grad_(), drawn(9, 2, seed=1)
    a[TARGET == 0] = torch.nan
    (g,) = torch.autograd.grad(salient_attributes(s, a, TARGET, discrete=[1]), s)
    # Half of s^2 / 2 tau_k, the mean over three rows of background and over two attributes.
    tau = torch.tensor([0.025, 0.5], dtype=torch.float64)
    assert torch.allclose(g[TARGET == 0], s.detach()[TARGET == 0] / (2 * tau) / 3 / 2)


@pytest.mark.parametrize("target", [torch.zeros(4), torch.ones(4), torch.tensor([0.0, 0.0, 0.0, 1.0])])
def test_a_set_without_samples_or_pairs_adds_nothing(target):
    s = drawn(4, 2).float().requires_grad_()
    value = salient_attributes(s, drawn(4, 2, seed=1), target.bool())
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert s.grad.isfinite().all()


def test_integers_are_attributes_too():
    s = drawn(9, 1)
    names = torch.arange(9)[:, None] % 3
    assert torch.equal(
        salient_attributes(s, names, TARGET, discrete=[0]), salient_attributes(s, names.double(), TARGET, discrete=[0])
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attributes": torch.ones(9, 3)}, r"\(9, 2\), \(9, 3\)"),
        ({"target": torch.ones(8, dtype=torch.long)}, r"\(8,\)"),
        ({"target": torch.ones(9)}, "bool or integers"),
        ({"salient": torch.ones(1, 2)}, "N >= 2"),
        ({"salient": torch.ones(9)}, "salient"),
        ({"discrete": [2]}, r"0 to 1, not \[2\]"),
        ({"variance": 0.0}, "positive"),
        ({"width": -1.0}, "positive"),
        ({"backend": "ring"}, "salient_attributes"),
    ],
)
def test_what_does_not_fit_is_said(change, words):
    arguments = {"salient": torch.ones(9, 2), "attributes": torch.ones(9, 2), "target": TARGET} | change
    with pytest.raises(UserError, match=words):
        salient_attributes(**arguments)
