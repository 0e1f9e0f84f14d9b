"""Changes of text vectors: what noise does to a vector, what pairs say of a shift, a map and a covariance."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from nearfar.data.texts.text_adapters import (
    ADAPTERS,
    CovarianceNoise,
    FixedShift,
    GaussianNoise,
    LinearAlign,
    MeanShift,
    TextAdapter,
    noise_for_cosine,
    scale_for_dim,
)
from nearfar.errors import UserError


def rows(n, dim, seed=0, dtype=torch.float64):
    drawn = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return normalize(drawn, dim=1)


def pairs(n=400, dim=12, seed=0):
    """Texts, and pictures that are turned, moved and noisy."""
    text, other = rows(n, dim, seed), rows(n, dim, seed + 1)
    turned = text @ torch.linalg.qr(rows(dim, dim, seed + 2))[0]
    return text, normalize(turned + 0.3 * other + 0.4 / math.sqrt(dim), dim=1)


def fitted(name, noise, dim=12):
    return ADAPTERS[name](dim, noise).fit(*pairs(dim=dim))


def test_plain_noise_is_nothing_in_evaluation_and_without_an_amount():
    text = rows(5, 12)
    assert torch.equal(GaussianNoise(0.0).train()(text), text)
    for amount in (0.0, 0.1, 3.0):
        assert torch.equal(GaussianNoise(amount).eval()(text), text)
    assert not torch.equal(GaussianNoise(0.1).train()(text), text)


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_what_comes_out_is_of_unit_length_and_drawn_anew(name):
    adapter, text = fitted(name, 0.2).train(), rows(50, 12)
    first, again = adapter(text), adapter(text)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(50, dtype=torch.float64), rtol=0, atol=1e-6)
    assert not torch.equal(first, again)
    still = adapter.eval()(text)
    assert torch.equal(still, adapter(text)), "no chance in evaluation"
    torch.testing.assert_close(still.norm(dim=1), torch.ones(50, dtype=torch.float64), rtol=0, atol=1e-6)
    assert torch.equal(still, text) == (name in ("noise", "covariance"))


@pytest.mark.parametrize(
    ("dim", "noise", "once", "twice"),
    [(768, 0.04, 0.6698, 0.4487), (768, 0.08, 0.4112, 0.1691), (768, 0.12, 0.2880, 0.0829), (512, 0.04, 0.7414, 0.5497),
     (512, 0.08, 0.4835, 0.2338), (512, 0.12, 0.3456, 0.1194)],
)  # fmt: skip
def test_the_mean_cosine_is_that_of_the_amount(dim, noise, once, twice):
    assert 1 / math.sqrt(1 + noise**2 * dim) == pytest.approx(once, abs=1e-4)
    assert 1 / (1 + noise**2 * dim) == pytest.approx(twice, abs=1e-4)
    torch.manual_seed(0)
    text = rows(1, dim, dtype=torch.float32).expand(20_000, dim)
    adapter = GaussianNoise(noise).train()
    first, second = adapter(text), adapter(text)
    assert (first * text).sum(1).mean().item() == pytest.approx(once, abs=0.002)
    assert (first * second).sum(1).mean().item() == pytest.approx(twice, abs=0.002)


def test_noise_knows_no_direction():
    turn = torch.linalg.qr(rows(16, 16))[0]
    text = rows(1, 16)
    torch.manual_seed(0)
    adapter = GaussianNoise(0.3).train()
    turned_after = (adapter(text.expand(40_000, 16)) @ turn.T).mean(0)
    turned_before = adapter((text @ turn.T).expand(40_000, 16)).mean(0)
    torch.testing.assert_close(turned_after, turned_before, rtol=0, atol=5e-3)


def test_the_shift_is_the_difference_of_the_means():
    text, image = pairs()
    shift = MeanShift(12).fit(5 * text, 0.1 * image)
    torch.testing.assert_close(shift.moved(text).mean(0), image.mean(0), rtol=0, atol=1e-7)
    unpaired = MeanShift(12).fit(text, image.flip(0)[:100])
    torch.testing.assert_close(unpaired.shift.double(), image.flip(0)[:100].mean(0) - text.mean(0), rtol=0, atol=1e-7)
    plain, without = GaussianNoise(0.2).train(), MeanShift(12, scale=0.0, noise=0.2).fit(text, image).train()
    assert np.array_equal(plain.transform(text, seed=3), without.transform(text, seed=3))


def test_a_fixed_shift_has_its_length_and_its_seed():
    text = rows(3, 12)
    moved = FixedShift(12, length=0.7).moved(text) - text
    torch.testing.assert_close(moved.norm(dim=1), torch.full((3,), 0.7, dtype=torch.float64), rtol=1e-6, atol=0)
    assert torch.equal(FixedShift(12).direction, FixedShift(12).direction)
    assert not torch.equal(FixedShift(12).direction, FixedShift(12, seed=1).direction)


def test_a_map_that_turns_is_known_again():
    text = rows(60, 12)
    turn = torch.linalg.qr(rows(12, 12, 5))[0]
    align = LinearAlign(12).fit(text, text @ turn.T)
    torch.testing.assert_close(align.weight.double(), turn, rtol=0, atol=1e-6)
    assert align.bias.abs().max() < 1e-6
    assert (align.mapped(text) - text @ turn.T).norm(dim=1).max() < 1e-5


def test_a_map_leaves_less_than_a_shift_and_a_shift_less_than_nothing():
    for seed in range(3):
        text, image = pairs(seed=seed)
        mapped, shifted = LinearAlign(12).fit(text, image).mapped(text), MeanShift(12).fit(text, image).moved(text)
        left = [(moved - image).square().sum().item() for moved in (mapped, shifted, text)]
        assert left == sorted(left)
        assert left[0] < left[1] < left[2]


@pytest.mark.parametrize("factor", [3.0, 1.0])
def test_the_noise_of_a_covariance_has_it(factor):
    text, image = pairs(dim=6)
    difference = image - text
    adapter = CovarianceNoise(6, factor=factor, noise=0.1).fit(text, image).train()
    torch.manual_seed(0)
    drawn = adapter.moved(text[:1].expand(200_000, 6)) + 0.1 * torch.randn(200_000, 6, dtype=torch.float64)
    torch.testing.assert_close(drawn.mean(0) - text[0], difference.mean(0), rtol=0, atol=0.02)
    expected = factor**2 * difference.T.cov() + 0.01 * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(drawn.T.cov(), expected, rtol=0.03, atol=0.02)
    exact = adapter.root.double() @ adapter.root.double().T
    torch.testing.assert_close(exact, difference.T.cov(), rtol=0, atol=1e-6)


def test_fewer_pairs_than_dimensions_will_do():
    text, image = pairs(n=5)
    adapter = CovarianceNoise(12, noise=0.1).fit(text, image)
    assert adapter(text).isfinite().all()
    align = LinearAlign(12).fit(text, image)
    torch.testing.assert_close(align.mapped(text), image, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_what_was_fitted_is_in_the_state(name):
    adapter = fitted(name, 0.2)
    again = ADAPTERS[name](12, 0.2)
    again.load_state_dict(adapter.state_dict())
    text = rows(4, 12)
    assert np.array_equal(adapter.transform(text, seed=1), again.transform(text, seed=1))
    assert (len(adapter.state_dict()) > 0) == (name != "noise")


def test_arrays_go_in_and_come_out_and_leave_the_state_of_chance():
    text = rows(4, 12).numpy().astype(np.float32)
    state = torch.get_rng_state()
    first, again, other = (GaussianNoise(0.2).transform(text, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.dtype == np.float32
    assert LinearAlign(12).fit(text, text[::-1]).eval().transform(text).dtype == np.float32


def test_amounts_at_other_widths():
    assert scale_for_dim(0.12, 768) == 0.12
    assert scale_for_dim(0.12, 192) == pytest.approx(0.24)
    assert scale_for_dim(0.1, 64, reference=256) == pytest.approx(0.2)
    assert noise_for_cosine(1.0, 64) == 0
    for cosine in (0.2, 0.7):
        assert 1 / math.sqrt(1 + noise_for_cosine(cosine, 64) ** 2 * 64) == pytest.approx(cosine)
    for cosine in (0.0, 1.1, math.nan):
        with pytest.raises(UserError, match="above 0, and at most 1"):
            noise_for_cosine(cosine, 64)


def test_what_cannot_be_is_named():
    for amount in (-0.1, math.inf, math.nan):
        with pytest.raises(UserError, match="a number of at least 0"):
            TextAdapter(amount)
    with pytest.raises(UserError, match=r"must be \[N, 12\], not \[3, 5\]"):
        MeanShift(12).fit(rows(3, 5), rows(3, 5))
    with pytest.raises(UserError, match="3 texts and 4 pictures"):
        LinearAlign(12).fit(rows(3, 12), rows(4, 12))
    with pytest.raises(UserError, match="two pairs at least"):
        CovarianceNoise(12).fit(rows(1, 12), rows(1, 12))
    with pytest.raises(UserError, match="not finite"):
        MeanShift(12).fit(rows(3, 12) * math.nan, rows(3, 12))
