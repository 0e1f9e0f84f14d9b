"""A checkpoint stored in half precision is read in float32, and trained in it, through whatever door it comes."""

from __future__ import annotations

import pytest
import torch

import nearfar
from models.dual_families import clip
from nearfar.methods import CLIP
from nearfar.models import create
from nearfar.models.language.model import language_model
from nearfar.models.language.text_model import text_encoder
from nearfar.training.adapters import for_trainer

HALF = [torch.bfloat16, torch.float16]


def dtypes(model):
    return {tensor.dtype for tensor in model.parameters()}


def stored(model, tokenizer, folder, dtype):
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def text_model(kind):
    import transformers

    small = {"vocab_size": 20, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = getattr(transformers, f"{kind}Config")(**small, intermediate_size=32)
    return getattr(transformers, {"Bert": "BertModel", "Llama": "LlamaForCausalLM"}[kind])(config)


@pytest.mark.parametrize("dtype", HALF)
def test_pairs_by_folder_and_by_instance(dtype, tokenizer, tmp_path):
    theirs = clip()
    stored(theirs, tokenizer, tmp_path, dtype)
    for ours in (nearfar.load(tmp_path), nearfar.load(theirs, tokenizer=tokenizer)):
        assert dtypes(ours) == {torch.float32}
        weight = ours.text.backbone.embeddings.token_embedding.weight
        assert torch.equal(weight, theirs.text_model.embeddings.token_embedding.weight.float())
    assert dtypes(theirs) == {dtype}


@pytest.mark.parametrize("dtype", HALF)
def test_towers_of_texts_and_of_pictures(dtype, vit, tokenizer, tmp_path):
    from transformers import ViTConfig, ViTModel

    words = stored(text_model("Bert"), tokenizer, tmp_path / "words", dtype)
    pictures = tmp_path / "pictures"
    ViTModel(ViTConfig(**vit)).to(dtype).save_pretrained(pictures)
    assert dtypes(create(image=str(pictures), text=str(words))) == {torch.float32}
    assert dtypes(text_encoder(str(words))) == {torch.float32}
    assert dtypes(nearfar.load(words)) == {torch.float32}


@pytest.mark.parametrize("dtype", HALF)
def test_language_models(dtype, tokenizer, tmp_path):
    folder = stored(text_model("Llama"), tokenizer, tmp_path, dtype)
    assert dtypes(language_model(folder)) == {torch.float32}
    assert dtypes(nearfar.load(folder)) == {torch.float32}


def batch(model):
    return {"image": torch.randn(4, 3, 32, 32), "text": model.tokenize(["a red fox", "ship", "cat", "the dog"])}


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("dtype", HALF)
def test_a_saved_run_in_half_precision_trains_as_its_float32_twin(dtype, ema, model, tmp_path):
    """Steps of 1e-5 are smaller than half the distance of neighbours in bfloat16."""
    model.to(dtype).save_pretrained(tmp_path)
    half, twin = nearfar.load(tmp_path), nearfar.load(tmp_path).float()
    batches, settings = [batch(twin)], {"steps": 3, "lr": 1e-5, "warmup": 0, "ema": ema, "progress": False}
    for each in (half, twin):
        nearfar.train(CLIP(each), batches, **settings)
    assert dtypes(half) == {torch.float32}
    for mine, theirs in zip(half.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_other_loops_train_float32_weights(model):
    method = CLIP(model.bfloat16())
    for_trainer(method, [batch(model)])
    assert dtypes(method) == {torch.float32}
