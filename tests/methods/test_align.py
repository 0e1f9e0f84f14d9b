"""ALIGN's invariants (arXiv 2102.05918), with the numbers of the paper's loss worked out by hand."""

import math

import pytest
import torch

from nearfar.methods import find
from nearfar.methods.image_text.align import ALIGN, compose_query, logit_scale
from nearfar.methods.image_text.clip import CLIP


class Identity(torch.nn.Module):
    """Pixels are the image embeddings, tokens the text embeddings."""

    def encode_image(self, pixels, normalize=False):
        return pixels

    def encode_text(self, tokens, normalize=False):
        return tokens


def with_similarities(s):
    """Unit rows x, y with x y^T = s: x the identity beside what completes each y to unit length."""
    n = len(s)
    y = torch.cat([s.T, torch.diag((1 - s.square().sum(0)).sqrt())], 1)
    x = torch.cat([torch.eye(n, dtype=s.dtype), torch.zeros(n, n, dtype=s.dtype)], 1)
    return {"image": x, "text": y}


def loss(batch, sigma, eps):
    return ALIGN(Identity(), temperature=sigma, label_smoothing=eps)(batch)["loss"].item()


@pytest.mark.parametrize(
    ("sigma", "eps", "each"), [(1, 0, 0.313262), (1, 0.1, 0.363262), (0.5, 0.1, 0.226928), (1 / 64, 0.1, 3.2)]
)
def test_identity_similarities(sigma, eps, each):
    eye = torch.eye(2, dtype=torch.float64)
    assert loss({"image": eye, "text": eye}, sigma, eps) == pytest.approx(2 * each, abs=2e-6)


@pytest.mark.parametrize(
    ("sigma", "eps", "both"),
    [(1, 0, (0.422589, 0.420337)), (1, 0.1, (0.455089, 0.452837)), (0.5, 0.1, (0.313581, 0.306850))],
)
def test_worked_example(sigma, eps, both):
    s = torch.tensor([[0.9, 0.1], [0.3, 0.8]], dtype=torch.float64)
    assert loss(with_similarities(s), sigma, eps) == pytest.approx(sum(both), abs=2e-6)


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_all_equal_gives_log_n_and_no_pull_on_sigma(eps):
    ones = torch.ones(4, 3, dtype=torch.float64)
    method = ALIGN(Identity(), temperature=0.3, label_smoothing=eps)
    value = method({"image": ones, "text": ones})["loss"]
    assert value.item() == pytest.approx(2 * math.log(4), rel=1e-6)
    value.backward()
    assert abs(method.loss.temperature.value.grad.item()) < 1e-5


@pytest.mark.parametrize(("n", "floor", "gap"), [(2, 0.198515, 2.944439), (4, 0.348780, 3.610918)])
def test_smoothing_has_a_floor(n, floor, gap):
    """At S = I and sigma = 1/gap the loss is the entropy of the smoothed target, and both sides of it are higher."""
    eye = torch.eye(n, dtype=torch.float64)
    at = {g: loss({"image": eye, "text": eye}, 1 / g, 0.1) for g in (0.9 * gap, gap, 1.1 * gap)}
    assert at[gap] == pytest.approx(2 * floor, abs=2e-6)
    assert min(at.values()) == at[gap]


def test_swapping_towers_and_permuting_pairs():
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(5, 4, generator=g, dtype=torch.float64) for _ in range(2))
    order = torch.tensor([3, 1, 4, 0, 2])
    value = loss({"image": x, "text": y}, 0.2, 0.1)
    assert loss({"image": y, "text": x}, 0.2, 0.1) == pytest.approx(value, rel=1e-9)
    assert loss({"image": x[order], "text": y[order]}, 0.2, 0.1) == pytest.approx(value, rel=1e-9)
    assert loss({"image": 7 * x, "text": 0.1 * y}, 0.2, 0.1) == pytest.approx(value, rel=1e-9)


def test_equals_clip_at_minus_log_sigma():
    """eps = 0 and the mean of the directions: CLIP with logit_scale = -ln sigma, gradients included."""
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(6, 4, generator=g, requires_grad=True) for _ in range(2))
    align, clip = ALIGN(Identity(), temperature=0.05, label_smoothing=0), CLIP(Identity(), temperature=0.05)
    assert clip.loss.temperature.value.item() == pytest.approx(logit_scale(0.05), rel=1e-6)
    batch = {"image": x, "text": y}
    half, whole = align(batch)["loss"] / 2, clip(batch)["loss"]
    torch.testing.assert_close(half, whole, rtol=1e-6, atol=0)
    for mine, theirs in zip(torch.autograd.grad(half, [x, y]), torch.autograd.grad(whole, [x, y]), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_sigma_is_a_plain_parameter_unless_bounded():
    free, bounded = ALIGN(Identity()), ALIGN(Identity(), bounds=(0.01, 0.5))
    assert free.loss.temperature.value.item() == 1.0
    with torch.no_grad():
        free.loss.temperature.value.fill_(-0.1)
    free.after_step(1)
    bounded.after_step(1)
    assert free.loss.temperature.value.item() == pytest.approx(-0.1)
    assert bounded.loss.temperature().item() == 0.5


def test_duplicates_are_negatives_unless_excluded():
    eye = torch.eye(3, dtype=torch.float64)
    twice = {"image": eye[[0, 0, 1]], "text": eye[[0, 0, 1]], "group": torch.tensor([0, 0, 1])}
    plain = ALIGN(Identity(), temperature=0.1, label_smoothing=0)(twice)["loss"].item()
    spared = ALIGN(Identity(), temperature=0.1, label_smoothing=0, exclude_duplicates=True)(twice)["loss"].item()
    assert plain == pytest.approx(2 * 2 / 3 * math.log(2), rel=1e-3)
    assert spared < 1e-3


def test_compose_query():
    x, y = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 5.0])
    torch.testing.assert_close(compose_query(x, y), torch.tensor([0.5, 0.5]).sqrt())
    torch.testing.assert_close(compose_query(x, y, weight=0), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(compose_query(x, y, sign=-1), torch.tensor([0.5**0.5, -(0.5**0.5)]))


def test_find_knows_its_methods():
    from nearfar.errors import UserError

    assert find("align") is ALIGN
    with pytest.raises(UserError, match="There are: albef, align"):
        find("algin")
