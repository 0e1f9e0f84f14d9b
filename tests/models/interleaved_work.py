"""Small interleaved models around language models of several kinds, fresh or as if trained."""

from copy import deepcopy

import torch

from nearfar.data import train_tokenizer
from nearfar.models import interleaved_model
from nearfar.models.language.model import LanguageModel

TEXTS = ["a red car", "two small dogs near a tree", "fish"]
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
VIT |= {"intermediate_size": 32}
SMALL = {"latents": 3, "depth": 1, "heads": 2, "head_width": 8, "embed_dim": 12, "max_length": 32, "image_size": 16}
TOKENIZER = train_tokenizer(TEXTS * 3, 300)
PIXELS = torch.randn(3, 2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "max_position_embeddings": 96}
    config = LlamaConfig(vocab_size=len(TOKENIZER), num_hidden_layers=4, tie_word_embeddings=True, **sizes)
    return LanguageModel(LlamaForCausalLM(config), deepcopy(TOKENIZER))


def gpt2():
    """With rows that its tokenizer does not use."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=len(TOKENIZER) + 20, n_embd=32, n_layer=3, n_head=2, n_positions=96)
    return LanguageModel(GPT2LMHeadModel(config), deepcopy(TOKENIZER))


def opt():
    """With embeddings of another width than its layers."""
    from transformers import OPTConfig, OPTForCausalLM

    sizes = {"hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 48, "num_attention_heads": 2}
    config = OPTConfig(vocab_size=len(TOKENIZER), num_hidden_layers=3, max_position_embeddings=96, **sizes)
    return LanguageModel(OPTForCausalLM(config), deepcopy(TOKENIZER))


def made(language=llama, **settings):
    """A model before training."""
    torch.manual_seed(0)
    words = language()
    with torch.no_grad():  # fresh weights of this size say nearly the same whatever they read
        for weight in words.lm.parameters():
            weight.mul_(2 if weight.ndim > 1 else 1)
    return interleaved_model(VIT, words, **{**SMALL, **settings}).eval()


def trained(model):
    """A model after training: all that is trained is elsewhere, and its blocks act."""
    chance = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.add_((1.0 if "gate" in name else 0.2) * torch.randn(weight.shape, generator=chance))
        for block in model.blocks.values():
            block.attention_gate.fill_(2.0)
            block.out.weight.mul_(8)
        model.mark_tokens.output.mul_(0.2)
    return model
