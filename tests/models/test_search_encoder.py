"""Heads over a model of relations: what they read, what alone is trained, and what is saved."""

import pytest
import torch

import nearfar
from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.methods import CLIP
from nearfar.models import grounded_encoder, relation_encoder, search_encoder
from nearfar.training.loop.gradients import backward

TEXTS = ["a red fox", "a ship at sea", "two dogs"]
NAMES = {"relations": ["left of", "right of"], "objects": ["fox", "ship"]}


@pytest.fixture(scope="module")
def third():
    torch.manual_seed(0)
    return relation_encoder("tiny", **NAMES, tokenizer=train_tokenizer(TEXTS, 300))


@pytest.fixture
def model(third):
    torch.manual_seed(1)
    return search_encoder(third, embed_dim=8, hidden=12)


def pixels():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_a_picture_is_the_mean_over_its_cells_keys_and_a_text_over_its_words_queries(third, model):
    model, third = model.eval(), third.eval()
    tokens = model.tokenize(TEXTS)
    with torch.no_grad():
        keys = third.attention.key(third.pair.visual_stream(pixels()))
        torch.testing.assert_close(model.encode_image(pixels()), model.image_head(keys).mean(1))
        for row, text in enumerate(TEXTS):  # alone: without padding
            queries = third.attention.query(third.pair.word_states(third.tokenize([text])))
            alone = model.text_head(queries).mean(1)[0]
            torch.testing.assert_close(model.encode_text(tokens)[row], alone, rtol=1e-4, atol=1e-5)
        image, text = model(pixels(), tokens)
    assert image.norm(dim=1).tolist() == pytest.approx([1] * 3)
    assert text.norm(dim=1).tolist() == pytest.approx([1] * 3)
    assert model.encode(TEXTS).shape == (3, 8)


def test_the_heads_alone_are_trained_and_drop(third, model):
    method = CLIP(model, temperature=0.1, learn_temperature=False).train()
    before = {name: value.clone() for name, value in third.state_dict().items()}
    assert not any(module.training for module in model.pair.modules())
    assert model.image_head.training
    backward(method, {"image": pixels(), "text": model.tokenize(TEXTS)})
    learns = {name for name, p in method.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {name.split(".")[1] for name in learns} == {"image_head", "text_head"}
    assert {name for name, p in method.named_parameters() if p.requires_grad} >= learns
    assert not torch.equal(model.encode_image(pixels()), model.encode_image(pixels()))
    assert all(torch.equal(value, before[name]) for name, value in third.state_dict().items())
    assert all(p.requires_grad for p in third.relation.parameters()), "a copy is frozen, not the model that was given"


def test_it_is_saved_whole_and_made_of_a_folder(third, model, tmp_path):
    third.save_pretrained(tmp_path / "third")
    assert search_encoder(str(tmp_path / "third")).embed_dim == third.embed_dim
    model.eval().save_pretrained(tmp_path / "model")
    again = nearfar.load(tmp_path / "model").eval()
    assert torch.equal(again.encode_image(pixels()), model.encode_image(pixels()))
    tokens = model.tokenize(TEXTS)
    assert torch.equal(again.encode_text(tokens), model.encode_text(tokens))


@pytest.mark.parametrize("settings", [{"embed_dim": -1}, {"hidden": -3}, {"dropout": 1.0}])
def test_what_its_heads_cannot_be(third, settings):
    with pytest.raises(UserError, match="widths from 1 on, and a share"):
        search_encoder(third, **settings)


def test_another_model_is_refused():
    pair = grounded_encoder("tiny", tokenizer=train_tokenizer(TEXTS, 300))
    with pytest.raises(UserError, match="pair is a GroundedEncoder: a search encoder is made of a RelationEncoder"):
        search_encoder(pair)
