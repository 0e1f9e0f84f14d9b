"""Views: the geometry is what it says, colours are what the reference formulas give, chance is reproducible."""

import colorsys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.data.pictures import colour
from nearfar.data.pictures import view_geometry as geometry
from nearfar.data.pictures.views import PRESETS, ViewPreset, Views


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def coordinates(width, height):
    """A picture whose red is its x and whose green is its y, from 0 to 1 over pixel centres."""
    x = (torch.arange(width) / width).expand(height, width)
    y = (torch.arange(height) / height)[:, None].expand(height, width)
    return torch.stack([x, y, torch.zeros(height, width)])


@pytest.mark.parametrize("name", ["none", "clip", "align", "moco", "beclr", "albef"])
def test_geometry_takes_source_pixels_to_view_pixels(name):
    preset = replace(PRESETS[name], jitter=None, grey=0, blur=(0.0,))
    if preset.randaugment:  # only what moves pixels
        preset = replace(preset, randaugment=(3, 7))
    views = Views(preset, size=64, n_views=2)
    views._colour = lambda pixels, *_: pixels
    source = coordinates(views.canvas, views.canvas).expand(16, -1, -1, -1)
    pixels, matrices = views(source, views.draw(16, generator()))
    back = torch.linalg.inv(matrices)
    for _ in range(200):
        v, b, y, x = (int(torch.randint(n, (), generator=generator(_ * 7 + k))) for k, n in enumerate((2, 16, 64, 64)))
        place = back[v, b] @ torch.tensor([float(x), float(y), 1])
        assert place[2] == pytest.approx(1)
        if ((place[:2] < 1) | (place[:2] > views.canvas - 2)).any():
            continue  # the edge, where there is ground or a repeated pixel
        assert torch.allclose(pixels[v, b, :2, y, x] * views.canvas, place[:2], atol=0.02)


@pytest.mark.parametrize("name", ["none", "clip", "simclr"])
def test_geometry_is_in_pixels_of_the_original(name):
    """A 90 x 60 original on a canvas; the corners of the canvas must be where the loader cut or squashed it."""
    views = Views(replace(PRESETS[name], crop=None, flip=0.0, jitter=None, grey=0.0, blur=(0.0,)), size=32)
    canvas = torch.zeros(1, 3, views.canvas, views.canvas)
    _, matrices = views(canvas, views.draw(1, generator()), sizes=torch.tensor([[90, 60]]))
    left, right = (15, 75) if views.preset.fit == "crop" else (0, 90)
    for x, y, view_x, view_y in [(left - 0.5, -0.5, -0.5, -0.5), (right - 0.5, 59.5, 31.5, 31.5)]:
        assert torch.allclose(
            matrices[0, 0] @ torch.tensor([x, y, 1.0]), torch.tensor([view_x, view_y, 1.0]), atol=1e-4
        )


def test_a_flip_is_a_mirror():
    views = Views(ViewPreset(flip=1.0), size=16)
    images = torch.rand(3, 3, 16, 16)
    pixels, matrices = views(images, views.draw(3, generator()))
    assert torch.allclose(pixels[0], images.flip(-1), atol=1e-5)
    assert torch.allclose(matrices[0, 0] @ torch.tensor([0.0, 5.0, 1.0]), torch.tensor([15.0, 5.0, 1.0]), atol=1e-4)


def test_align_cuts_a_window_without_interpolation():
    views = Views("align", size=289)
    assert views.canvas == 346
    images = torch.randint(0, 256, (4, 3, 346, 346), dtype=torch.uint8)
    pixels, matrices = views(images, views.draw(4, generator()))
    for view, image, matrix in zip(pixels[0], images, matrices[0], strict=True):
        left, top, _ = (torch.linalg.inv(matrix) @ torch.tensor([0.0, 0.0, 1.0])).round().int().tolist()
        flipped = bool(matrix[0, 0] < 0)
        left = left - 288 if flipped else left
        cut = image[:, top : top + 289, left : left + 289]
        assert torch.allclose(view * 255, (cut.flip(-1) if flipped else cut).float(), atol=0.1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4000), st.integers(1, 4000), st.floats(0.05, 0.95))
def test_random_boxes_lie_inside_with_area_and_aspect_asked_for(seed, width, height, low):
    draws = torch.rand(64, 2 * geometry.ATTEMPTS + 2, generator=generator(seed))
    sizes = torch.tensor([[width, height]]).float().expand(64, 2)
    left, top, w, h = geometry.random_box(draws, sizes, (low, 1.0), (3 / 4, 4 / 3)).unbind(1)
    assert torch.stack([left, top]).min() >= 0
    assert torch.stack([left + w, top + h]).max() <= 1 + 1e-5
    aspect = w * width / (h * height)
    assert 3 / 4 - 1e-3 <= aspect.min() <= aspect.max() <= 4 / 3 + 1e-3
    if 3 / 4 <= width / height <= 4 / 3:
        assert (w * h >= low - 1e-4).all()


def test_areas_are_spread_as_asked():
    draws = torch.rand(20_000, 2 * geometry.ATTEMPTS + 2, generator=generator())
    boxes = geometry.random_box(draws, torch.ones(20_000, 2), (0.1, 0.3), (3 / 4, 4 / 3))
    area = boxes[:, 2] * boxes[:, 3]
    assert float(area.mean()) == pytest.approx(0.2, abs=0.003)
    assert float(boxes[:, 0].mean() + boxes[:, 2].mean() / 2) == pytest.approx(0.5, abs=0.01)


def test_hue_is_that_of_the_standard_library():
    images = torch.rand(5, 3, 4, 4, generator=generator())
    turn = torch.tensor([0.0, 0.1, -0.2, 0.5, -0.5])
    turned = colour.hue_(images.clone(), turn)
    for b in range(5):
        for y in range(4):
            h, s, v = colorsys.rgb_to_hsv(*images[b, :, y, 0].tolist())
            expected = colorsys.hsv_to_rgb((h + float(turn[b])) % 1, s, v)
            assert turned[b, :, y, 0].tolist() == pytest.approx(expected, abs=1e-5)


def test_colours_are_those_of_pillow():
    from PIL import Image, ImageEnhance, ImageOps

    array = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image, tensor = Image.fromarray(array), torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255
    for change, enhancer in [
        (colour.brightness_, ImageEnhance.Brightness),
        (colour.contrast_, ImageEnhance.Contrast),
        (colour.saturation_, ImageEnhance.Color),
    ]:
        for factor in (0.3, 1.0, 1.7):
            ours = change(tensor.clone(), torch.tensor([factor]))[0].permute(1, 2, 0) * 255
            assert np.abs(ours.numpy() - np.asarray(enhancer(image).enhance(factor), np.float32)).max() < 2.5
    dull = image.point(lambda value: 60 + value // 4)
    ours = colour.autocontrast(torch.from_numpy(np.array(dull)).permute(2, 0, 1)[None] / 255)
    theirs = np.asarray(ImageOps.autocontrast(dull), np.float32)
    assert np.abs(ours[0].permute(1, 2, 0).numpy() * 255 - theirs).max() < 1.5
    negative = np.asarray(ImageOps.solarize(image, 128), np.float32)
    assert np.abs(colour.solarise(tensor)[0].permute(1, 2, 0).numpy() * 255 - negative).max() < 1e-3


def test_grey_of_one_colour_survives_autocontrast():
    assert torch.equal(colour.autocontrast(torch.full((1, 3, 4, 4), 0.3)), torch.full((1, 3, 4, 4), 0.3))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_gives_sane_normalised_views(name):
    views = Views(name, size=24, n_views=2, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
    images = torch.randint(0, 256, (32, 3, views.canvas, views.canvas), dtype=torch.uint8, generator=generator())
    before = images.clone()
    pixels, matrices = views(images, views.draw(32, generator()))
    assert pixels.shape == (2, 32, 3, 24, 24)
    assert matrices.shape == (2, 32, 3, 3)
    assert pixels.dtype == torch.float32
    assert torch.equal(images, before)
    colours = pixels * torch.tensor([0.5, 0.25, 0.2])[:, None, None] + torch.tensor([0.5, 0.4, 0.3])[:, None, None]
    assert -1e-4 <= float(colours.min()) <= float(colours.max()) <= 1 + 1e-4
    assert torch.equal(pixels[0], pixels[1]) == (name in ("none", "mirror"))


def test_floats_are_not_changed_and_none_only_normalises():
    images = torch.rand(2, 3, 16, 16)
    before = images.clone()
    pixels, _ = Views("none", size=16, mean=(0.5,) * 3, std=(0.5,) * 3)(
        images, Views("none", size=16).draw(2, generator())
    )
    assert torch.equal(images, before)
    assert torch.allclose(pixels[0], images * 2 - 1)
    whole = Views("simclr", size=16)
    whole(images, whole.draw(2, generator()))
    assert torch.equal(images, before)


def test_the_same_draws_give_the_same_views_and_parts_give_parts():
    views = Views("tcl", size=24, n_views=2)
    images = torch.randint(0, 256, (8, 3, views.canvas, views.canvas), dtype=torch.uint8)
    draws = views.draw(8, generator(3))
    state = torch.get_rng_state()
    whole, matrices = views(images, draws)
    assert torch.equal(state, torch.get_rng_state())
    again, _ = views(images, views.draw(8, generator(3)))
    assert torch.equal(whole, again)
    half, half_matrices = views(images[4:], draws.rows(4, 8))
    assert torch.allclose(whole[:, 4:], half, atol=1e-6)
    assert torch.allclose(matrices[:, 4:], half_matrices)
    other, _ = views(images, views.draw(8, generator(4)))
    assert not torch.equal(whole, other)


def test_upturned_pictures_stand_on_their_heads_whether_mirrored_or_not():
    """A quarter each of the four ways, by one number of the draw."""
    picture = torch.arange(4.0).view(1, 1, 2, 2).expand(400, 3, 2, 2) / 4
    for flip, shares in ((0.5, [0.25] * 4), (0.0, [0.5, 0.0, 0.5, 0.0])):
        views = Views(ViewPreset(flip=flip, upturn=0.5, fit="crop"), size=2)
        pixels, _ = views(picture, views.draw(400, generator()))
        ways = [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]
        each = pixels[0, :, 0].flatten(1).mul(4).round().int().tolist()
        assert [each.count(way) / 400 for way in ways] == pytest.approx(shares, abs=0.06)


def test_byol_views_differ_in_kind():
    """The first view is always blurred and never solarised, the second rarely blurred."""
    preset = replace(PRESETS["byol"], crop=None, flip=0.0, jitter=None, grey=0.0, sigma=(0.5, 2.0), canvas=1.0)
    views = Views(preset, size=24, n_views=2)
    images = torch.rand(64, 3, 24, 24, generator=generator())
    pixels, _ = views(images, views.draw(64, generator(1)))
    changed = [(~torch.isclose(view, images, atol=1e-4)).flatten(1).any(1).float().mean() for view in pixels]
    assert changed[0] == 1
    assert changed[1] < 0.6


def test_wrong_settings_are_explained():
    with pytest.raises(ValueError, match="There are: none, mirror, clip"):
        Views("simlcr", size=8)
    with pytest.raises(ValueError, match="at least 1"):
        Views("clip", size=8, n_views=0)


@pytest.mark.parametrize("name", ["clip", "albef"])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float64])
def test_pictures_sampled_a_few_at_a_time_are_the_same_to_the_bit(name, kind, monkeypatch):
    views = Views(name, size=8)
    pictures = torch.randint(0, 256, (7, 3, views.canvas, views.canvas), dtype=torch.uint8, generator=generator())
    pictures = pictures if kind == torch.uint8 else pictures.to(kind) / 255
    draws = views.draw(7, generator(1))
    expected = views(pictures, draws)
    monkeypatch.setattr(geometry, "AT_A_TIME", 2 * pictures[0].numel())
    for made, before in zip(views(pictures, draws), expected, strict=True):
        assert torch.equal(made, before)
