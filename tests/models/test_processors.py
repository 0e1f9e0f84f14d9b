"""Our pixels are those of the picture processors of transformers, whatever their settings, or they are refused."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nearfar.errors import UserError
from nearfar.models.towers.processors import as_pixels, read_processor


def picture(width, height):
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def assert_same_pixels(processor, *sizes):
    ours = as_pixels(processor)
    for size in sizes or [(50, 30), (30, 50), (20, 90)]:
        made = processor(picture(*size), return_tensors="np")
        theirs = torch.as_tensor(np.asarray(made["pixel_values"])).float()
        pixels = ours([picture(*size)])
        if ours.fit == "naflex":
            pixels = pixels[..., :-2]
        torch.testing.assert_close(pixels, theirs, atol=1e-5, rtol=1e-6)


KINDS = ["CLIP", "Siglip", "ViT", "DeiT", "EfficientNet", "ConvNext", "Bit", "Beit", "Blip", "ChineseCLIP", "Flava"]
KINDS += ["OwlViT", "Siglip2", "Pvt", "MobileNetV1", "MobileNetV2", "Levit"]


def make(kind, **options):
    import transformers

    return getattr(transformers, f"{kind}ImageProcessorPil")(**options)


@pytest.mark.parametrize("kind", KINDS)
def test_processors_as_they_come(kind):
    assert_same_pixels(make(kind))


def test_a_model_of_align_sees_minus_one_to_one():
    settings = {"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False, "include_top": False}
    processor = make("EfficientNet", size={"height": 32, "width": 32}, **settings)
    assert_same_pixels(processor)
    black_and_white = [Image.new("RGB", (9, 9), shade) for shade in ("black", "white")]
    pixels = as_pixels(processor)(black_and_white)
    torch.testing.assert_close(pixels, torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 32, 32))


@pytest.mark.parametrize(("edge", "crop_pct"), [(32, 0.875), (32, 0.5), (400, 0.875)])
def test_convnext_crops_below_384_pixels_and_squashes_from_there(edge, crop_pct):
    assert_same_pixels(make("ConvNext", size={"shortest_edge": edge}, crop_pct=crop_pct), (50, 30), (30, 70))


numbers = st.floats(0.05, 0.95)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "do_rescale": st.booleans(),
        "rescale_factor": st.sampled_from([1 / 255, 1 / 127.5, 0.01]),
        "rescale_offset": st.booleans(),
        "include_top": st.booleans(),
        "do_normalize": st.booleans(),
        "do_center_crop": st.booleans(),
        "do_resize": st.booleans(),
        "do_pad": st.booleans(),
        "do_convert_rgb": st.booleans(),
        "resample": st.integers(0, 5),
        "image_mean": st.lists(numbers, min_size=3, max_size=3),
        "image_std": st.lists(numbers, min_size=3, max_size=3),
        "crop_pct": numbers,
        "size": st.sampled_from(
            [
                {"height": 24, "width": 24},
                {"height": 24, "width": 20},
                {"shortest_edge": 24},
                {"shortest_edge": 16, "longest_edge": 30},
            ]
        ),
        "crop_size": st.sampled_from([{"height": 20, "width": 20}, {"height": 28, "width": 28}]),
    },
)
OF_ONE = {"rescale_offset": "EfficientNet", "include_top": "EfficientNet", "crop_pct": "ConvNext"}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS), OPTIONS)
def test_every_setting_is_honoured_or_refused(kind, options):
    options = {name: value for name, value in options.items() if OF_ONE.get(name, kind) == kind}
    processor = make(kind, **options)
    with contextlib.suppress(UserError):  # the sentences are below
        assert_same_pixels(processor)


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("CLIP", {"do_resize": False}, "resizes nothing"),
        ("CLIP", {"do_center_crop": False}, "no squares of one size"),
        ("ViT", {"size": {"height": 24, "width": 20}}, "no squares of one size"),
        ("ViT", {"do_pad": True, "pad_size": {"height": 30, "width": 30}}, "pads pictures"),
        ("PoolFormer", {}, "makes other pixels"),
    ],
)
def test_what_gives_no_square_pictures_is_refused(kind, options, sentence):
    with pytest.raises(UserError, match=sentence):
        as_pixels(make(kind, **options))


def test_a_folder_without_a_processor_and_one_that_cannot_be_read(tmp_path):
    assert read_processor(tmp_path) is None
    make("CLIP", size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    assert read_processor(tmp_path).resize == 40
    assert read_processor(tmp_path, 64).resize == 80
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "NoSuchImageProcessor"}')
    with pytest.raises(UserError, match="its picture processor cannot be made"):
        read_processor(tmp_path)


class TorchvisionBackend:
    """What those that work through torchvision are by name: without torchvision there are none."""

    def to_dict(self):
        return self.settings


def test_a_processor_that_works_through_torchvision_is_taken_by_its_twin_of_pillow():
    """Its resizing has other last digits, so that beside torchvision every processor of the usual name was refused.
    `tests/compare/test_torchvision.py` has the real ones."""
    twin = make("CLIP", size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
    settings = {**twin.to_dict(), "image_processor_type": "CLIPImageProcessor"}
    for name in ("CLIPImageProcessor", "CLIPImageProcessorFast"):
        assert as_pixels(type(name, (TorchvisionBackend,), {"settings": settings})()) == as_pixels(twin)
    with pytest.raises(UserError, match="OursImageProcessor fails on a plain picture"):
        as_pixels(type("OursImageProcessor", (TorchvisionBackend,), {"settings": settings})())
