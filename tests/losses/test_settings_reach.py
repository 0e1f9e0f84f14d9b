"""Every setting of a module reaches its loss, with other values than the defaults; and what a default would hide."""

import pytest
import torch

from nearfar import losses
from nearfar.losses import functional as F
from nearfar.losses.simctg_loss import simctg_loss


@pytest.fixture
def pair():
    return torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind()


GROUP = torch.tensor([0, 0, 1, 2, 2, 3])


def test_info_nce(pair):
    a, b = pair
    for symmetric in (True, False):
        for directions in ("mean", "sum"):
            settings = {"symmetric": symmetric, "directions": directions, "label_smoothing": 0.3}
            module = losses.InfoNCE(0.4, **settings)
            torch.testing.assert_close(module(a, b), F.info_nce(a, b, temperature=0.4, **settings))


def test_info_nce_of_one_direction_is_the_same_under_both_words(pair):
    mean, total = (F.info_nce(*pair, symmetric=False, directions=each) for each in ("mean", "sum"))
    assert mean == total


@pytest.mark.parametrize("side", ["negatives_a", "negatives_b"])
def test_extra_negatives_of_one_side_cost_one_direction(side, pair):
    """Of both directions, the one that has them is cross-entropy over more columns; the other is as without."""
    a, b = (torch.nn.functional.normalize(x, dim=1) for x in pair)
    extra = torch.nn.functional.normalize(torch.randn(4, 5, dtype=torch.float64), dim=1)
    rows, columns = (a, b) if side == "negatives_b" else (b, a)
    target = torch.arange(6)
    with_them = torch.nn.functional.cross_entropy(rows @ torch.cat([columns, extra]).T / 0.2, target)
    without = torch.nn.functional.cross_entropy(columns @ rows.T / 0.2, target)
    actual = F.info_nce(a, b, temperature=0.2, **{side: extra})
    torch.testing.assert_close(actual, (with_them + without) / 2, rtol=1e-6, atol=0)


def test_temperatures_and_biases_reach_the_loss_and_are_trained_where_they_should(pair):
    a, b = pair
    cases = [
        (losses.NTXent(0.3, learnable=True), (a, b), F.nt_xent(a, b, temperature=0.3)),
        (losses.SupCon(0.3, learnable=True), (a, GROUP), F.supcon(a, GROUP, temperature=0.3)),
        (losses.SigmoidLoss(0.3, -1.5), (a, b), F.sigmoid_loss(a, b, temperature=0.3, bias=-1.5)),
        (losses.SoftTargetInfoNCE(0.3), (a, b), F.soft_target_info_nce(a, b, temperature=0.3)),
    ]
    for module, arguments, expected in cases:
        actual = module(*arguments)
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)
        actual.backward()
        for name, p in module.named_parameters():
            assert p.grad is not None, f"{type(module).__name__}: {name}"
            assert p.grad.abs() > 1e-6, f"{type(module).__name__}: {name}"


def test_a_fixed_temperature_takes_no_gradient():
    for module in (losses.NTXent(learnable=False), losses.SupCon(learnable=False), losses.InfoNCE(learnable=False)):
        assert not module.temperature.value.requires_grad
    assert losses.InfoNCE().temperature.value.requires_grad


def test_alignment_and_uniformity_are_weighed_as_the_paper_does(pair):
    a, b = pair
    spread = (F.uniformity(a, t=3.0) + F.uniformity(b, t=3.0)) / 2
    expected = F.alignment(a, b, alpha=1.5) + 0.7 * spread
    torch.testing.assert_close(losses.AlignmentUniformity(1.5, 3.0, 0.7)(a, b), expected)
    assert (F.uniformity(a) - F.uniformity(b)).abs() > 1e-3


@pytest.mark.parametrize("margin", [0.5, 1.5])
@pytest.mark.parametrize("reduction", ["pairs", "sequence"])
def test_padding_and_texts_of_one_token_leave_simctg_s_mean_alone(margin, reduction):
    """A margin above 1 counts cosines of 0, which padding would have with every token."""
    states = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plain = simctg_loss(states, margin=margin, reduction=reduction)
    longer = torch.cat([states, torch.randn(2, 3, 5, dtype=torch.float64)], 1)
    longer = torch.cat([longer, longer[:1]])
    mask = torch.zeros(3, 7)
    mask[:2, :4] = mask[2, 0] = 1  # the third text has one token, and so no pair
    torch.testing.assert_close(simctg_loss(longer, mask, margin=margin, reduction=reduction), plain)


def test_simctg_s_gradient_is_the_same_where_it_is_to_be_differentiated_again():
    states = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    for margin in (0.5, 0.9):
        loss = simctg_loss(states, margin=margin)
        (once,) = torch.autograd.grad(loss, states, retain_graph=True)
        (twice,) = torch.autograd.grad(loss, states, create_graph=True)
        torch.testing.assert_close(twice, once)


def test_padded_locals_may_be_nan_and_leave_the_gradient_alone(pair):
    g = pair[0].clone().requires_grad_()
    local = torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0]] * 6)
    plain = F.global_local_info_nce(g, local[:, :2])
    (expected,) = torch.autograd.grad(plain, g)
    broken = torch.where(mask[..., None] == 0, torch.nan, local)
    actual = F.global_local_info_nce(g, broken, mask=mask)
    torch.testing.assert_close(actual, plain)
    torch.testing.assert_close(torch.autograd.grad(actual, g)[0], expected)
