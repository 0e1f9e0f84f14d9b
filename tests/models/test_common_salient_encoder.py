"""Two encoders in one model: their spaces apart and together, saved and loaded."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

import nearfar
from nearfar.errors import UserError
from nearfar.models import CommonSalientEncoder, common_salient, image_encoder

SMALL = {"layers": 2, "hidden": 12, "out": 6, "norm": "hidden"}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return common_salient(preset="micro-resnet", projector=SMALL).eval()


@pytest.fixture
def pixels():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_two_have_weights_of_their_own(model):
    for (name, one), (_, other) in zip(model.common.named_parameters(), model.salient.named_parameters(), strict=True):
        assert one is not other
        if one.ndim > 1:
            assert not torch.equal(one, other), name


def test_what_is_embedded_is_what_output_says(model, pixels):
    common, salient = model.common.encode_image(pixels), model.salient.encode_image(pixels)
    assert torch.equal(model.encode_image(pixels), torch.cat([common, salient], 1))
    assert model.embed_dim == 256
    for output, expected in (("common", common), ("salient", salient)):
        model.output = output
        assert torch.equal(model.encode_image(pixels), expected)
        assert model.embed_dim == 128
    assert model(pixels).norm(dim=1).tolist() == pytest.approx([1, 1, 1])


def test_salience_is_the_squared_length_of_the_salient_head(model, pixels):
    head = model.salient.project_image(pixels)
    torch.testing.assert_close(model.salience(pixels), head.square().sum(1))
    heads = model.project(pixels)
    assert torch.equal(heads[0], model.common.project_image(pixels))
    assert torch.equal(heads[1], head)


def test_saved_and_loaded_it_is_the_same(model, pixels, tmp_path):
    model.output = "salient"
    model.save_pretrained(tmp_path)
    loaded = nearfar.load(tmp_path)
    assert isinstance(loaded, CommonSalientEncoder)
    assert loaded.output == "salient"
    assert torch.equal(loaded.encode_image(pixels), model.encode_image(pixels))
    assert torch.equal(loaded.salience(pixels), model.salience(pixels))
    assert "README.md" in {path.name for path in tmp_path.iterdir()}


def test_pictures_of_another_size(model):
    model.resize_images(64)
    assert model.image_size == model.salient.image_size == 64


def test_what_does_not_fit_is_named():
    with pytest.raises(UserError, match="output='sad': choose both, common or salient"):
        common_salient("sad", preset="micro-resnet")
    with pytest.raises(UserError, match="read pictures differently"):
        CommonSalientEncoder(image_encoder("micro-resnet"), image_encoder("tiny-resnet"))


def test_pictures_are_prepared_alike_for_both(model):
    model.pixels = replace(model.pixels, mean=(0.1, 0.2, 0.3))
    assert model.common.pixels == model.salient.pixels == model.pixels
    assert model.mean == (0.1, 0.2, 0.3)
    model.resize_images(64)
    assert (model.image_size, model.common.image_size, model.salient.image_size) == (64, 64, 64)
    white = Image.new("RGB", (80, 80), "white")
    assert torch.equal(model.preprocess([white]), model.common.preprocess([white]))
