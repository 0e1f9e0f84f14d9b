"""Several runs of a model side by side: the same tokens as when everything is read anew at each step."""

import pytest
import torch

from nearfar.decoding import ConditionRule, condition_generate
from nearfar.decoding.conditions.condition_runs import ConditionProcessor, ConditionRun
from nearfar.errors import UserError

RULES = {
    "two runs": ConditionRule(),
    "three runs": ConditionRule(contrast="vcd"),
    "three runs, growing": ConditionRule(contrast="m3id", decay=0.3, beta=0.0),
}
LENGTHS = {"own": (5, 3), "positive": (5, 3), "negative": (2, 4)}
"""Tokens of each row of what is read first."""


@pytest.fixture
def read(prompts):
    """Token ids and masks of the picture and its conditions, padded on the left."""
    made = {role: prompts(lengths, seed=seed) for seed, (role, lengths) in enumerate(LENGTHS.items())}
    return {role: {"input_ids": ids, "attention_mask": mask} for role, (ids, mask) in made.items()}


def recomputed(model, read, rule, steps, row):
    """The likeliest joint token at each step, of one row, every run read whole and without padding each time."""
    starts = {role: each["input_ids"][row][each["attention_mask"][row] > 0] for role, each in read.items()}
    written = torch.zeros(0, dtype=torch.long)
    for step in range(steps):
        logits = {
            role: model(torch.cat([start, written])[None], use_cache=False).logits[0, -1].float()
            for role, start in starts.items()
        }
        negative = logits["negative"] if rule.takes_negative else None
        joined = rule(logits["own"], logits["positive"], negative, step)
        written = torch.cat([written, joined.argmax()[None]])
    return written.tolist()


def generated(model, read, rule, steps=8, **options):
    own = read["own"]
    conditions = {role: read[role] for role in ("positive", "negative") if role == "positive" or rule.takes_negative}
    with torch.no_grad():
        ids = model.generate(
            **own,
            custom_generate=condition_generate,
            rule=rule,
            **conditions,
            **{"do_sample": False, "max_new_tokens": steps, "pad_token_id": 0, **options},
        )
    return ids[:, own["input_ids"].shape[1] :]


def row_of(read, row):
    return {role: {name: each[row : row + 1] for name, each in inputs.items()} for role, inputs in read.items()}


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gemma3"])
@pytest.mark.parametrize("kind", RULES)
def test_caches_and_padding_change_nothing(models, read, name, kind):
    model, rule = models(name), RULES[kind]
    together = generated(model, read, rule)
    for row in range(2):
        assert together[row].tolist() == recomputed(model, read, rule, 8, row)
        assert generated(model, row_of(read, row), rule)[0].tolist() == together[row].tolist()
    plain = generated(model, read, ConditionRule(alpha=0.0))
    assert together.tolist() != plain.tolist(), "conditions say nothing here"


def test_embeddings_are_read_as_tokens_are(models, read):
    model = models("llama")
    embedded = {
        role: {
            "inputs_embeds": model.get_input_embeddings()(each["input_ids"]),
            "attention_mask": each["attention_mask"],
        }
        for role, each in read.items()
    }
    rule = RULES["three runs"]
    expected = generated(model, read, rule)
    assert generated(model, {**read, "positive": embedded["positive"], "negative": embedded["negative"]}, rule).equal(
        expected
    )
    with torch.no_grad():
        ids = model.generate(
            **embedded.pop("own"), custom_generate=condition_generate, rule=rule, **embedded, do_sample=False,
            max_new_tokens=8, pad_token_id=0,
        )  # fmt: skip
    assert ids.equal(expected)


def test_drawn_tokens_have_the_joint_shares(models, read):
    model, rule = models("llama"), ConditionRule(alpha=0.5, beta=0.3)
    one = row_of(read, 0)
    torch.manual_seed(0)
    drawn = generated(model, one, rule, 1, do_sample=True, top_k=0, num_return_sequences=4000)[:, 0]
    first = {role: model(**inputs).logits[0, -1] for role, inputs in one.items()}
    shares = rule(first["own"], first["positive"]).softmax(-1)
    assert 1 < (shares > 0).sum() < 60
    counted = torch.bincount(drawn, minlength=len(shares)) / 4000
    assert (counted[shares == 0] == 0).all()
    assert (counted - shares).abs().max() < 4 * (0.25 / 4000) ** 0.5
    # Temperature comes after the logits are joined.
    cold = generated(model, one, rule, 1, do_sample=True, top_k=0, temperature=0.01, num_return_sequences=20)
    assert set(cold[:, 0].tolist()) == {int(shares.argmax())}


def test_several_texts_of_a_row_are_of_its_own_conditions(models, read):
    model, rule = models("llama"), RULES["three runs"]
    torch.manual_seed(0)
    several = generated(model, read, rule, 6, do_sample=True, temperature=1e-3, top_k=0, num_return_sequences=2)
    expected = generated(model, read, rule, 6)
    assert several.tolist() == expected.repeat_interleave(2, 0).tolist()


def test_processors_and_temperature_come_after_the_logits_are_joined(models, read):
    model, rule, noted = models("llama"), RULES["two runs"], []

    def note(ids, scores):
        noted.append(scores.clone())
        return scores

    generated(model, read, rule, 1, logits_processor=[note], do_sample=True, temperature=5.0, suppress_tokens=[7])
    with torch.no_grad():
        own, positive = (model(**read[role]).logits[:, -1].float() for role in ("own", "positive"))
    expected = rule(own, positive).index_fill(1, torch.tensor([7]), -torch.inf)
    torch.testing.assert_close(noted[0], expected, rtol=1e-4, atol=1e-4)
    first = generated(model, read, rule, 1)
    other = generated(model, read, rule, 1, suppress_tokens=first[:, 0].tolist())
    assert not set(other[:, 0].tolist()) & set(first[:, 0].tolist())


def test_a_row_that_has_ended_waits_for_the_others(models, read):
    model, rule = models("llama"), RULES["two runs"]
    long = generated(model, read, rule, 8)
    end = next(token for token in long[0].tolist() if token not in long[1].tolist())
    short = generated(model, read, rule, 8, eos_token_id=end)
    place = long[0].tolist().index(end)
    assert short[0].tolist() == long[0].tolist()[: place + 1] + [0] * (7 - place)
    assert short[1].tolist() == long[1].tolist()


def test_without_conditions_it_is_what_generate_does(models, read):
    model = models("llama")
    own = read["own"]
    with torch.no_grad():
        ids = model.generate(
            **own, custom_generate=condition_generate, do_sample=False, max_new_tokens=5, pad_token_id=0
        )
        plain = model.generate(**own, do_sample=False, max_new_tokens=5, pad_token_id=0)
    assert ids.equal(plain)


def test_one_text_prompt_against_another(models, read):
    """Contrastive decoding of texts: the same model with another prompt."""
    model = models("llama")
    rule = ConditionRule(alpha=0.0, contrast="vcd")
    with torch.no_grad():
        ids = model.generate(
            **read["own"], custom_generate=condition_generate, rule=rule, negative=read["negative"], do_sample=False,
            max_new_tokens=1, pad_token_id=0,
        )  # fmt: skip
        own, other = (model(**read[role]).logits[:, -1] for role in ("own", "negative"))
    assert ids[:, -1].equal(rule(own, negative=other).argmax(-1))


def test_what_cannot_be_is_named(models, read):
    model, rule = models("llama"), RULES["two runs"]
    with pytest.raises(UserError, match="num_beams=3"):
        generated(model, read, rule, num_beams=3)
    three = {name: each[[0, 1, 0]] for name, each in read["positive"].items()}
    with pytest.raises(UserError, match="3 rows where 2 are written"):
        generated(model, {**read, "positive": three}, rule)
    with pytest.raises(UserError, match="needs 'input_ids' or 'inputs_embeds'"):
        ConditionRun(model, {"pixel_values": torch.zeros(1, 3, 8, 8)})
    with pytest.raises(UserError, match="padded on the right"):
        ConditionRun(model, {"input_ids": torch.ones(1, 2).long(), "attention_mask": torch.tensor([[1, 0]])})
    with pytest.raises(UserError, match="keeps no cache of keys and values"):
        ConditionRun(models("mamba"), {"input_ids": torch.ones(1, 2).long()})


def test_a_condition_without_a_mask_is_read_whole(models, read):
    model, ids = models("llama"), read["own"]["input_ids"][:1]
    run = ConditionRun(model, {"input_ids": ids})
    with torch.no_grad():
        torch.testing.assert_close(run.next_logits(), model(ids).logits[:, -1])
        longer = torch.cat([ids, torch.tensor([[9]])], 1)
        torch.testing.assert_close(run.next_logits(longer), model(longer).logits[:, -1])


def test_scores_keep_their_dtype(models, read):
    model = models("llama")  # in float64
    processor = ConditionProcessor(ConditionRule(), ConditionRun(model, read["positive"]), None)
    assert processor(torch.zeros(2, 0).long(), torch.zeros(2, 97)).dtype == torch.float32


def test_a_model_of_transformers_that_reads_pictures():
    """LLaVA's own class, tiny: another picture is added, no picture is subtracted."""
    import transformers as hf

    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**shape, image_size=16, patch_size=8),
        text_config=hf.LlamaConfig(**shape, vocab_size=97, pad_token_id=0, bos_token_id=1, eos_token_id=None),
        image_token_index=96,
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    model = hf.LlavaForConditionalGeneration(config).double().eval()
    for weight in model.parameters():
        if weight.ndim >= 2:
            torch.nn.init.normal_(weight, std=0.3)
    ids = torch.tensor([[1, *[96] * 4, 5, 6]])
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    own = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels[:1]}
    positive = {**own, "pixel_values": pixels[1:]}
    negative = {"input_ids": ids[:, [0, 5, 6]], "attention_mask": torch.ones(1, 3).long()}
    rule = RULES["three runs, growing"]
    written = torch.zeros(1, 0).long()
    with torch.no_grad():
        for step in range(6):
            logits = []
            for read in (own, positive, negative):
                whole = torch.cat([read["input_ids"], written], 1)
                rest = {name: each for name, each in read.items() if name == "pixel_values"}
                logits.append(model(input_ids=whole, **rest, use_cache=False).logits[:, -1].float())
            written = torch.cat([written, rule(*logits, step).argmax(-1)[:, None]], 1)
        made = model.generate(
            **own, custom_generate=condition_generate, rule=rule, positive=positive, negative=negative, do_sample=False,
            max_new_tokens=6, pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
    assert made[:, 7:].tolist() == written.tolist()
