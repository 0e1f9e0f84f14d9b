"""Ridge maps against their formulas in float64."""

import pytest
import torch

from nearfar.adaptation import ridge
from nearfar.adaptation.ridge import KernelFeatures, LinearFeatures, RidgePath
from nearfar.models.dual.blended import kernel


def unit(*shape, seed=0):
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return torch.nn.functional.normalize(vectors, dim=1)


@pytest.mark.parametrize("count", [12, 40], ids=["fewer vectors than directions", "more"])
@pytest.mark.parametrize("penalty", [1e-3, 1.0, 30.0])
def test_the_linear_map_is_the_solution_of_the_normal_equations(count, penalty):
    x, y, new = unit(count, 20), unit(count, 6, seed=1), unit(5, 20, seed=2)
    y = y - y.mean(0)
    about = x - x.mean(0)
    weight = torch.linalg.solve(about.T @ about + penalty * torch.eye(20, dtype=torch.double), about.T @ y)
    features = LinearFeatures.of(x)
    path = RidgePath(features, x, y)
    torch.testing.assert_close(features.widen(path.weight(penalty)), weight, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(path(new, penalty).double(), (new - x.mean(0)) @ weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("penalty", [1e-2, 1.0])
def test_the_kernel_map_with_all_centres_is_kernel_ridge_regression(penalty):
    x, y, new = unit(30, 8), unit(30, 4, seed=1), unit(7, 8, seed=2)
    features = KernelFeatures.of(x, 0.5, centres=30)
    distances = torch.cdist(x, x) ** 2
    scale = 0.5 * distances.mean()
    assert features.scale == pytest.approx(scale.item())
    inner = torch.exp(-distances / scale)
    alpha = torch.linalg.solve(inner + penalty * torch.eye(30, dtype=torch.double), y)
    expected = torch.exp(-(torch.cdist(new, x) ** 2) / scale) @ alpha
    torch.testing.assert_close(RidgePath(features, x, y)(new, penalty).double(), expected, rtol=1e-4, atol=1e-5)


def test_the_kernel_is_one_for_a_vector_itself_and_never_above():
    x = torch.nn.functional.normalize(torch.randn(200, 64), dim=1)
    values = kernel(x, x, 0.01)
    assert values.max() <= 1
    assert values.diagonal().min() > 0.999


def test_the_map_does_not_depend_on_the_blocks(monkeypatch):
    x, y = unit(50, 9), unit(50, 3, seed=1)
    features = KernelFeatures.of(x, 1.0, centres=20)
    whole = RidgePath(features, x, y)(x, 0.1)
    monkeypatch.setattr(ridge, "BLOCK", 7)
    torch.testing.assert_close(RidgePath(features, x, y)(x, 0.1), whole, rtol=1e-5, atol=1e-6)


def test_centres_follow_the_seed():
    x = unit(50, 9)
    first, again, other = (KernelFeatures.of(x, 1.0, centres=20, seed=seed).centres for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
