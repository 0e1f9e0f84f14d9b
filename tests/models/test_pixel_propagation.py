"""PixPro's propagation module and its projector: numbers worked out by hand, its special cases, the released code's."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from nearfar.errors import UserError
from nearfar.models.image.pixel_propagation import CellProjector, PixelPropagation
from nearfar.models.image.projector import MLP
from nearfar.ops import cell_pairs, propagated

RELEASED = json.loads((Path(__file__).parents[1] / "losses" / "released" / "pixpro.json").read_text())


def wave(*shape, phase):
    return torch.sin(1.7 * torch.arange(math.prod(shape), dtype=torch.float64) + phase).view(shape)


def module(dim=4, **settings):
    torch.manual_seed(0)
    return PixelPropagation(dim, **settings).double()


def cells(x):
    return torch.tensor(x, dtype=torch.float64).T.reshape(1, 2, 1, -1)


def test_two_cells_worked_out():
    """Of cosine 0.5: s = [[1, 1/4], [1/4, 1]], y_0 = (1.125, 0.216506) before it is normalised."""
    x = cells([[1.0, 0.0], [0.5, 0.75**0.5]])
    expected = normalize(torch.tensor([[1.125, 0.216506]], dtype=torch.float64))[0]
    torch.testing.assert_close(module(2, layers=0)(x)[0, :, 0, 0], expected, atol=1e-6, rtol=0)
    assert torch.cosine_similarity(module(2, layers=0)(x), x)[0, 0, 0].item() == pytest.approx(0.981981, abs=1e-6)
    raw = propagated(x.flatten(2).mT, x.flatten(2).mT)
    torch.testing.assert_close(raw[0, 0], torch.tensor([1.125, 0.216506], dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("unit_values", [False, True])
def test_cells_that_are_not_alike_stay_as_they_are(unit_values):
    for other in ([-0.5, 0.75**0.5], [0.0, 2.0]):
        x = cells([[3.0, 0.0], other])
        torch.testing.assert_close(module(2, layers=0, unit_values=unit_values)(x), normalize(x, dim=1))


def test_a_gamma_without_bound_is_the_identity_and_0_smooths_all():
    x = wave(2, 4, 2, 3, phase=0.1)
    torch.testing.assert_close(module(layers=0, gamma=1e5)(x), normalize(x, dim=1), atol=1e-9, rtol=0)
    y = module(layers=0, gamma=0.0, unit_values=True)(x)
    total = normalize(normalize(x, dim=1).sum((2, 3), keepdim=True), dim=1)
    torch.testing.assert_close(y, total.expand_as(y))


@pytest.mark.parametrize("layers", [0, 1])
def test_cells_may_change_places(layers):
    x, order = wave(2, 4, 3, 3, phase=0.4), torch.randperm(9, generator=torch.Generator().manual_seed(0))

    def moved(grid):
        return grid.flatten(2)[..., order].unflatten(2, (3, 3))

    ppm = module(layers=layers)
    torch.testing.assert_close(ppm(moved(x)), moved(ppm(x)))


@pytest.mark.parametrize("unit_values", [False, True])
def test_the_scale_of_a_map_says_nothing_where_g_is_the_identity(unit_values):
    x = wave(2, 4, 3, 3, phase=0.4)
    ppm = module(layers=0, unit_values=unit_values)
    torch.testing.assert_close(ppm(7.5 * x), ppm(x))


@pytest.mark.parametrize("case", RELEASED["propagation"], ids=lambda case: f"{case['gamma']}, {case['layers']}")
def test_the_released_code_gave_these(case):
    ppm = module(4, gamma=case["gamma"], layers=case["layers"], unit_values=True)
    if case["layers"]:
        (linear,) = (part for part in ppm.modules() if isinstance(part, nn.Linear))
        with torch.no_grad():
            linear.weight.copy_(wave(4, 4, phase=0.2))
            linear.bias.copy_(wave(4, phase=2.0))
    y = ppm(wave(2, 4, 3, 3, phase=0.7))
    expected = torch.tensor(case["cells"], dtype=torch.float64)
    torch.testing.assert_close(y.detach().flatten()[::7], expected, atol=1e-9, rtol=0)


def test_values_as_they_are_weigh_by_their_length_and_the_released_code_s_do_not():
    x = cells([[1.0, 0.2], [3.0, 2.0]])
    plain, unit = (module(2, layers=0, unit_values=each)(x) for each in (False, True))
    assert (plain - unit).abs().max() > 0.01


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_gradients_are_finite_at_0_and_reach_both_arguments(gamma):
    x = torch.eye(4, dtype=torch.float64).view(1, 4, 2, 2).requires_grad_()  # all cosines of different cells are 0
    weight = wave(1, 4, 2, 2, phase=0.3)
    ppm = module(gamma=gamma)
    (ppm(x) * weight).sum().backward()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.abs().sum() > 0 for parameter in ppm.parameters())
    u, v = (wave(2, 5, 3, phase=phase).requires_grad_() for phase in (0.2, 0.9))
    assert torch.autograd.gradcheck(lambda a, b: propagated(a, b, gamma=gamma), (u, v))


def test_strips_change_neither_value_nor_gradient(monkeypatch):
    x = wave(3, 4, 3, 4, phase=0.5).requires_grad_()
    ppm, weight = module(), wave(3, 4, 3, 4, phase=1.0)

    def taken():
        y = ppm(x)
        return y.detach(), torch.autograd.grad((y * weight).sum(), x)[0]

    whole = taken()
    for pairs in (1, 30, 150):
        monkeypatch.setattr(cell_pairs, "PAIRS", pairs)
        for mine, true in zip(taken(), whole, strict=True):
            torch.testing.assert_close(mine, true, rtol=1e-12, atol=1e-14)


def test_half_precision_is_lifted_before_powers_and_sums():
    x = wave(2, 4, 3, 3, phase=0.5).bfloat16()
    ppm = module(layers=0).float()
    assert torch.equal(ppm(x), ppm(x.float()))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ppm(x.float()), ppm(x.float()))
        assert ppm(x.float()).dtype == torch.float32
        in_half = ppm(x.float())
    assert torch.equal(in_half, ppm(x.float()))


def test_a_projector_is_1_by_1_convolutions():
    torch.manual_seed(0)
    projector, x = CellProjector(6, hidden=8, out=3), torch.randn(2, 6, 3, 5)
    first, norm, _, last = projector.mlp.network
    as_convolutions = nn.Sequential(
        nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 1, bias=True)
    )
    with torch.no_grad():
        for convolution, linear in ((as_convolutions[0], first), (as_convolutions[3], last)):
            convolution.weight.copy_(linear.weight[..., None, None])
        as_convolutions[3].bias.copy_(last.bias)
    torch.testing.assert_close(projector(x), as_convolutions(x))
    torch.testing.assert_close(norm.running_mean, as_convolutions[1].running_mean)
    assert projector(x).min() < 0, "no ReLU at the end"
    # PyTorch's own start of a convolution.
    assert first.weight.abs().max() <= 6**-0.5
    assert first.weight.std().item() == pytest.approx((1 / 18) ** 0.5, rel=0.2)


def test_the_paper_s_widths():
    widths = [tuple(p.shape) for p in CellProjector(2048).parameters()]
    assert widths == [(4096, 2048), (4096,), (4096,), (256, 4096), (256,)]
    assert isinstance(PixelPropagation(256).values, MLP)
    assert [tuple(p.shape) for p in PixelPropagation(256).parameters()] == [(256, 256), (256,)]
    two = [tuple(p.shape) for p in PixelPropagation(16, layers=2).parameters()]
    assert two == [(16, 16), (16,), (16,), (16, 16), (16,)]


@pytest.mark.parametrize("settings", [{"layers": 3}, {"gamma": -1.0}])
def test_mistakes_are_sentences(settings):
    with pytest.raises(UserError, match="layers"):
        PixelPropagation(4, **settings)
