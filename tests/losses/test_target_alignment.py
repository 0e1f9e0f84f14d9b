"""Alignment with a teacher's two targets (arXiv 2310.08255): values by hand, its bound, what it does not depend on."""

import pytest
import torch

from nearfar.errors import UserError
from nearfar.losses import TargetAlignment
from nearfar.losses.functional import alignment, target_alignment

IMAGE, TEXT = torch.tensor([[1.0, 0.0, 0.0]]).double(), torch.tensor([[0.0, 1.0, 0.0]]).double()


def rows(seed=0):
    return torch.randn(3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_two_targets_at_a_right_angle_by_hand():
    between, across = IMAGE + TEXT, IMAGE - TEXT
    for phi, expected in ((IMAGE, -0.5), (TEXT, -0.5), (between, -(0.5**0.5)), (-IMAGE, 0.5), (across, 0.0)):
        assert target_alignment(phi, IMAGE, TEXT).item() == pytest.approx(expected, abs=1e-12)
    assert target_alignment(IMAGE, IMAGE, TEXT, image_weight=0.1).item() == pytest.approx(-0.1, abs=1e-12)


@pytest.mark.parametrize(("weight", "bound"), [(0.5, -0.77459667), (0.1, -0.92520268)])
def test_the_best_is_the_weighted_sum_of_the_targets(weight, bound):
    text = torch.tensor([[0.2, 0.96**0.5, 0.0]], dtype=torch.float64)
    best = weight * IMAGE + (1 - weight) * text
    assert target_alignment(best, IMAGE, text, image_weight=weight).item() == pytest.approx(bound, abs=1e-8)
    for phi in rows()[0][:, :3]:
        assert target_alignment(phi[None], IMAGE, text, image_weight=weight).item() > bound


def test_it_is_alignment_with_each_target():
    phi, image, text = rows()
    expected = 0.3 * alignment(phi, image) + 0.7 * alignment(phi, text)
    torch.testing.assert_close(2 * target_alignment(phi, image, text, image_weight=0.3) + 2, expected)


def test_lengths_say_nothing_and_the_gradient_is_at_a_right_angle():
    phi, image, text = rows()
    phi.requires_grad_()
    loss = target_alignment(phi, image, text)
    torch.testing.assert_close(target_alignment(3 * phi, 100 * image, 0.1 * text), loss)
    (gradient,) = torch.autograd.grad(loss, phi)
    assert (gradient * phi).sum(1).abs().max() < 1e-15
    assert gradient.norm() > 0.1


def test_targets_are_constants():
    phi, image, text = (x.requires_grad_() for x in rows())
    target_alignment(phi, image, text).backward()
    assert (image.grad, text.grad) == (None, None)


def test_samples_do_not_meet():
    phi, image, text = rows()
    whole, order = target_alignment(phi, image, text), torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(target_alignment(phi[order], image[order], text[order]), whole)
    parts = [target_alignment(phi[rows], image[rows], text[rows]) for rows in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close((2 * parts[0] + 4 * parts[1]) / 6, whole)


def test_a_target_without_weight_is_not_read():
    phi, image, text = rows()
    assert torch.equal(TargetAlignment(1.0)(phi, image, None), target_alignment(phi, image, text, image_weight=1.0))
    assert torch.equal(TargetAlignment(0.0)(phi, None, text), target_alignment(phi, image, text, image_weight=0.0))
    for name, pair in (("image", (None, text)), ("text", (image, None))):
        with pytest.raises(UserError, match=f"{name} is None, and its weight is 0.5"):
            TargetAlignment()(phi, *pair)
    for weight in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="image_weight must be from 0 to 1"):
            TargetAlignment(weight)


def test_a_zero_row_counts_as_nothing_and_nan_shows():
    phi, image, text = rows()
    phi[0] = 0
    others = target_alignment(phi[1:], image[1:], text[1:])
    torch.testing.assert_close(target_alignment(phi, image, text), others * 5 / 6)
    phi[0, 0] = torch.nan
    assert target_alignment(phi, image, text).isnan()
