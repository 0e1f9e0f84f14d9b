from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar.errors import UserError
from nearfar.models.towers.pixels import CLIP, Pixels
from nearfar.models.towers.processors import from_processor


def noise(width, height, mode="RGB"):
    channels = len(mode)
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values.squeeze() if channels == 1 else values, mode)


@pytest.mark.parametrize("size", [(50, 30), (30, 50), (32, 32), (17, 90)])
def test_crop_equals_the_clip_processor(size):
    from transformers import CLIPImageProcessorPil

    theirs = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    ours = Pixels(32, *CLIP)
    picture = noise(*size)
    expected = torch.as_tensor(np.asarray(theirs(picture, return_tensors="np")["pixel_values"]))
    torch.testing.assert_close(ours([picture]), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", ["CLIPImageProcessorPil", "SiglipImageProcessorPil", "ViTImageProcessorPil"])
def test_from_processor_does_what_the_processor_does(name):
    import transformers

    theirs = getattr(transformers, name)()
    size = theirs.size.get("height") or theirs.size["shortest_edge"]
    ours = from_processor(theirs.to_dict(), int(size))
    picture = noise(120, 80)
    expected = torch.as_tensor(np.asarray(theirs(picture, return_tensors="np")["pixel_values"]))
    torch.testing.assert_close(ours([picture]), expected, atol=2e-6, rtol=0)


def test_enlargement_before_the_crop_keeps_its_share():
    processor = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}
    assert from_processor(processor, 224).resize == 256
    assert from_processor(processor, 112).resize == 128


def test_transparency_is_white_and_pad_adds_white():
    assert torch.equal(Pixels(8)([Image.new("RGBA", (8, 8), (0, 0, 0, 0))]), torch.ones(1, 3, 8, 8))
    palette = Image.new("P", (8, 8), 0)
    palette.info["transparency"] = 0
    assert torch.equal(Pixels(8)([palette]), torch.ones(1, 3, 8, 8))
    padded = Pixels(8, fit="pad")([Image.new("RGB", (8, 4), "black")])
    assert padded[0, 0, 0, 0] == 1
    assert padded[0, 0, 4, 4] == -1


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "I;16", "LA", "HSV"])
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_every_mode_and_extreme_shape_gives_pixels(mode, fit):
    pixels = Pixels(8, fit=fit)([Image.new(mode, (300, 1)), Image.new(mode, (1, 1))])
    assert pixels.shape == (2, 3, 8, 8)
    assert pixels.isfinite().all()


def test_sixteen_bit_shades_are_scaled():
    picture = Image.fromarray(np.full((8, 8), 32896, dtype=np.uint16))  # 128 of 255
    torch.testing.assert_close(Pixels(8)([picture]), torch.full((1, 3, 8, 8), 128 / 255 * 2 - 1))


def test_exif_rotation_is_applied():
    picture = noise(8, 8)
    turned = picture.rotate(90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    import io

    buffer = io.BytesIO()
    turned.save(buffer, "PNG", exif=exif)
    assert torch.equal(Pixels(8)([Image.open(buffer)]), Pixels(8)([picture]))


def test_no_pictures_and_bad_settings():
    assert Pixels(8)([]).shape == (0, 3, 8, 8)
    for settings, words in (
        ({"fit": "stretch"}, "fit='stretch': choose"),
        ({"resample": "cubic"}, "resample='cubic': choose"),
        ({"mean": (0.5,)}, r"mean=\(0.5,\): three numbers"),
        ({"std": (0.0, 1, 1)}, r"std=\(0.0, 1.0, 1.0\): three numbers"),
    ):
        with pytest.raises(UserError, match=words):
            Pixels(8, **settings)


@pytest.mark.parametrize(
    ("values", "shade"),
    [
        (np.full((8, 8), 32896, np.int32), 128),
        (np.full((8, 8), 0.5, np.float32), 128),
        (np.full((8, 8), 128, np.float32), 128),
        (np.full((8, 8), 32896, np.uint16), 128),
    ],
)
def test_deep_pictures_are_scaled_as_a_loader_scales_them(values, shade):
    from nearfar.data import load_image

    picture = Image.fromarray(values)
    pixels = Pixels(8, mean=(0, 0, 0), std=(1, 1, 1))([picture])
    assert load_image(picture).getpixel((0, 0)) == (shade,) * 3
    torch.testing.assert_close(pixels, torch.full((1, 3, 8, 8), shade / 255))


def test_a_strip_is_cropped_before_it_is_scaled(monkeypatch):
    """A file of a few hundred bytes must not become gigabytes of pixels that are cropped away."""
    scaled, resize = [], Image.Image.resize

    def noted(self, size, *args, **options):
        scaled.append(size)
        return resize(self, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", noted)
    strip = np.zeros((1, 6000, 3), dtype=np.uint8)
    strip[:, 2996:3004] = 255  # white in its very middle, of which one pixel becomes the square
    for picture in (Image.fromarray(strip), Image.fromarray(strip.swapaxes(0, 1))):
        assert (Pixels(8, mean=(0.0,) * 3, std=(1.0,) * 3)([picture]) == 1).all()
    assert max(width * height for width, height in scaled) <= 64 * 8 * 8
