"""Every family of transformers with features of pictures and of texts: the same numbers here, or a sentence."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image

import nearfar
from models.dual_families import REFUSED, WORK
from nearfar.errors import UserError
from nearfar.models.towers import naflex

TEXTS = ["a red fox", "the ship at sea runs", "cat"]


def own_features(theirs, tokenizer, pixels):
    """As the model's own processor would have it called."""
    padding = {"padding": "max_length", "max_length": 16} if "Siglip" in type(theirs).__name__ else {"padding": True}
    tokens = dict(tokenizer(TEXTS, return_tensors="pt", **padding))
    if "Siglip" in type(theirs).__name__:
        tokens.pop("attention_mask")
    tokens.pop("token_type_ids", None)
    pictures = {"pixel_values": pixels}
    if naflex.is_naflex(theirs.vision_model):
        pictures = naflex.inputs(pixels, 8)
    with torch.no_grad():
        actual = theirs.get_image_features(**pictures), theirs.get_text_features(**tokens)
    return tuple(getattr(each, "pooler_output", each) for each in actual)


def snapshot(model):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        {name: p.requires_grad for name, p in model.named_parameters()},
        [module.training for module in model.modules()],
        copy.deepcopy(model.config.to_dict()),
    )


@pytest.mark.parametrize("family", WORK)
def test_embeddings_are_the_models_own_features(family, tokenizer, end_is_last, tmp_path):
    tokenizer = end_is_last if family.startswith("OWL") else tokenizer
    theirs = WORK[family]().eval()
    weights, grads, modes, config = snapshot(theirs)
    ours = nearfar.load(theirs, tokenizer=tokenizer)
    pixels = torch.randn(2, 3, 32, 32)
    image, text = own_features(theirs, tokenizer, pixels)
    tokens = ours.tokenize(TEXTS)
    torch.testing.assert_close(ours.encode_image(pixels), image, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.encode_text(tokens), text, atol=1e-5, rtol=1e-5)

    ours.freeze("image").save_pretrained(tmp_path)
    again = nearfar.load(tmp_path)
    assert torch.equal(again.encode_image(pixels), ours.encode_image(pixels))
    assert torch.equal(again.encode_text(tokens), ours.encode_text(tokens))

    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(1.0)
    now = snapshot(theirs)
    assert all(torch.equal(now[0][name], value) for name, value in weights.items())
    assert now[1:] == (grads, modes, config)


@pytest.mark.parametrize("family", REFUSED)
def test_other_models_are_refused_in_a_sentence(family, tokenizer):
    make, sentence = REFUSED[family]
    with pytest.raises(UserError, match=sentence):
        nearfar.load(make().eval(), tokenizer=tokenizer)


SQUARE = {"size": {"height": 32, "width": 32}}
PROCESSORS = {
    "CLIP": ("CLIP", {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}),
    "SigLIP": ("Siglip", SQUARE),
    "SigLIP 2": ("Siglip2", {"patch_size": 8, "max_num_patches": 16}),
    "ALIGN": ("EfficientNet", {**SQUARE, "rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False}),
    "ChineseCLIP": ("ChineseCLIP", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}),
    "BLIP": ("Blip", SQUARE),
}


@pytest.mark.parametrize("family", PROCESSORS)
def test_a_folder_gives_what_its_own_processor_and_model_give_for_a_file(family, tokenizer, tmp_path):
    import transformers

    kind, settings = PROCESSORS[family]
    theirs = WORK[family]().eval()
    processor = getattr(transformers, f"{kind}ImageProcessorPil")(**settings)
    for part in (theirs, processor, tokenizer):
        part.save_pretrained(tmp_path)
    ours = nearfar.load(tmp_path)
    for size in [(50, 30), (20, 70), (32, 32)]:
        values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        picture = Image.fromarray(values)
        with torch.no_grad():
            features = theirs.get_image_features(**processor(picture, return_tensors="pt"))
        expected = getattr(features, "pooler_output", features)
        torch.testing.assert_close(ours.encode_image(ours.preprocess([picture])), expected, atol=1e-4, rtol=1e-4)


def test_a_tokenizer_that_pads_on_the_left_is_named(tokenizer):
    """Texts of a fixed length are read with their padding: on the other side they are others."""
    left = copy.deepcopy(tokenizer)
    left.padding_side = "left"
    with pytest.raises(UserError, match=r"pads on the left: set tokenizer\.padding_side = 'right'"):
        nearfar.load(WORK["SigLIP 2"]().eval(), tokenizer=left)


def test_naflex_trains_on_square_views_and_reads_pictures_of_any_shape(tokenizer, tmp_path):
    ours = nearfar.load(WORK["SigLIP 2"]().eval(), tokenizer=tokenizer)
    assert ours.image_size == 32
    wide, square = Image.new("RGB", (90, 20), "red"), Image.new("RGB", (40, 40), "red")
    pixels = ours.preprocess([wide, square])
    assert pixels.shape == (2, 16, 8 * 8 * 3 + 2)
    assert pixels[:, 0, -2:].tolist() == [[2, 8], [4, 4]]  # of at most 16 patches
    together = ours.encode_image(pixels)
    alone = torch.cat([ours.encode_image(ours.preprocess([picture])) for picture in (wide, square)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    views = torch.full((1, 3, 32, 32), -1.0)
    views[:, 0] = 1.0
    torch.testing.assert_close(ours.encode_image(views), together[1:], atol=1e-5, rtol=1e-5)
    ours.resize_images(48)
    assert ours.preprocess([wide]).shape == (1, 36, 8 * 8 * 3 + 2)
    ours.save_pretrained(tmp_path)
    assert torch.equal(nearfar.load(tmp_path).preprocess([wide]), ours.preprocess([wide]))
