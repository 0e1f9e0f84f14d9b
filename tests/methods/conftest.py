"""A fusion model small enough for the tests of ALBEF and TCL, and batches for it."""

import copy

import pytest
import torch

import nearfar.models
from nearfar.data.fields.text import train_tokenizer

TEXTS = ["a red car", "two small dogs", "the old house near a tree", "a boat at sea", "one red fish", "a tall tower"]


@pytest.fixture(scope="session")
def base():
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, 300)
    bert = {"model_type": "bert", "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    vit = {"model_type": "vit", "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return nearfar.models.create(
        image={**vit, "hidden_size": 16, "patch_size": 4},
        text={**bert, "hidden_size": 16, "max_position_embeddings": 32},
        tokenizer=tokenizer,
        text_layers=1,
        image_size=16,
        embed_dim=8,
    )


@pytest.fixture
def model(base):
    return copy.deepcopy(base)


@pytest.fixture(scope="session")
def batch_of():
    return make_batch


def make_batch(model, n=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    views = torch.randn(2, n, 3, 16, 16, generator=g)
    return {"image": views[0], "views": views, "text": model.tokenize(TEXTS[:n]), "index": torch.arange(n)}
