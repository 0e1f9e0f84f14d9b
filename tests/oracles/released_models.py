"""Models whose weights follow from a formula, so that recorded outputs do not hang on a random generator."""

from __future__ import annotations

import torch


def released_model(family: str):
    """A tiny GPT-2 or OPT in float64 with weights that are sines of their index."""
    import transformers as hf

    if family == "gpt2":
        config = hf.GPT2Config(
            vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=None
        )
    else:
        config = hf.OPTConfig(
            vocab_size=97,
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            bos_token_id=1,
            eos_token_id=None,
        )
    config.pad_token_id = 0
    model = hf.AutoModelForCausalLM.from_config(config).double().eval()
    for number, (name, parameter) in enumerate(sorted(model.named_parameters())):
        if parameter.ndim >= 2:
            index = torch.arange(parameter.numel(), dtype=torch.float64)
            values = 0.4 * torch.sin(12.9898 * index + 0.001 * index**2 + number)
            parameter.data.copy_(values.view_as(parameter))
        else:  # biases and norms
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
    return model
