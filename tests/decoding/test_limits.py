"""Where a model's window, its positions or its cache end, contrastive search is right or says why not."""

import pytest
import torch

from nearfar.decoding import contrastive_search, contrastive_search_generate
from nearfar.errors import UserError


@pytest.mark.parametrize("greedy", [{"k": 1}, {"alpha": 0.0}], ids=["one candidate", "no penalty"])
@pytest.mark.parametrize("name", ["mistral", "gemma3", "qwen2_mixed", "llama", "gpt2"])
@pytest.mark.parametrize("masked", [False, True])
def test_without_a_choice_it_is_greedy_search_past_the_window(name, greedy, masked, models):
    model, ids = models(name), torch.tensor([[5, 6, 7, 8, 9], [9, 4, 7, 3, 2]])
    settings = {"attention_mask": torch.ones_like(ids)} if masked else {}
    expected = model.generate(ids, max_new_tokens=20, do_sample=False, **settings)
    assert torch.equal(contrastive_search(model, ids, max_new_tokens=20, **greedy, **settings), expected)


def family(name):
    import transformers as hf

    ends = {"eos_token_id": None, "bos_token_id": 1, "pad_token_id": 0}
    small = {"vocab_size": 50, "num_hidden_layers": 1, "num_attention_heads": 2}
    gpt = {"vocab_size": 50, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 10, **ends}
    wide = {**small, "hidden_size": 32, "max_position_embeddings": 10}
    bart = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 10, "vocab_size": 50}
    bart |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    torch.manual_seed(0)
    return {
        "GPT-2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**gpt)),
        "GPT-J": lambda: hf.GPTJForCausalLM(hf.GPTJConfig(**gpt, rotary_dim=8)),
        "OPT": lambda: hf.OPTForCausalLM(hf.OPTConfig(**wide, ffn_dim=32, word_embed_proj_dim=32, **ends)),
        "BART": lambda: hf.BartForConditionalGeneration(hf.BartConfig(**bart, forced_eos_token_id=None)),
    }[name]().eval()


@pytest.mark.parametrize("name", ["GPT-2", "GPT-J", "OPT", "BART"])
def test_positions_end_in_a_sentence(name):
    model = family(name)
    taken = 1 if name == "BART" else 5
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    whole = contrastive_search(model, ids, max_new_tokens=10 - taken, eos_token_id=None)
    assert whole.shape == (1, 10)
    with pytest.raises(UserError, match=f"has positions for 10 tokens, .* set max_new_tokens to {10 - taken} at most"):
        contrastive_search(model, ids, max_new_tokens=11 - taken, eos_token_id=None)


def test_padding_takes_no_position_and_a_long_prompt_is_named():
    model = family("GPT-2")
    ids = torch.tensor([[0, 0, 5, 6], [5, 6, 7, 8]])
    assert contrastive_search(model, ids[:1], attention_mask=(ids[:1] != 0).long(), max_new_tokens=8).shape == (1, 12)
    with pytest.raises(UserError, match="the prompt has 11 tokens"):
        contrastive_search(model, torch.full((1, 11), 5))


def test_the_function_in_place_of_the_hook_is_refused(models):
    model, ids = models("llama"), torch.tensor([[5, 6, 7]])
    settings = {"penalty_alpha": 0.6, "top_k": 4, "do_sample": False, "max_new_tokens": 4}
    assert model.generate(ids, custom_generate=contrastive_search_generate, **settings).shape == (1, 7)
    with pytest.raises(UserError, match="custom_generate takes the hook"):
        model.generate(ids, custom_generate=contrastive_search, **settings)


@pytest.mark.parametrize("where", ["argument", "config", "model"])
@pytest.mark.parametrize("kind", ["quantized", "static"])
def test_caches_of_other_kinds_are_refused_before_they_are_made(kind, where, models, monkeypatch):
    from transformers import GenerationConfig

    model, settings = models("llama"), {}
    if where == "model":
        monkeypatch.setattr(model.generation_config, "cache_implementation", kind)
    elif where == "config":
        settings = {"generation_config": GenerationConfig(cache_implementation=kind)}
    else:
        settings = {"cache_implementation": kind}
    with pytest.raises(UserError, match=f"leave cache_implementation unset, not '{kind}'"):
        contrastive_search(model, torch.tensor([[5, 6, 7]]), max_new_tokens=2, **settings)
