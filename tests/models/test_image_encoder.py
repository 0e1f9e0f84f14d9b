"""Models that read pictures alone: the tower's features and their projection, saved and loaded, from every door."""

import pytest
import torch
from PIL import Image
from torch import nn

import nearfar
from nearfar.errors import UserError
from nearfar.models import ImageEncoder, image_encoder
from nearfar.models.image.projector import MLP, PROJECTORS

VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4}
SMALL = {"layers": 2, "hidden": 12, "out": 6, "norm": "hidden"}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return image_encoder("micro-resnet", projector=SMALL)


def test_the_size_of_pictures_is_the_processors(tmp_path):
    """DINOv2's config names 518 pixels, and its processor gives 224: so does `load`, as its own library does."""
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=56, patch_size=14)
    network = Dinov2Model(config).eval()
    processor = BitImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28})
    for part in (network, processor):
        part.save_pretrained(tmp_path)
    ours = nearfar.load(tmp_path)
    picture = Image.new("RGB", (60, 40), "red")
    with torch.no_grad():
        theirs = network(processor(picture, return_tensors="pt")["pixel_values"]).pooler_output
        torch.testing.assert_close(ours.encode_image(ours.preprocess([picture])), theirs)
    assert (ours.image_size, image_encoder(image=str(tmp_path), image_size=56).image_size) == (28, 56)


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def kinds(network):
    return [type(part).__name__ + str(getattr(part, "out_features", "")) for part in network]


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("simclr", ["Linear2048", "ReLU", "Linear128"]),
        ("moco", ["Linear2048", "ReLU", "Linear128"]),
        ("byol", ["Linear4096", "BatchNorm1d", "ReLU", "Linear256"]),
        ("simsiam", ["Linear2048", "BatchNorm1d", "ReLU"] * 2 + ["Linear2048", "BatchNorm1d"]),
        ("supcon", ["Linear2048", "ReLU", "Linear128"]),
        ("hydra", ["Linear2048", "BatchNorm1d", "ReLU", "Linear256", "LayerNorm"]),
    ],
)
def test_projectors_are_the_papers(name, layers):
    made = MLP(64, **PROJECTORS[name]).network
    assert kinds(made) == layers
    for linear, after in zip(made, [*made[1:], None], strict=True):
        if isinstance(linear, nn.Linear):
            assert (linear.bias is None) == isinstance(after, nn.BatchNorm1d | nn.LayerNorm)


def test_features_are_embedded_and_the_projection_is_trained(model, pixels):
    model.eval()
    features = model.image(pixels)[:, 0]
    assert torch.equal(model.encode_image(pixels), features)
    assert torch.equal(model.project_image(pixels), model.projector(features))
    assert (model.embed_dim, model.projected_dim) == (128, 6)
    assert model(pixels).norm(dim=1).tolist() == pytest.approx([1, 1, 1])


def test_the_projection_is_embedded_where_that_is_said(pixels):
    model = image_encoder("micro-resnet", projector=SMALL, output="projection").eval()
    assert model.embed_dim == 6
    assert torch.equal(model.encode_image(pixels), model.project_image(pixels))
    cells = model.encode_image_map(pixels)
    assert cells.shape == (3, 6, 2, 2)
    grid = model.image.encode_image_map(pixels)
    torch.testing.assert_close(cells[:, :, 1, 0], model.projector(grid[:, :, 1, 0]))


def test_without_a_projector_the_projection_is_the_features(pixels):
    model = image_encoder(image=VIT, image_size=32).eval()
    assert model.embed_dim == model.projected_dim == 16
    assert torch.equal(model.project_image(pixels), model.encode_image(pixels))


def test_a_batch_norm_of_one_sample_is_a_sentence(model, pixels):
    with pytest.raises(UserError, match="batch norm in training needs two samples at least"):
        model.train().project_image(pixels[:1])
    assert model.eval().project_image(pixels[:1]).shape == (1, 6)


@pytest.mark.parametrize("output", ["features", "projection"])
def test_it_is_saved_and_loaded_bit_by_bit(output, pixels, tmp_path):
    model = image_encoder("micro-resnet", projector=SMALL, output=output)
    model.project_image(pixels)  # moves the running statistics
    model.eval().save_pretrained(tmp_path)
    again = nearfar.load(tmp_path)
    assert (type(again), again.output, again.settings, again.training) == (ImageEncoder, output, SMALL, False)
    assert torch.equal(again.encode_image(pixels), model.encode_image(pixels))
    assert torch.equal(again.project_image(pixels), model.project_image(pixels))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    page = (tmp_path / "README.md").read_text()
    assert "Pictures as vectors of" in page
    assert "nearfar search --image car.png --index index" in page


def test_pictures_of_another_size(model):
    model.resize_images(64)
    assert model.preprocess([Image.new("RGB", (9, 20))]).shape == (1, 3, 64, 64)
    assert model.image.patches == 16


def test_a_pretrained_tower_and_folders_of_transformers(tmp_path):
    from transformers import ViTConfig, ViTModel

    lite = nearfar.load("efficientnet-lite0")
    assert (type(lite), lite.embed_dim, lite.training) == (ImageEncoder, 1280, False)
    shape = {name: value for name, value in VIT.items() if name != "model_type"}
    theirs = ViTModel(ViTConfig(image_size=8, intermediate_size=32, **shape)).eval()
    theirs.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = theirs(pixel_values=pixels).last_hidden_state[:, 0]
        for model in (nearfar.load(tmp_path), nearfar.load(theirs)):
            assert (type(model), model.image_size, model.training) == (ImageEncoder, 8, False)
            torch.testing.assert_close(model.encode_image(pixels), expected)
    assert nearfar.load(theirs).image.backbone is not theirs, "a copy: the instance stays as it is"


def test_it_carries_nothing_of_texts(model):
    assert not [name for name in ("tokenizer", "tokenize", "encode_text", "max_length") if hasattr(model, name)]
    assert model.encode([Image.new("RGB", (9, 9), "red")]).shape == (1, 128)
    with pytest.raises(UserError, match="input 1 is a text, and a ImageEncoder reads pictures alone"):
        model.encode([Image.new("RGB", (9, 9)), "a red square"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "tiny-resnt"}, "no preset 'tiny-resnt'. Did you mean 'tiny-resnet'"),
        ({}, "needs a preset"),
        ({"preset": "micro-resnet", "projector": "simclear"}, "no projector 'simclear'. Did you mean 'simclr'"),
        ({"preset": "micro-resnet", "projector": {"width": 3}}, "no projector setting 'width'"),
        ({"preset": "micro-resnet", "projector": {"norm": "group"}}, "choose none, hidden, all, layer"),
        ({"preset": "micro-resnet", "projector": {"hidden": 0}}, "hidden=0"),
        ({"preset": "micro-resnet", "output": "both"}, "choose features or projection"),
        ({"preset": "micro-resnet", "image_size": 0}, "image_size=0"),
    ],
)
def test_what_is_no_setting_is_a_sentence(settings, message):
    with pytest.raises(UserError, match=message):
        image_encoder(**settings)


def test_pixels_of_another_shape_are_a_sentence(model):
    with pytest.raises(UserError, match=r"pixels are \[B, 3, 32, 32\] here .* channels come second"):
        model.encode_image(torch.zeros(2, 32, 32, 3))
