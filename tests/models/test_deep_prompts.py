"""Prompts in both towers (MaPLe): what is replaced in which layer, and which models take them."""

import pytest
import torch

from models.prompted_pairs import BERT, NAMES, PAIRS, VIT, ours
from nearfar.errors import UserError
from nearfar.models import prompted_encoder
from nearfar.models.video.frame_messages import layers_of


def recorded(tower, run):
    """What each layer of a tower reads and gives."""
    read, gave = [], []

    def keep(module, inputs, named, output):
        read.append((inputs[0] if inputs else named["hidden_states"]).detach())
        gave.append((output[0] if isinstance(output, tuple) else output).detach())

    handles = [layer.register_forward_hook(keep, with_kwargs=True) for layer in layers_of(tower.backbone)]
    out = run()
    for handle in handles:
        handle.remove()
    return read, gave, out


@pytest.mark.parametrize("make", ["ours", "clip"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_layers_read_prompts_of_their_own(make, depth):
    model = prompted_encoder(PAIRS[make](), kind="maple", depth=depth)
    deep, width = model.deep, model.pair.image.width
    assert deep.vectors.shape == (depth - 1, 2, model.context.shape[1])
    assert len(deep.maps) == depth
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        read, _, embedding = recorded(model.pair.image, lambda: model.encode_image(pixels))
        plain, _, before = recorded(model.pair.image, lambda: model.pair.encode_image(pixels))
        for number, (own, other) in enumerate(zip(read, plain, strict=True)):
            assert own.shape[1] == other.shape[1] + 2
            if number == 0:
                torch.testing.assert_close(own[:, :-2], other)
            if 0 < number < depth:
                made = deep.maps[number](deep.vectors[number - 1])
                torch.testing.assert_close(own[:, -2:], made.expand(2, 2, width))
        assert embedding.shape == before.shape
        assert not torch.allclose(embedding, before, atol=1e-4)

        tokens = model.tokenize(NAMES)
        read, gave, _ = recorded(model.pair.text, lambda: model.encode_text(tokens))
        places = tokens["places"]
        for number, states in enumerate(read):
            at = states[torch.arange(3)[:, None], places]
            if 0 < number < depth:
                torch.testing.assert_close(at, deep.vectors[number - 1].expand_as(at))
            elif number:
                torch.testing.assert_close(states, gave[number - 1])  # goes on as it was


def test_in_clip_the_prompt_is_normalised_with_the_patches():
    model = prompted_encoder(PAIRS["clip"](), kind="maple", depth=1)
    with torch.no_grad():
        read, _, _ = recorded(model.pair.image, lambda: model.encode_image(torch.randn(1, 3, 16, 16)))
        norm = model.pair.image.backbone.pre_layrnorm
        torch.testing.assert_close(read[0][0, -2:], norm(model.deep.maps[0](model.context)))


@pytest.mark.parametrize("make", ["ours", "clip"])
def test_its_prompts_get_a_gradient_and_nothing_stays_behind(make):
    model = prompted_encoder(PAIRS[make](), kind="maple", depth=3).train()
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        before = model.pair.encode_image(pixels)
    (model.class_cosines(model.encode_image(pixels), model.tokenize(NAMES)) ** 2).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    with torch.no_grad():
        assert torch.equal(model.pair.encode_image(pixels), before)
    hooks = [hook for module in model.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]
    assert hooks == []
    assert model.frozen == ()


def test_depth_one_has_no_deep_prompts():
    """Oracle 10."""
    model = prompted_encoder(ours(), kind="maple", depth=1)
    assert model.deep.vectors.numel() == 0
    shallow = prompted_encoder(ours(), context=2)
    with torch.no_grad():
        torch.testing.assert_close(
            model.encode_text(model.tokenize(NAMES)), shallow.encode_text(shallow.tokenize(NAMES))
        )


def test_models_without_room_for_prompts_are_refused():
    convolutions = {"model_type": "convnext", "num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]}
    for settings, words in [
        ({"image": convolutions, "image_size": 32}, "the image tower is a ConvNext|an image tower with a class token"),
        ({"image": VIT, "depth": 4}, "depth is 4, and the towers have 3 layers of texts and 3 of pictures"),
        ({"text": BERT | {"num_hidden_layers": 1}, "depth": 2}, "1 layers of texts and 3 of pictures"),
        ({"depth": 0}, "depth is 0: prompts stand in one layer at least"),
    ]:
        depth = settings.pop("depth", 1)
        with pytest.raises(UserError, match=words):
            prompted_encoder(ours(**settings), kind="maple", depth=depth)
    with pytest.raises(UserError, match="this is a OpenClipEncoder: load the model by its transformers name"):
        prompted_encoder(PAIRS["open_clip"](), kind="maple", depth=1)
    with pytest.raises(UserError, match="an image tower with a class token, and SiglipVision"):
        prompted_encoder(PAIRS["siglip"](), kind="maple", depth=1)
    model = prompted_encoder(ours(), kind="maple", depth=1)
    with pytest.raises(UserError, match="train on pictures, not on what was computed ahead"):
        model.encode_image(torch.randn(2, 16))
