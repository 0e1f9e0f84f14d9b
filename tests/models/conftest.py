from __future__ import annotations

import pytest
import torch

WORDS = ("a", "red", "blue", "fox", "ship", "at", "sea", "left", "of", "the", "cat", "dog", "on", "mat", "runs")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tokenizer():
    """A word-level tokenizer with BERT's special tokens: [CLS] text [SEP]."""
    return _word_level(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])


@pytest.fixture(scope="session")
def end_is_last():
    """The same, but [SEP] has the largest id, as the end of a text has in CLIP's tokenizer."""
    return _word_level(["[PAD]", "[UNK]", "[CLS]", "[MASK]", *WORDS, "[SEP]"])


def _word_level(words):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(words)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        bos_token="[CLS]",
        eos_token="[SEP]",
        padding_side="right",  # as published; a class of transformers may have another default
    )


_VIT = {
    "model_type": "vit",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "patch_size": 8,
    "image_size": 32,
}
_BERT = {
    "model_type": "bert",
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 16,
}


@pytest.fixture
def vit():
    return dict(_VIT)


@pytest.fixture
def bert():
    return dict(_BERT)


@pytest.fixture
def model(vit, bert, tokenizer):
    """A dual encoder that trains in milliseconds: ViT and BERT, 32 px, 16 numbers."""
    from nearfar.models import create

    return create(image=vit, text=bert, tokenizer=tokenizer, embed_dim=16).eval()
