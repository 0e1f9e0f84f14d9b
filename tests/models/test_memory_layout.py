"""Pixels lie channels last for convolutional towers on a CPU; numbers, weights and files are the same."""

import copy

import pytest
import torch

from nearfar.models import image_encoder, load


@pytest.mark.parametrize(
    ("preset", "expected"), [("micro-resnet", True), ("resnet50", True), ("tiny", False), ("tiny-vit", False)]
)
def test_resnets_prefer_it_and_transformers_and_depthwise_convolutions_do_not(preset, expected):
    assert image_encoder(preset).image.channels_last is expected


def both(preset="micro-resnet"):
    """One encoder with its own layout, and one with the layout of its input."""
    torch.manual_seed(0)
    own = image_encoder(preset, projector={"hidden": 16, "out": 8})
    plain = copy.deepcopy(own)
    plain.image.channels_last = False
    return own, plain


def test_the_numbers_are_equal_to_rounding_and_so_are_the_gradients():
    own, plain = both()
    pixels = torch.randn(6, 3, 32, 32)
    for training in (True, False):
        made = [model.train(training).project_image(pixels) for model in (own, plain)]
        torch.testing.assert_close(*made, rtol=1e-4, atol=1e-5)
        maps = [model.encode_image_map(pixels) for model in (own, plain)]
        torch.testing.assert_close(*maps, rtol=1e-4, atol=1e-5)
        for z in made:
            z.square().sum().backward()
    gradients = zip(own.named_parameters(), plain.parameters(), strict=True)
    for (name, one), other in gradients:
        scale = other.grad.abs().max().item() + 1e-12
        torch.testing.assert_close(one.grad / scale, other.grad / scale, rtol=0, atol=1e-4, msg=name)


def test_the_layers_see_channels_last_and_the_weights_stay_as_they_are(tmp_path):
    model, plain = both()
    layouts = []
    for part in model.image.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.register_forward_hook(
                lambda _, inputs, out: layouts.append(out.is_contiguous(memory_format=torch.channels_last))
            )
    pixels = torch.randn(4, 3, 32, 32)
    model.project_image(pixels).sum().backward()
    assert layouts
    assert all(layouts)
    assert pixels.is_contiguous(), "the batch itself is left alone"
    assert all(p.is_contiguous() and p.grad.is_contiguous() for p in model.parameters())
    model.eval().save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert loaded.image.channels_last
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert list(plain.state_dict()) == list(loaded.state_dict()), "no name more than before"
