"""Contrastive search against its definition, token for token, in float64."""

import pytest
import torch

from nearfar.decoding import contrastive_search
from nearfar.decoding.contrastive.leaves import refusal
from oracles import contrastive_search as oracle

LEAVES = [
    "llama",
    "gpt2",
    "qwen2",
    "qwen3",
    "smollm3",
    "opt",
    "gpt_neox",
    "phi",
    "cohere",
    "mistral",
    "gemma3",
    "qwen2_mixed",
]
COPIES = ["bloom", "mamba"]


@pytest.mark.parametrize("name", LEAVES)
def test_leaves_equal_the_definition(models, prompts, name):
    model = models(name)
    assert refusal(model) is None
    differs = False
    for k, alpha, lengths in [(4, 0.6, [1, 9, 4]), (8, 0.8, [7])]:
        ids, mask = prompts(lengths)
        ours = contrastive_search(
            model, ids, attention_mask=mask, k=k, alpha=alpha, max_new_tokens=10, strategy="leaves"
        )
        assert torch.equal(ours, oracle.cache_free(model, ids, mask, k=k, alpha=alpha, steps=10))
        assert torch.equal(ours, oracle.cache_copying(model, ids, mask, k=k, alpha=alpha, steps=10))
        greedy = model.generate(ids, attention_mask=mask, max_new_tokens=10, do_sample=False)
        differs |= not torch.equal(ours, greedy)
    assert differs, "a case in which the method changes nothing tests nothing"


@pytest.mark.parametrize("name", COPIES)
def test_other_models_are_decoded_by_copying(models, prompts, name):
    model = models(name)
    assert refusal(model) is not None
    for lengths in [[6], [7, 7]]:
        ids, mask = prompts(lengths)
        ours = contrastive_search(model, ids, attention_mask=mask, k=4, alpha=0.6, max_new_tokens=10)
        assert torch.equal(ours, oracle.cache_free(model, ids, mask, k=4, alpha=0.6, steps=10))


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral"])
def test_copying_equals_leaves(models, prompts, name):
    model = models(name)
    ids, mask = prompts([3, 8])
    call = {"attention_mask": mask, "k": 5, "alpha": 0.5, "max_new_tokens": 12}
    assert torch.equal(
        contrastive_search(model, ids, strategy="leaves", **call),
        contrastive_search(model, ids, strategy="copy", **call),
    )


def test_eager_attention(models, prompts):
    ids, mask = prompts([8, 8])  # transformers' own eager mask overflows to NaN on padding in float64
    model = models("llama")
    expected = contrastive_search(model, ids, attention_mask=mask, max_new_tokens=12)
    model.set_attn_implementation("eager")
    try:
        ours = contrastive_search(model, ids, attention_mask=mask, max_new_tokens=12, strategy="leaves")
    finally:
        model.set_attn_implementation("sdpa")
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "gemma3"])
def test_k_1_and_alpha_0_are_greedy(models, prompts, name):
    model = models(name)
    ids, mask = prompts([4, 9])
    greedy = model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False)
    for k, alpha in [(1, 0.6), (1, 1.0), (5, 0.0), (97, 0.0)]:
        ours = contrastive_search(model, ids, attention_mask=mask, k=k, alpha=alpha, max_new_tokens=12)
        assert torch.equal(ours, greedy)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gemma3"])
def test_padding_and_batching_change_nothing(models, prompts, name):
    model = models(name)
    ids, mask = prompts([4, 9, 6])
    call = {"k": 4, "alpha": 0.6, "max_new_tokens": 10}
    together = contrastive_search(model, ids, attention_mask=mask, **call)
    for row in range(3):
        alone = ids[row][mask[row].bool()][None]
        expected = contrastive_search(model, alone, attention_mask=torch.ones_like(alone), **call)[0, alone.shape[1] :]
        assert torch.equal(together[row, ids.shape[1] :], expected)
    padded_ids, padded_mask = prompts([4, 9, 6], pad=5)
    padded = contrastive_search(model, padded_ids, attention_mask=padded_mask, **call)
    assert torch.equal(padded[:, -10:], together[:, -10:])


def test_long_texts_outgrow_their_storage(models, prompts):
    """More tokens than the first reserve of cache and context."""
    model = models("llama")
    model.config.max_position_embeddings = 1024
    ids, mask = prompts([2])
    ours = contrastive_search(model, ids, attention_mask=mask, k=3, max_new_tokens=300)
    assert torch.equal(ours, oracle.cache_copying(model, ids, mask, k=3, alpha=0.6, steps=300))


def test_encoder_decoder_models(prompts):
    import transformers as hf

    torch.manual_seed(0)
    t5 = hf.T5Config(
        vocab_size=97,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        eos_token_id=None,
    )
    bart = hf.BartConfig(
        vocab_size=97, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64,
        decoder_start_token_id=2, eos_token_id=None, forced_eos_token_id=None,
    )  # fmt: skip
    ids, mask = prompts([5, 9])
    for config in (t5, bart):
        model = hf.AutoModelForSeq2SeqLM.from_config(config).double().eval()
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                torch.nn.init.normal_(parameter, std=0.3)
        ours = contrastive_search(model, ids, attention_mask=mask, k=4, alpha=0.6, max_new_tokens=10)
        assert torch.equal(ours, _encoder_decoder_oracle(model, ids, mask, k=4, alpha=0.6, steps=10))
        greedy = model.generate(ids, attention_mask=mask, max_new_tokens=10, do_sample=False)
        assert not torch.equal(ours, greedy)
        assert torch.equal(contrastive_search(model, ids, attention_mask=mask, alpha=0.0, max_new_tokens=10), greedy)


@torch.no_grad()
def _encoder_decoder_oracle(model, ids, mask, *, k, alpha, steps):
    text = torch.full((len(ids), 1), model.generation_config.decoder_start_token_id)

    def run(decoder_ids):
        out = model(
            input_ids=ids,
            attention_mask=mask,
            decoder_input_ids=decoder_ids,
            use_cache=False,
            output_hidden_states=True,
        )
        return torch.nn.functional.normalize(out.decoder_hidden_states[-1], dim=-1), out.logits[:, -1]

    for _ in range(steps):
        context, logits = run(text)
        probs, candidates = logits.softmax(-1).topk(k)
        scores = []
        for j in range(k):
            states, _ = run(torch.cat([text, candidates[:, j : j + 1]], 1))
            scores.append((1 - alpha) * probs[:, j] - alpha * (states[:, -1:] * context).sum(-1).amax(-1))
        text = torch.cat([text, candidates.gather(1, torch.stack(scores, 1).argmax(1)[:, None])], 1)
    return text
