"""Colour changes beside Pillow's, and beside a slow formula in float64."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from nearfar.data.pictures import colour


def bytes_of(images):
    return images.mul(255).round().byte()


def pillow(images, change):
    """Each picture through a function of Pillow, as bytes."""
    pictures = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in bytes_of(images)]
    return torch.stack([torch.from_numpy(np.array(change(p))).permute(2, 0, 1) for p in pictures])


@pytest.fixture
def images():
    """Two pictures of whole levels: one of all, one of few."""
    chance = torch.Generator().manual_seed(0)
    many, few = torch.randint(256, (3, 24, 18), generator=chance), torch.randint(60, 64, (3, 24, 18), generator=chance)
    return torch.stack([many, few]).float() / 255


def test_equalise_is_pillows_to_the_level(images):
    # half a level up: 0.2 * 255 is 50.999996 in float32, and levels are cut, not rounded
    actual = colour.equalise((images + 1e-5).clamp_max(1.0))
    assert torch.equal(bytes_of(actual), pillow(images, ImageOps.equalize))


def test_equalise_leaves_a_channel_of_one_value():
    plain = torch.full((1, 3, 8, 8), 0.25)
    torch.testing.assert_close(colour.equalise(plain), plain)


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.8])
def test_sharpness_is_pillows_within_its_rounding(images, factor):
    actual = bytes_of(colour.sharpness(images, factor)).int()
    expected = pillow(images, lambda picture: ImageEnhance.Sharpness(picture).enhance(factor)).int()
    assert (actual - expected).abs().max() <= 1  # Pillow rounds the smoothed copy to bytes
    if factor == 1.0:
        torch.testing.assert_close(colour.sharpness(images, factor), images)


@pytest.mark.parametrize(("height", "width", "side"), [(12, 12, 3), (20, 64, 7), (64, 50, 5)])
def test_blur_is_the_formula(height, width, side):
    """Every picture by its own sigma, rows and columns alike, the border mirrored without its outermost pixel."""
    images, sigma = torch.rand(2, 3, height, width), torch.tensor([0.3, 1.7])
    actual = colour.blur(images, sigma)
    for picture, s, result in zip(images.double().numpy(), sigma.double().tolist(), actual, strict=True):
        taps = np.exp(-0.5 * ((np.arange(side) - side // 2) / s) ** 2)
        kernel = np.outer(taps, taps) / taps.sum() ** 2
        padded = np.pad(picture, ((0, 0), (side // 2, side // 2), (side // 2, side // 2)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))
        np.testing.assert_allclose(result.numpy(), (windows * kernel).sum((-2, -1)), atol=1e-6)


def test_blur_of_almost_no_width_changes_nothing():
    images = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(colour.blur(images, torch.tensor([1e-3])), images)
