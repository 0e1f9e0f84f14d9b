"""What users of `generate` expect of a decoding method, and what they may do wrong."""

import pytest
import torch

from nearfar.decoding import contrastive_search, contrastive_search_generate
from nearfar.decoding.contrastive.leaf_cache import LeafCache, LeafLayer
from nearfar.errors import UserError

CALL = {"k": 4, "alpha": 0.6, "max_new_tokens": 12}


@pytest.fixture
def llama(models):
    return models("llama")


@pytest.fixture
def batch(prompts):
    ids, mask = prompts([4, 9])
    return {"input_ids": ids, "attention_mask": mask}


def test_three_ways_to_call_agree(llama, batch):
    ours = contrastive_search(llama, batch, **CALL)
    assert torch.equal(
        ours, contrastive_search(llama, batch["input_ids"], attention_mask=batch["attention_mask"], **CALL)
    )
    extension = llama.generate(
        **batch,
        custom_generate=contrastive_search_generate,
        penalty_alpha=0.6,
        top_k=4,
        do_sample=False,
        max_new_tokens=12,
    )
    assert torch.equal(ours, extension)


def test_deterministic_and_leaves_the_generator_alone(llama, batch):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = contrastive_search(llama, batch, return_dict_in_generate=True, output_scores=True, **CALL)
    contrastive_search(llama, batch, sample_steps=3, **CALL)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    second = contrastive_search(llama, batch, return_dict_in_generate=True, output_scores=True, **CALL)
    assert torch.equal(first.sequences, second.sequences)
    assert all(torch.equal(a, b) for a, b in zip(first.scores, second.scores, strict=True))


def test_one_pass_a_token_and_no_cache_copied(llama, batch):
    passes = []
    handle = llama.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    try:
        out = contrastive_search(llama, batch, return_dict_in_generate=True, **CALL)
    finally:
        handle.remove()
    assert passes == [(2, 9)] + [(2, 4)] * 12
    assert isinstance(out.past_key_values, LeafCache)
    assert out.past_key_values.length == 9 + 12
    assert out.past_key_values.layers[0].keys.shape == (2, 2, 21, 8)  # batch, key-value heads: neither repeated


def test_the_head_runs_for_the_chosen_leaf_only(llama, batch):
    rows = []
    handle = llama.lm_head.register_forward_hook(lambda module, args, output: rows.append(output.shape[1]))
    try:
        contrastive_search(llama, batch, **CALL)
    finally:
        handle.remove()
    assert set(rows) == {1}


def test_cache_can_be_continued(llama, batch):
    out = contrastive_search(llama, batch, return_dict_in_generate=True, **CALL)
    mask = torch.cat([batch["attention_mask"], torch.ones(2, 12, dtype=torch.long)], 1)
    fresh = llama.generate(out.sequences, attention_mask=mask, max_new_tokens=6, do_sample=False)
    longer_ids = torch.cat([out.sequences, fresh[:, -6:-5]], 1)
    longer_mask = torch.cat([mask, mask.new_ones(2, 1)], 1)
    continued = llama.generate(
        longer_ids, attention_mask=longer_mask, past_key_values=out.past_key_values, max_new_tokens=5, do_sample=False
    )
    assert torch.equal(continued, fresh)


def test_scores_confidences_and_penalties(llama, batch):
    out = contrastive_search(llama, batch, return_dict_in_generate=True, output_scores=True, output_logits=True, **CALL)
    assert len(out.scores) == len(out.logits) == 12
    assert out.confidences.shape == out.penalties.shape == (2, 12)
    mask = torch.cat([batch["attention_mask"], torch.ones(2, 12, dtype=torch.long)], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        whole = llama(out.sequences, attention_mask=mask, position_ids=positions, output_hidden_states=True)
    states = torch.nn.functional.normalize(whole.hidden_states[-1], dim=-1)
    for step in range(12):
        torch.testing.assert_close(out.scores[step], whole.logits[:, 9 + step - 1])
        chosen = out.sequences[:, 9 + step, None]
        torch.testing.assert_close(out.confidences[:, step], out.scores[step].softmax(-1).gather(1, chosen)[:, 0])
        cosine = torch.einsum("bd,bld->bl", states[:, 9 + step], states[:, : 9 + step])
        cosine = cosine.masked_fill(mask[:, : 9 + step] == 0, -2)
        torch.testing.assert_close(out.penalties[:, step], cosine.amax(1))


def test_each_sequence_ends_by_itself(llama, batch):
    free = contrastive_search(llama, batch, **CALL)
    eos = int(free[0, 9 + 3])
    assert eos not in free[1, 9 : 9 + 5]
    out = contrastive_search(llama, batch, eos_token_id=eos, pad_token_id=0, return_dict_in_generate=True, **CALL)
    stop = 9 + free[0, 9:].tolist().index(eos)
    assert torch.equal(out.sequences[0, : stop + 1], free[0, : stop + 1])
    assert (out.sequences[0, stop + 1 :] == 0).all()
    width = out.sequences.shape[1]
    assert torch.equal(out.sequences[1], free[1, :width])
    assert out.penalties[0, stop - 9 + 1 :].isnan().all()
    assert not out.penalties[0, : stop - 9 + 1].isnan().any()
    alone = {name: value[:1] for name, value in batch.items()}
    assert contrastive_search(llama, alone, eos_token_id=eos, pad_token_id=0, **CALL).shape[1] == stop + 1


def test_stopping_criteria(llama, batch):
    from transformers import StoppingCriteria

    class At(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((len(input_ids),), input_ids.shape[1] >= 14)

    free = contrastive_search(llama, batch, **CALL)
    assert torch.equal(contrastive_search(llama, batch, stopping_criteria=[At()], **CALL), free[:, :14])


def test_stop_strings(prompts):
    from nearfar.data.fields.text import train_tokenizer
    from nearfar.models.language import language_model

    tokenizer = train_tokenizer(["a red car and a blue car"], 300)
    language = language_model("tiny", tokenizer=tokenizer)
    lm, tokens = language.lm.eval(), language.tokenize_prompts(["a red car"])
    free = contrastive_search(lm, tokens, eos_token_id=None, **CALL)[0]
    written = [tokenizer.decode(token) for token in free[tokens["input_ids"].shape[1] :]]
    string = next(text for text in written[2:] if text.strip() and text.isascii())
    out = contrastive_search(lm, tokens, stop_strings=[string], tokenizer=tokenizer, **CALL)[0]
    assert torch.equal(out, free[: len(out)])
    assert string in tokenizer.decode(out[tokens["input_ids"].shape[1] :])
    assert len(out) < len(free)
    with pytest.raises(UserError, match="tokenizer"):
        contrastive_search(lm, tokens, stop_strings=["x"], **CALL)


def test_processors_act_before_the_candidates_are_taken(llama, batch):
    from transformers import LogitsProcessor, TemperatureLogitsWarper

    free = contrastive_search(llama, batch, **CALL)
    banned = sorted({int(token) for token in free[:, 9:].flatten()})

    class Ban(LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores[:, banned] = -torch.inf
            return scores

    out = contrastive_search(llama, batch, logits_processor=[Ban()], **CALL)
    assert not set(out[:, 9:].flatten().tolist()) & set(banned)
    bad_words = contrastive_search(llama, batch, bad_words_ids=[[token] for token in banned], **CALL)
    assert torch.equal(out, bad_words)
    no_repeats = contrastive_search(llama, batch, no_repeat_ngram_size=1, **CALL)
    for row in no_repeats:
        new = row[9:].tolist()
        assert len(set(new)) == len(new)
    flat = contrastive_search(
        llama, batch, logits_processor=[TemperatureLogitsWarper(8.0)], return_dict_in_generate=True, **CALL
    )
    sharp = contrastive_search(llama, batch, return_dict_in_generate=True, **CALL)
    assert flat.confidences.mean() < sharp.confidences.mean()


def test_only_one_token_allowed_leaves_no_choice(llama, batch):
    out = contrastive_search(llama, batch, prefix_allowed_tokens_fn=lambda row, ids: [7], **CALL)
    assert (out[:, 9:] == 7).all()


def test_streaming(llama, prompts):
    from transformers.generation.streamers import BaseStreamer

    class Collect(BaseStreamer):
        def __init__(self):
            self.pieces, self.ended = [], 0

        def put(self, value):
            self.pieces.append(value.flatten().tolist())

        def end(self):
            self.ended += 1

    ids, _ = prompts([5])
    expected = contrastive_search(llama, ids, **CALL)[0].tolist()
    ours = Collect()
    contrastive_search(llama, ids, streamer=ours, **CALL)
    assert ours.ended == 1
    assert ours.pieces[0] == expected[:5]
    assert [token for piece in ours.pieces for token in piece] == expected
    extension = Collect()
    llama.generate(
        ids,
        custom_generate=contrastive_search_generate,
        penalty_alpha=0.6,
        top_k=4,
        max_new_tokens=12,
        stream=extension,
    )
    assert [token for piece in extension.pieces for token in piece] == expected[5:]


def test_diverse_search_samples_its_beginning(llama, batch):
    call = dict(CALL, sample_steps=3, num_return_sequences=8)
    out = contrastive_search(llama, batch, seed=1, **call)
    assert out.shape == (16, 21)
    for row in (0, 1):
        assert (out[8 * row : 8 * row + 8, :9] == batch["input_ids"][row]).all()
        assert len({tuple(text.tolist()) for text in out[8 * row : 8 * row + 8]}) > 1
    assert torch.equal(out, contrastive_search(llama, batch, seed=1, **call))
    assert not torch.equal(out, contrastive_search(llama, batch, seed=2, **call))
    beginnings = {
        "input_ids": out[:8, :12],
        "attention_mask": torch.cat([batch["attention_mask"][:1], torch.ones(1, 3)], 1).repeat(8, 1).long(),
    }
    assert torch.equal(contrastive_search(llama, beginnings, **dict(CALL, max_new_tokens=9)), out[:8])


def test_narrow_nucleus_is_greedy(llama, batch):
    greedy = llama.generate(**batch, max_new_tokens=12, do_sample=False)
    assert torch.equal(contrastive_search(llama, batch, sample_steps=12, sample_top_p=1e-6, **CALL), greedy)


def test_model_is_left_as_it_was(llama, batch):
    before = llama.config._attn_implementation
    hooks = len(llama.model._forward_hooks)

    def fail(row, ids):
        if ids.shape[-1] > 11:
            raise RuntimeError("stop")
        return list(range(97))

    with pytest.raises(RuntimeError, match="stop"):
        contrastive_search(llama, batch, prefix_allowed_tokens_fn=fail, **CALL)
    assert llama.config._attn_implementation == before
    assert len(llama.model._forward_hooks) == hooks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 98}, "from 1 to the vocabulary's 97, not 98"),
        ({"k": 0}, "not 0"),
        ({"alpha": 1.2}, r"alpha \(penalty_alpha\) must lie in \[0, 1\], not 1.2"),
        ({"alpha": -0.1}, "not -0.1"),
        ({"inputs": torch.zeros(1, 0, dtype=torch.long)}, "the prompt is empty"),
        ({"inputs": torch.tensor([4, 5])}, "shape"),
        ({"inputs": {"ids": torch.ones(1, 2)}}, "holds no 'input_ids'"),
        ({"inputs": torch.ones(1, 4, dtype=torch.long, device="meta")}, "input_ids is on meta but the model on cpu"),
        ({"attention_mask": torch.tensor([[0, 0, 0, 0]])}, "row 0 of the prompt is all padding"),
        ({"attention_mask": torch.tensor([[1, 1, 1, 0]])}, "padding_side = 'left'"),
        ({"attention_mask": torch.ones(2, 4)}, "2 rows"),
        ({"use_cache": False}, "needs the key-value cache"),
        ({"num_return_sequences": 2}, "would all be equal"),
        ({"sample_steps": -1}, "0 or more"),
        ({"sample_steps": 1, "sample_top_p": 0.0}, r"must lie in \(0, 1\]"),
        ({"do_sample": True}, "does not sample"),
        ({"num_beams": 2}, "num_beams must be 1"),
        ({"cache_implementation": "static"}, "cache_implementation unset"),
        ({"output_hidden_states": True, "return_dict_in_generate": True}, "no attentions or hidden states"),
        ({"strategy": "fast"}, "'auto', 'leaves' or 'copy'"),
    ],
)
def test_bad_calls(llama, changes, message):
    call = dict(inputs=torch.tensor([[4, 5, 6, 7]]), **CALL) | changes
    with pytest.raises(UserError, match=message):
        contrastive_search(llama, **call)


def test_bad_calls_of_the_extension_point(llama):
    ids = torch.tensor([[4, 5]])
    with pytest.raises(UserError, match="needs penalty_alpha"):
        llama.generate(ids, custom_generate=contrastive_search_generate, max_new_tokens=3)
    with pytest.raises(UserError, match="do_sample=False"):
        llama.generate(
            ids,
            custom_generate=contrastive_search_generate,
            penalty_alpha=0.6,
            top_k=4,
            do_sample=True,
            max_new_tokens=3,
        )


def test_a_filled_cache_is_refused(llama):
    from transformers import DynamicCache, StaticCache

    cache = DynamicCache(config=llama.config)
    llama(torch.tensor([[4, 5]]), past_key_values=cache)
    with pytest.raises(UserError, match="whole prompt"):
        contrastive_search(llama, torch.tensor([[4, 5, 6]]), past_key_values=cache, **CALL)
    with pytest.raises(UserError, match="do not pass a StaticCache"):
        contrastive_search(
            llama, torch.tensor([[4, 5]]), past_key_values=StaticCache(config=llama.config, max_cache_len=32), **CALL
        )


def test_a_model_that_cannot_run_leaves_says_why(models):
    with pytest.raises(UserError, match="BloomForCausalLM cannot run its candidates as leaves: its positions"):
        contrastive_search(models("bloom"), torch.tensor([[4, 5]]), strategy="leaves", **CALL)


def test_a_model_without_cache_is_refused():
    from transformers import XLNetConfig, XLNetLMHeadModel

    model = XLNetLMHeadModel(XLNetConfig(vocab_size=97, d_model=32, n_layer=1, n_head=4, d_inner=32)).eval()
    with pytest.raises(UserError, match="cache"):
        contrastive_search(model, torch.tensor([[4, 5, 6]]), **CALL)


def test_a_model_that_keeps_its_state_to_itself_is_refused():
    from transformers import RecurrentGemmaConfig, RecurrentGemmaForCausalLM

    config = RecurrentGemmaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, lru_width=32
    )
    with pytest.raises(UserError, match="returned no key-value cache"):
        contrastive_search(RecurrentGemmaForCausalLM(config).eval(), torch.tensor([[4, 5, 6]]), **CALL)


def test_nan_logits_are_named(llama):
    weight = llama.lm_head.weight.data
    kept = weight[3].clone()
    weight[3] = torch.nan
    try:
        with pytest.raises(UserError, match=r"logits are NaN at new token 1 in rows \[0\]"):
            contrastive_search(llama, torch.tensor([[4, 5]]), **CALL)
    finally:
        weight[3] = kept


def test_no_view_holds_what_a_cache_was_before_it_grew():
    layer, prompt, leaves = LeafLayer(), torch.randn(1, 2, 3, 4), torch.randn(1, 2, 5, 4)
    layer.update(prompt, prompt)
    layer.sprout()
    assert layer.keys is None
    assert layer.values is None
    layer.update(leaves, -leaves)
    layer.commit(2, 5)
    layer.settle()
    assert torch.equal(layer.keys, torch.cat([prompt, leaves[:, :, 2:3]], dim=2))
    assert torch.equal(layer.values, torch.cat([prompt, -leaves[:, :, 2:3]], dim=2))
