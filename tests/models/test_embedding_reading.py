"""A language model that reads the embedding of a dual encoder: of a picture, or of a text in its place."""

import json

import pytest
import torch
from torch.nn.functional import normalize

import nearfar
from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.models import create, vision_language_model

TEXTS = ["a red car", "two small dogs near a tree", "fish"]
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4}
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL = {"intermediate_size": 32}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 3, 300)


def pair_of(tokenizer, **settings):
    torch.manual_seed(0)
    towers = {"image": VIT | SMALL, "text": BERT | SMALL | {"max_position_embeddings": 32}, "image_size": 16}
    return create(**towers, tokenizer=tokenizer, embed_dim=8, **settings).eval()


@pytest.fixture(scope="module")
def pair(tokenizer):
    return pair_of(tokenizer)


def made(pair, tokenizer, **settings):
    torch.manual_seed(1)
    settings = {"read": "embedding", "tokens": 3, "projector": "linear", "tokenizer": tokenizer} | settings
    return vision_language_model(pair, "tiny", **settings).eval()


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_picture_is_read_as_its_unit_embedding(pair, tokenizer, pixels):
    model = made(pair, tokenizer)
    vector = normalize(pair.encode_image(pixels), dim=1)
    expected = (vector @ model.projector.weight.T + model.projector.bias).view(3, 3, 128)
    torch.testing.assert_close(model.picture_tokens(pixels), expected)
    assert torch.equal(model.picture_tokens(vector), model.picture_tokens(vector.clone()))
    torch.testing.assert_close(model.picture_tokens(vector), expected)
    assert model.picture_length == 3
    assert model.caption(pixels, max_tokens=4) == model.caption(vector, max_tokens=4)
    tokens = model.tokenize(TEXTS)
    torch.testing.assert_close(model.likelihoods(vector, tokens)[0], model.likelihoods(pixels, tokens)[0])


@pytest.mark.parametrize(
    "settings",
    [{}, {"image_projection": "mlp", "projection_dropout": 0.3}, {"image_heads": 2},
     {"image_projection": "linear-no-bias"}],
    ids=["linear", "mlp with dropout", "two heads", "no bias"],
)  # fmt: skip
def test_every_projection_of_the_encoder_is_copied_and_saved(settings, tokenizer, pixels, tmp_path):
    pair = pair_of(tokenizer, **settings)
    model = made(pair, tokenizer)
    with torch.no_grad():
        vector = normalize(pair.encode_image(pixels), dim=1)
        torch.testing.assert_close(model.picture_tokens(pixels), model.picture_tokens(vector))
    again = nearfar.load(model.save_pretrained(tmp_path / "model"))
    assert again.frozen == model.frozen == ("image", "head")
    tokens = model.tokenize(TEXTS)
    assert torch.equal(again.likelihoods(pixels, tokens)[0], model.likelihoods(pixels, tokens)[0])
    assert not any(name.startswith("text") for name in model.state_dict()), "what embeds texts is not among it"


def test_the_encoder_gets_no_gradient_and_stays_in_evaluation(pair, tokenizer, pixels):
    model = made(pair, tokenizer).train()
    assert not model.image.training
    assert not model.head.training
    model.likelihoods(pixels, model.tokenize(TEXTS)).log_likelihood.sum().backward()
    trained = {name.partition(".")[0] for name, weight in model.named_parameters() if weight.grad is not None}
    assert trained == {"projector", "lm"}
    assert all(weight.requires_grad for weight in pair.parameters()), "a copy is frozen"


def test_what_stands_beside_a_target_changes_nothing(pair, tokenizer, pixels):
    model = made(pair, tokenizer)
    score, there = model.likelihoods(pixels, model.tokenize(TEXTS), ["what?", "is it so?", ""])
    for row, (text, question) in enumerate(zip(TEXTS, ["what?", "is it so?", ""], strict=True)):
        alone, own = model.likelihoods(pixels[row : row + 1], model.tokenize([text]), [question])
        torch.testing.assert_close(score[row][there[row]], alone[own], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_summary_may_be_several_tokens_too(tokenizer, pixels):
    torch.manual_seed(0)
    settings = {"tokenizer": tokenizer, "image_size": 16, "read": "summary", "projector": "linear"}
    model = vision_language_model(VIT | SMALL, "tiny", tokens=2, **settings).eval()
    assert model.picture_tokens(pixels).shape == (3, 2, 128)
    summary = model.image(pixels)[:, 0]
    torch.testing.assert_close(model.picture_tokens(pixels).flatten(1), model.projector(summary))


def test_a_folder_a_name_and_low_rank_adapters_are_read_too(pair, tokenizer, pixels, tmp_path):
    folder = pair.save_pretrained(tmp_path / "pair")
    own, saved = made(pair, tokenizer), made(folder, tokenizer)
    saved.projector.load_state_dict(own.projector.state_dict())
    assert torch.equal(saved.picture_tokens(pixels), own.picture_tokens(pixels))
    adapted = pair_of(tokenizer).add_lora("image", rank=2)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora" in name.lower():
                weight.add_(0.05)
    vector = normalize(adapted.eval().encode_image(pixels), dim=1)
    model = made(adapted, tokenizer)
    torch.testing.assert_close(model.picture_tokens(pixels), model.picture_tokens(vector), rtol=1e-3, atol=1e-4)
    assert adapted.adapters, "the encoder stays as it is"


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"pool": 2}, "leave pool out"), ({"tokens": 0}, "tokens"), ({"read": "cells"}, "leave tokens out"),
     ({"projector": "none"}, "projector='none'")],
)  # fmt: skip
def test_settings_that_cannot_be_are_named(pair, tokenizer, settings, words):
    with pytest.raises(UserError, match=words):
        made(pair, tokenizer, **settings)


def test_what_is_no_trained_dual_encoder_is_named(pair, tokenizer):
    for image in ("tiny", "tiny-vit", VIT):
        with pytest.raises(UserError, match="is of a trained dual encoder"):
            made(image, tokenizer)
    with pytest.raises(UserError, match="pair is a LanguageModel: read='embedding' is of a dual encoder"):
        made(nearfar.models.language.language_model("tiny", tokenizer=tokenizer), tokenizer)
    model = made(pair, tokenizer)
    with pytest.raises(UserError, match="go together"):
        type(model)(model.image, model.lm, tokenizer=tokenizer, pixels=model.pixels, read="embedding")


@pytest.mark.parametrize("space", [None, {"embed_dim": 8}, {"image_projection": "linear", "embed_dim": -1}])
def test_a_damaged_folder_is_named(pair, tokenizer, tmp_path, space):
    file = made(pair, tokenizer).save_pretrained(tmp_path / "model") / "config.json"
    config = json.loads(file.read_text())
    config["vlm"]["space"] = space
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match="vlm is"):
        nearfar.load(tmp_path / "model")
