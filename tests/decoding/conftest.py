"""Tiny random language models of many families, in float64 so that no near tie can hide a difference."""

import pytest
import torch

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
GROUPED = SMALL | {"num_key_value_heads": 2}


def _config(name):
    import transformers as hf

    windowed = GROUPED | {"sliding_window": 6}
    mixed = windowed | {"layer_types": ["sliding_attention", "full_attention"]}
    return {
        "llama": lambda: hf.LlamaConfig(**GROUPED),
        "gpt2": lambda: hf.GPT2Config(
            vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=128, pad_token_id=0, bos_token_id=1,
            eos_token_id=None,
        ),
        "qwen2": lambda: hf.Qwen2Config(**GROUPED),
        "qwen3": lambda: hf.Qwen3Config(**GROUPED, head_dim=8),
        "smollm3": lambda: hf.SmolLM3Config(**GROUPED),
        "opt": lambda: hf.OPTConfig(
            vocab_size=97, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=128, word_embed_proj_dim=32, pad_token_id=0, bos_token_id=1, eos_token_id=None,
        ),
        "gpt_neox": lambda: hf.GPTNeoXConfig(**SMALL),
        "phi": lambda: hf.PhiConfig(**SMALL),
        "cohere": lambda: hf.CohereConfig(**GROUPED),
        "mistral": lambda: hf.MistralConfig(**windowed),
        "gemma3": lambda: hf.Gemma3TextConfig(**mixed, head_dim=8),
        "qwen2_mixed": lambda: hf.Qwen2Config(**mixed, use_sliding_window=True),
        "bloom": lambda: hf.BloomConfig(
            vocab_size=97, hidden_size=32, n_layer=2, n_head=4, pad_token_id=0, bos_token_id=1, eos_token_id=None
        ),
        "mamba": lambda: hf.MambaConfig(
            vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=4, pad_token_id=0, bos_token_id=1,
            eos_token_id=None,
        ),
    }[name]()  # fmt: skip


def make_model(name, seed=0):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_config(name)).double().eval()
    for parameter in model.parameters():  # large weights: distinct hidden states, peaked and varied probabilities
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="session")
def models():
    """`models(name)`: the tiny model of that family, made once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = make_model(name)
        return made[name]

    return get


@pytest.fixture
def prompts():
    """`prompts(lengths)`: token ids padded on the left, and their mask."""

    def make(lengths, seed=0, pad=0):
        generator = torch.Generator().manual_seed(seed)
        width = max(lengths) + pad
        ids = torch.zeros(len(lengths), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, length in enumerate(lengths):
            ids[row, width - length :] = torch.randint(3, 97, (length,), generator=generator)
            mask[row, width - length :] = 1
        return ids, mask

    return make
