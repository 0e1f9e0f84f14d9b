"""Towers of every kind in a dual encoder: saved and opened again in any precision, frozen, adapted; and with any
tokenizer."""

from __future__ import annotations

import copy

import pytest
import torch

from models.tower_configs import BERT, CONVNEXT, IMAGES, SMALL, TEXTS
from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.models import create, load

TOWERS = [*(("image", name) for name in IMAGES), *(("text", name) for name in TEXTS)]
CORPUS = ["a red fox", "the ship at sea runs on", "cat"]


def made(side, name, tokenizer, **options):
    towers = {"image": CONVNEXT, "text": BERT, side: (IMAGES if side == "image" else TEXTS)[name][0]}
    model = create(**{**towers, "tokenizer": tokenizer, "image_size": 32, "embed_dim": 8, **options})
    if (
        name == "efficientnet"
    ):  # a fresh one's batch norms let hardly anything through: they take one batch's statistics
        norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            model.train().encode_image(torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    return model.eval()


def embeddings(model):
    """Of three pictures and three texts."""
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return model.encode_image(pixels), model.encode_text(model.tokenize(CORPUS))


def assert_opens_as_it_was(model, folder):
    again = load(model.save_pretrained(folder))
    mine, theirs = model.state_dict(), again.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[key], theirs[key]) and mine[key].dtype == theirs[key].dtype for key in mine)
    assert [(n, p.requires_grad) for n, p in model.named_parameters()] == [
        (n, p.requires_grad) for n, p in again.named_parameters()
    ]
    for a, b in zip(embeddings(model), embeddings(again), strict=True):
        assert torch.equal(a, b)
        assert a.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(("side", "name"), TOWERS)
def test_opens_as_it_was_in_any_precision(side, name, dtype, tokenizer, tmp_path):
    assert_opens_as_it_was(made(side, name, tokenizer).to(dtype), tmp_path)


@pytest.mark.parametrize(("side", "name"), TOWERS)
def test_adapters_are_trained_saved_and_merged(side, name, tokenizer, tmp_path):
    model = made(side, name, tokenizer).add_lora(side, rank=2)
    before = embeddings(model)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(len(key)))
    adapted = embeddings(model)
    place = ("image", "text").index(side)
    assert not torch.equal(adapted[place], before[place])
    sum(e.square().sum() for e in adapted).backward()
    tower = dict(getattr(model, side).named_parameters())
    assert {key for key, p in tower.items() if p.requires_grad} == {key for key in tower if "lora_" in key}
    assert [key for key, p in tower.items() if p.requires_grad and (p.grad is None or not p.grad.any())] == []
    assert_opens_as_it_was(model.freeze(f"{side}_projection"), tmp_path)
    merged = embeddings(model.merge_lora())
    torch.testing.assert_close(merged[place], adapted[place], rtol=1e-3, atol=1e-3)
    assert not any("lora" in key for key in model.state_dict())


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("padding", ["left", "right"])
def test_a_text_is_the_same_alone_and_among_others(name, padding, tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = padding
    model = made("text", name, tokenizer)
    among = model.encode_text(model.tokenize(CORPUS))
    alone = torch.cat([model.encode_text(model.tokenize([text])) for text in CORPUS])
    torch.testing.assert_close(among, alone, atol=1e-5, rtol=1e-4)
    assert torch.cdist(among, among)[0, 1:].min() > 1e-3


@pytest.mark.parametrize("name", TEXTS)
def test_a_vocabulary_of_our_own_fits_every_text_tower(name, tmp_path):
    """It has no begin and end token by these names, which CLIP's own summary would look for."""
    model = made("text", name, train_tokenizer(CORPUS * 5, 300))
    assert torch.pdist(model.encode_text(model.tokenize(CORPUS))).min() > 1e-3
    longest = "a red fox the ship at sea " * 200
    tokens = model.tokenize([longest])
    assert tokens["input_ids"].shape[1] <= model.text.longest
    assert model.text.longest > 600 or tokens["input_ids"].shape == (1, model.text.longest)
    assert model.encode_text(tokens).isfinite().all()
    assert_opens_as_it_was(model, tmp_path)


def test_padding_of_another_id_than_siglip_s_own(tokenizer):
    from transformers import AutoConfig

    config = AutoConfig.for_model(**TEXTS["siglip"][0], vocab_size=len(tokenizer), pad_token_id=7)
    model = create(image=CONVNEXT, text=config, tokenizer=tokenizer, image_size=32, embed_dim=8).eval()
    among = model.encode_text(model.tokenize(CORPUS))
    torch.testing.assert_close(among[2:], model.encode_text(model.tokenize(CORPUS[2:])), atol=1e-5, rtol=1e-4)


def test_a_tokenizer_that_gives_no_mask_and_one_without_padding(tokenizer, tmp_path):
    """As SigLIP's and GPT-2's come."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_input_names, tokenizer.pad_token = ["input_ids"], None
    model = made("text", "gpt2", tokenizer)
    assert model.tokenizer.pad_token == "[SEP]"
    tokens = model.tokenize(CORPUS)
    assert tokens["attention_mask"].sum(1).tolist() == [5, 8, 3]
    assert tokens["input_ids"][2].tolist() == [2, 15, 3, 3, 3, 3, 3, 3]
    assert_opens_as_it_was(model, tmp_path)
    tokenizer.pad_token = tokenizer.eos_token = tokenizer.unk_token = None
    with pytest.raises(UserError, match="no padding token"):
        made("text", "gpt2", tokenizer)


def test_two_names_of_one_weight_stay_one(tokenizer, tmp_path):
    model = load(made("text", "t5", tokenizer).save_pretrained(tmp_path)).train()
    model.encode_text(model.tokenize(CORPUS)).sum().backward()
    assert model.text.backbone.shared.weight is model.text.backbone.encoder.embed_tokens.weight
    assert [name for name, p in model.text.named_parameters() if p.grad is None] == []


def test_a_model_that_writes_is_no_tower(tokenizer):
    from transformers import AutoConfig, AutoModel

    whole = AutoModel.from_config(AutoConfig.for_model(**TEXTS["t5"][0], vocab_size=20))
    with pytest.raises(UserError, match="T5EncoderModel"):
        create(image=CONVNEXT, text=whole, tokenizer=tokenizer)
    bart = {"model_type": "bart", "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 20}
    with pytest.raises(UserError, match="bart writes texts"):
        create(image=CONVNEXT, text=bart, tokenizer=tokenizer)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("size", [30, 45])
def test_pictures_of_a_size_that_patches_do_not_divide(name, size, tokenizer, tmp_path):
    config = {key: value for key, value in IMAGES[name][0].items() if key != "image_size"}
    model = create(image=config, text=BERT, tokenizer=tokenizer, image_size=size, embed_dim=8).eval()
    pixels = torch.randn(2, 3, size, size)
    assert model.image_tokens(pixels).shape == (2, 1 + model.image.patches, model.image.width)
    assert torch.equal(load(model.save_pretrained(tmp_path)).encode_image(pixels), model.encode_image(pixels))


def test_a_size_too_small_for_the_tower_is_explained(tokenizer):
    vit = {"model_type": "vit", **SMALL, "patch_size": 16}
    with pytest.raises(UserError, match="ViTModel cannot take pictures of 8 pixels"):
        create(image=vit, text=BERT, tokenizer=tokenizer, image_size=8)
