from __future__ import annotations

import pytest
import torch

from nearfar.models import PRESETS, DualEncoder, create

SCRATCH = [name for name in PRESETS if name != "towers"]


@pytest.mark.parametrize("name", SCRATCH)
def test_presets_embed_train_and_round_trip(name, tokenizer, tmp_path):
    model = create(name, tokenizer=tokenizer)
    size = PRESETS[name]["image_size"]
    pixels, tokens = torch.randn(2, 3, size, size), model.tokenize(["a red fox", "cat"])
    image, text = model(pixels, tokens)
    assert image.shape == text.shape == (2, PRESETS[name]["embed_dim"])
    (image * text).sum().backward()
    if "fusion" in name:
        image, states = model.image_tokens(pixels), model.text_tokens(tokens)
        read = tokens["attention_mask"].bool()
        words = model.masked_language_logits(tokens, image, read)
        (model.match(image, states, tokens["attention_mask"]).std() + words.std()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    model.eval().save_pretrained(tmp_path)
    assert torch.equal(DualEncoder.from_pretrained(tmp_path).encode_image(pixels), model.encode_image(pixels))


@pytest.mark.parametrize("name", ["tiny", "tiny-vit"])
def test_rows_do_not_depend_on_the_batch(name, tokenizer):
    """What gradient caching rests on: no statistic is shared between rows, in training mode too."""
    model = create(name, tokenizer=tokenizer)
    pixels = torch.randn(4, 3, 64, 64)
    together = model.encode_image(pixels)
    torch.testing.assert_close(torch.cat([model.encode_image(row[None]) for row in pixels]), together)


def test_arguments_go_before_the_preset(tokenizer):
    model = create("tiny", tokenizer=tokenizer, embed_dim=24, image_size=32, max_length=9, projection="mlp")
    assert (model.embed_dim, model.image_size, model.max_length) == (24, 32, 9)
    assert model.encode_image(torch.randn(1, 3, 32, 32)).shape == (1, 24)


def test_a_recipe_section_is_a_mapping(tokenizer):
    model = create({"preset": "tiny", "embed_dim": 24, "tokenizer": tokenizer})
    assert model.embed_dim == 24


def test_same_seed_same_model(tokenizer):
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(create("tiny", tokenizer=tokenizer).state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
