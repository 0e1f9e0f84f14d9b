"""S-VCO's loss, DPO and image DPO: numbers worked out by hand, and what must not change them."""

import math

import pytest
import torch

from nearfar.errors import UserError
from nearfar.methods.lvlm.pair_losses import (
    PairLikelihoods,
    dpo,
    dpo_margins,
    image_dpo,
    image_dpo_margins,
    svco,
    svco_margins,
)

BETAS = (0.1, 0.1, 0.1, 0.1)


def drawn(seed, count=5, gradient=False):
    """Likelihoods of the policy, or of the reference."""
    made = -20 * torch.rand(3, count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return PairLikelihoods(*(each.clone().requires_grad_(gradient) for each in made))


def of_margins(*margins):
    """A policy with these margins m1 to m4 over a reference of zeros, with gradients."""
    m1, m2, m3, m4 = margins
    rows = ([m1, m3], [-m2, -m4], [0.0, 0.0])
    policy = PairLikelihoods(*(torch.tensor([row], dtype=torch.float64, requires_grad=True) for row in rows))
    return policy, PairLikelihoods(*(torch.zeros(1, 2, dtype=torch.float64) for _ in range(3)))


def swapped(likelihoods):
    """The pair with its two texts, and pictures, exchanged."""
    return PairLikelihoods(*(each.flip(1) for each in likelihoods))


@pytest.mark.parametrize("betas", [BETAS, (0.5, 1.0, 0.01, 3.0)])
def test_where_policy_and_reference_are_one_it_is_four_times_ln_2(betas):
    policy = drawn(0)
    assert svco(policy, policy, betas=betas).item() == pytest.approx(2.7725887222, abs=1e-9)
    for loss in (dpo, image_dpo):
        assert loss(policy, policy, beta=betas[0]).item() == pytest.approx(math.log(2), abs=1e-12)


def test_there_the_gradient_on_texts_without_a_picture_is_exactly_0():
    policy, reference = drawn(0, gradient=True), drawn(0)
    svco(policy, reference, reduction="sum").backward()
    assert (policy.alone.grad == 0).all()
    torch.testing.assert_close(policy.own.grad, torch.full((5, 2), -0.05, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(policy.other.grad, torch.full((5, 2), 0.05, dtype=torch.float64), rtol=1e-12, atol=0)


def test_margins_losses_and_gradients_by_hand():
    policy, reference = of_margins(2.0, -1.0, 3.0, 0.5)
    assert svco_margins(policy, reference).tolist() == [[2.0, -1.0, 3.0, 0.5]]
    assert svco(policy, reference).item() == pytest.approx(2.5653504, abs=1e-7)
    first = svco(policy, reference, betas=(0.1, 0.1, 0, 0))
    assert first.item() == pytest.approx(1.3425355, abs=1e-7)
    first.backward()
    gradients = [each.grad[0, 0].item() for each in policy]
    assert gradients == pytest.approx([-0.0450166, 0.0524979, -0.0074813], abs=1e-7)
    assert sum(gradients) == pytest.approx(0, abs=1e-15)
    assert [each.grad[0, 1].item() for each in policy] == [0, 0, 0]


def test_exchanging_the_pair_leaves_the_loss_and_exchanges_its_terms():
    policy, reference = drawn(1), drawn(2)
    torch.testing.assert_close(
        svco(swapped(policy), swapped(reference), reduction="none"), svco(policy, reference, reduction="none")
    )
    for place in range(4):
        one, other = ([0.1 * (each == at) for each in range(4)] for at in (place, (place + 2) % 4))
        torch.testing.assert_close(
            svco(policy, reference, betas=one), svco(swapped(policy), swapped(reference), betas=other)
        )
    torch.testing.assert_close(dpo(policy, reference), dpo(swapped(policy), swapped(reference)))
    torch.testing.assert_close(image_dpo(policy, reference), image_dpo(swapped(policy), swapped(reference)))


def test_what_all_likelihoods_of_a_text_share_changes_nothing():
    policy, reference = drawn(1), drawn(2)
    shift = torch.tensor([7.0, -3.0], dtype=torch.float64)
    for one, other in ((1, 0), (0, 1), (1, 1)):
        moved = [PairLikelihoods(*(x + on * shift for x in each)) for on, each in ((one, policy), (other, reference))]
        torch.testing.assert_close(svco(*moved), svco(policy, reference), rtol=1e-12, atol=0)
        torch.testing.assert_close(image_dpo(*moved), image_dpo(policy, reference), rtol=1e-12, atol=0)
    moved = PairLikelihoods(*(x + shift for x in policy))
    assert abs(dpo(moved, reference) - dpo(policy, reference)) > 1e-3, "it compares two texts"


@pytest.mark.parametrize("margins", [(2.0, -1.0), (0.3, 0.3), (-4.0, 5.0)])
def test_two_terms_of_a_text_are_bound_by_their_mean_margin(margins):
    loss = svco(*of_margins(*margins, 0.0, 0.0), betas=(0.1, 0.1, 0, 0)).item()
    bound = 2 * math.log1p(math.exp(-0.05 * sum(margins)))
    assert loss >= bound - 1e-12
    assert (abs(loss - bound) < 1e-12) == (margins[0] == margins[1])
    if margins == (2.0, -1.0):
        assert bound == pytest.approx(1.3369192, abs=1e-7)


def test_equal_pairs_teach_nothing():
    """One picture and one text twice: the margins of a text are opposite."""
    own = -torch.rand(6, 1, dtype=torch.float64) * 9
    alone = -torch.rand(6, 1, dtype=torch.float64) * 9
    policy = PairLikelihoods(*(each.expand(6, 2) for each in (own, own, alone)))
    reference = PairLikelihoods(*(torch.zeros(6, 2, dtype=torch.float64) for _ in range(3)))
    margins = svco_margins(policy, reference)
    torch.testing.assert_close(margins[:, 0], -margins[:, 1])
    assert (svco(policy, reference, reduction="none") > 4 * math.log(2)).all()
    gap = PairLikelihoods(*(each.expand(6, 2) for each in (own + 2, own + 2, alone + 2)))
    assert svco(gap, policy).item() == pytest.approx(4 * math.log(2), abs=1e-12)


def test_a_model_that_sees_no_picture_gets_no_gradient():
    text = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    loss = svco(PairLikelihoods(text, text, text), PairLikelihoods(*([torch.zeros(4, 2).double()] * 3)))
    loss.backward()
    assert loss.item() == pytest.approx(4 * math.log(2), abs=1e-12)
    assert (text.grad == 0).all()


def test_terms_that_are_off_are_no_part_of_it():
    for betas, off in (((0.1, 0.1, 0, 0), 1), ((0, 0, 0.1, 0.1), 0)):
        policy = drawn(1, gradient=True)
        svco(policy, drawn(2), betas=betas).backward()
        for each in policy:
            assert (each.grad[:, off] == 0).all()
            assert (each.grad[:, 1 - off] != 0).all()
    policy = drawn(1, gradient=True)
    svco(policy, drawn(2), betas=(0.1, 0, 0.1, 0)).backward()
    assert policy.other.grad is None or (policy.other.grad == 0).all()
    assert (policy.alone.grad > 0).all()


def test_a_batch_is_the_mean_of_its_pairs():
    policy, reference = drawn(1), drawn(2)
    for loss in (svco, dpo, image_dpo):
        each = [
            loss(*(PairLikelihoods(*(x[row : row + 1] for x in of)) for of in (policy, reference))) for row in range(5)
        ]
        torch.testing.assert_close(loss(policy, reference), torch.stack(each).mean())
        torch.testing.assert_close(loss(policy, reference, reduction="none"), torch.stack(each))
        torch.testing.assert_close(loss(policy, reference, reduction="sum"), torch.stack(each).sum())


def test_preferences_by_hand():
    """Picture 1 prefers its own text by 3 - 1 = 2 and picture 2 by 0.5 - 4; text 1 its own picture by 3 - 4 and text 2
    by 0.5 - 1. Reversed terms of the reference."""
    policy = PairLikelihoods(torch.tensor([[3.0, 0.5]]), torch.tensor([[4.0, 1.0]]))
    zero = PairLikelihoods(torch.zeros(1, 2), torch.zeros(1, 2))
    assert dpo_margins(policy, zero).tolist() == [[2.0, -3.5]]
    assert image_dpo_margins(policy, zero).tolist() == [[-1.0, -0.5]]
    assert dpo_margins(zero, policy).tolist() == [[-2.0, 3.5]]
    expected = (math.log1p(math.exp(-0.2)) + math.log1p(math.exp(0.35))) / 2
    assert dpo(policy, zero).item() == pytest.approx(expected, abs=1e-6)
    expected = (math.log1p(math.exp(2.0)) + math.log1p(math.exp(1.0))) / 2
    assert image_dpo(policy, zero, beta=2.0).item() == pytest.approx(expected, abs=1e-6)
    margins = svco_margins(drawn(1), drawn(2)).view(5, 2, 2).sum(2)
    torch.testing.assert_close(margins, image_dpo_margins(drawn(1), drawn(2)))


def test_far_margins_stay_finite():
    policy, reference = of_margins(1e4, -1e4, -1e4, 1e4)
    loss = svco(policy, reference)
    loss.backward()
    assert loss.item() == pytest.approx(2000, rel=1e-12)
    assert all(each.grad.isfinite().all() for each in policy)


def test_settings_that_cannot_be_are_named():
    policy = drawn(0)
    for betas in ((0.1, 0.1), (0.1, 0.1, 0.1, -0.1), (0, 0, 0, 0), (0.1, 0.1, 0.1, math.nan)):
        with pytest.raises(UserError, match="betas="):
            svco(policy, policy, betas=betas)
    for beta in (0.0, -1.0, math.inf):
        with pytest.raises(UserError, match="a number above 0"):
            dpo(policy, policy, beta=beta)
    with pytest.raises(UserError, match="reduction='batch'"):
        image_dpo(policy, policy, reduction="batch")
    with pytest.raises(UserError, match="without a picture"):
        svco(PairLikelihoods(*policy[:2]), policy)
