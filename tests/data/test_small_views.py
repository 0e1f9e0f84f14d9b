"""Small views (multi-crop): their shape, their crops, their chance, and their way through a recipe's settings."""

import pytest
import torch

from nearfar.data import Loader, Records
from nearfar.data.batches import batch as batches
from nearfar.data.pictures.views import PRESETS


@pytest.fixture
def source():
    """Pictures whose red is the place from left to right and whose green is that from top to bottom."""
    from PIL import Image

    ramp = torch.arange(64, dtype=torch.uint8) * 4
    picture = torch.stack(
        [ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.zeros(64, 64, dtype=torch.uint8)], -1
    )
    return Records([{"image": Image.fromarray(picture.numpy())} for _ in range(6)], name="ramps")


def first(source, **settings):
    loader = Loader(
        source, batch_size=6, mean=(0.0,) * 3, std=(1.0,) * 3, **{"image_size": 56, "views": "clip"} | settings
    )
    return next(iter(loader))


def test_shapes_and_axis(source):
    batch = first(source, n_views=2, small_views=3)
    assert batch["views"].shape == (2, 6, 3, 56, 56)
    assert batch["small_views"].shape == (3, 6, 3, 24, 24), "96 for each 224"
    assert first(source, small_views=1, small_size=16)["small_views"].shape[-1] == 16
    assert "small_views" not in first(source)
    part = batches.rows(batch, 2, 4, 6)
    assert torch.equal(part["small_views"], batch["small_views"][:, 2:4])


def test_they_show_from_5_to_14_percent_of_the_picture(source):
    small = first(source, small_views=8)["small_views"]
    span = [small[:, :, channel].amax((2, 3)) - small[:, :, channel].amin((2, 3)) for channel in (0, 1)]
    # A crop of so many pixels a side spans its share of the ramp, but for one step; 252 / 255 is the whole of it.
    area = (span[0] * 255 / 252 + 1 / 24) * (span[1] * 255 / 252 + 1 / 24)
    assert PRESETS["swav"].small_crop == (0.05, 0.14)
    assert area.min() > 0.035
    assert area.max() < 0.17
    assert len(area.flatten().round(decimals=4).unique()) > 20, "each has a crop of its own"


def test_the_large_views_are_the_same_with_and_without_small_ones(source):
    assert torch.equal(first(source, n_views=2)["views"], first(source, n_views=2, small_views=4)["views"])


def test_the_same_seed_gives_the_same_small_views(source):
    one, two = (first(source, small_views=2, seed=3, workers=workers)["small_views"] for workers in (0, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, first(source, small_views=2, seed=4)["small_views"])


def test_two_processes_see_the_small_views_of_one(source):
    whole = first(source, small_views=2)["small_views"]
    parts = []
    for rank in (0, 1):
        loader = Loader(
            source, batch_size=3, image_size=56, small_views=2, rank=rank, world_size=2, mean=(0.0,) * 3, std=(1.0,) * 3
        )
        parts.append(next(iter(loader))["small_views"])
    assert torch.equal(torch.cat(parts, 1).sort(1).values, whole.sort(1).values)


def test_the_preset_of_swav():
    swav = PRESETS["swav"]
    assert (swav.crop, swav.flip, swav.grey, swav.jitter) == ((0.14, 1.0), 0.5, 0.2, (0.8, 0.8, 0.8, 0.2))
