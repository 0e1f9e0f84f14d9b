"""The six changes of a picture: what each does to one whose pixels are known, and how one of them is drawn."""

from collections import Counter
from random import Random

import numpy as np
import pytest
from PIL import Image

from nearfar.decoding import TransformBank
from nearfar.decoding.conditions import picture_transforms as made
from nearfar.errors import UserError


def picture(width=40, height=30, seed=0):
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))


class Chance(Random):
    """Draws what it is made with, one after the other."""

    def __init__(self, *values):
        super().__init__(0)
        self.values = list(values)

    def uniform(self, low, high):
        value = self.values.pop(0)
        assert low <= value <= high, "out of the paper's range"
        return value

    def sample(self, items, k):
        return list(items)[:k]


def array(image):
    return np.asarray(image).astype(int)


def test_flips_and_turns():
    one = picture()
    assert (array(made.horizontal_flip(one, Chance(), 32)) == array(one)[:, ::-1]).all()
    assert (array(made.vertical_flip(one, Chance(), 32)) == array(one)[::-1]).all()
    square = picture(30, 30)
    assert (array(made.rotation(square, Chance(90.0), 32)) == np.rot90(array(square))).all()
    turned = array(made.rotation(Image.new("RGB", (41, 41), "white"), Chance(45.0), 32))
    assert turned.shape == (41, 41, 3)
    assert (turned[0, 0] == 0).all()
    assert (turned[20, 20] == 255).all()


def test_jitter_by_hand():
    one = Image.new("RGB", (4, 4), (100, 50, 0))
    # By way of 8-bit hue, saturation and value a level may be lost.
    assert np.abs(array(made.colour_jitter(one, Chance(1.0, 1.0, 1.0, 0.0), 32)) - array(one)).max() <= 1
    assert (array(made.colour_jitter(one, Chance(0.0, 1.0, 1.0, 0.0), 32)) == 0).all()
    assert np.abs(array(made.colour_jitter(one, Chance(2.0, 1.0, 1.0, 0.0), 32))[0, 0] - [200, 100, 0]).max() <= 1
    grey = array(made.colour_jitter(one, Chance(1.0, 1.0, 0.0, 0.0), 32))[0, 0]
    assert len(set(grey.tolist())) == 1
    # A third of the circle: what was red is green.
    red = Image.new("RGB", (4, 4), (240, 0, 0))
    turned = array(made.colour_jitter(red, Chance(1.0, 1.0, 1.0, 1 / 3), 32))[0, 0]
    assert turned[1] == 240
    assert turned[0] + turned[2] <= 12
    back = array(made.colour_jitter(red, Chance(1.0, 1.0, 1.0, -1 / 3), 32))[0, 0]
    assert back[2] == 240


def test_the_order_of_jitter_is_drawn():
    one, orders = picture(), set()
    for seed in range(30):
        chance = Random(seed)
        chance.uniform = lambda low, high: {2: 0.5, 0.5: 0.3}[high]
        orders.add(made.colour_jitter(one, chance, 32).tobytes())
    assert len(orders) > 5


def test_blur_has_a_kernel_of_13_pixels():
    point = Image.new("RGB", (41, 41))
    point.putpixel((20, 20), (255, 255, 255))
    blurred = array(made.gaussian_blur(point, Chance(2.0), 32))[..., 0]
    weights = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    weights /= weights.sum()
    expected = np.zeros((41, 41))
    expected[14:27, 14:27] = 255 * np.outer(weights, weights)
    assert np.abs(blurred - expected).max() <= 0.5 + 1e-3
    flat = Image.new("RGB", (20, 20), (7, 80, 200))
    assert (array(made.gaussian_blur(flat, Chance(1.5), 32)) == array(flat)).all()
    for size in ((1, 1), (2, 9), (7, 3)):  # smaller than the kernel
        assert made.gaussian_blur(picture(*size), Chance(1.5), 32).size == size


def test_a_crop_has_the_models_size_and_the_papers_area():
    across, down = np.meshgrid(np.arange(100) * 2, np.arange(60) * 4)
    one = Image.fromarray(np.stack([across, down, 0 * down], 2).astype(np.uint8))
    shares = []
    for seed in range(60):
        cut = array(made.random_resized_crop(one, Random(seed), 24))
        assert cut.shape == (24, 24, 3)
        width, height = np.ptp(cut[..., 0]) / 2 * 24 / 23, np.ptp(cut[..., 1]) / 4 * 24 / 23
        shares.append(width * height / 6000)
        assert 0.65 < width / height < 1.55
    assert 0.05 < min(shares) < 0.2
    assert 0.5 < max(shares) <= 1.05


def test_each_is_drawn_as_often_as_the_others():
    bank = TransformBank()
    names = Counter(bank.draw(picture(8, 8), 8, seed=seed)[0] for seed in range(600))
    assert set(names) == set(made.SIX)
    assert len(made.SIX) == 6
    assert 65 < min(names.values()) <= max(names.values()) < 140


def test_a_picture_and_a_question_have_one_change_whatever_stands_beside_them():
    bank, one, other = TransformBank(), picture(), picture(seed=1)
    draws = {
        (key, seed): bank.draw(one, 16, key=key, seed=seed) for key in ("is it?", "is it not?") for seed in range(20)
    }
    for (key, seed), (name, changed) in draws.items():
        bank.draw(other, 16, key=key, seed=seed)
        again = bank.draw(one.copy(), 16, key=key, seed=seed)
        assert again[0] == name
        assert again[1].tobytes() == changed.tobytes()
        assert bank.all(one, 16, key=key, seed=seed)[name].tobytes() == changed.tobytes()
    assert len({changed.tobytes() for _, changed in draws.values()}) > 20
    names = [[draws[key, seed][0] for seed in range(20)] for key in ("is it?", "is it not?")]
    assert names[0] != names[1]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_pictures_of_any_mode_are_changed(mode):
    for name, changed in TransformBank().all(picture().convert(mode), 16).items():
        assert changed.mode == "RGB", name


def test_what_is_excluded_is_never_drawn():
    bank = TransformBank(exclude=["rotation", "horizontal_flip", "vertical_flip", "random_resized_crop"])
    assert {bank.draw(picture(8, 8), 8, seed=seed)[0] for seed in range(40)} == {"colour_jitter", "gaussian_blur"}
    own = TransformBank({"same": lambda each, chance, size: each})
    assert own.draw(picture(), 8)[1].tobytes() == picture().tobytes()
    with pytest.raises(UserError, match="no transform 'flip'"):
        TransformBank(exclude=["flip"])
    with pytest.raises(UserError, match="all transforms are excluded"):
        TransformBank(exclude=list(made.SIX))
    with pytest.raises(UserError, match="write a list of names"):
        TransformBank(exclude="rotation")
