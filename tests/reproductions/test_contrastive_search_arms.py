"""The arms at toy size, with a fresh model in the place of the pretrained one."""

import math

import pytest
import torch

import nearfar.reproductions.decoding.contrastive_search_reproduction as module
from nearfar.models.language import model as language


def test_every_claim_is_about_an_arm_that_is_measured(monkeypatch):
    fresh = language.language_model

    def toy(name="smollm2", **options):
        if name == "smollm2":
            from nearfar.data.fields.text import train_tokenizer
            from nearfar.data.sources.text_corpus import corpus

            options["tokenizer"] = train_tokenizer(corpus("python").texts()[:100], 400)
        return fresh("tiny", **options)

    monkeypatch.setattr(language, "language_model", toy)
    monkeypatch.setitem(module.CONFIG, "prompts", 4)
    monkeypatch.setitem(module.CONFIG, "new_tokens", 6)
    small = module.CONFIG["small"] | {"vocab_size": 400, "steps": 2, "batch_size": 2}
    monkeypatch.setitem(module.CONFIG, "small", small)
    monkeypatch.setitem(module.CONFIG, "fine_tuning", module.CONFIG["fine_tuning"] | {"steps": 1})
    module.judge.cache_clear()
    arms = module.run(1)
    module.judge.cache_clear()
    for claim in module.reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert math.isfinite(float(arms[arm][claim.metric]))
    assert float(arms["human text"]["diversity_gap"]) == 0
    assert arms["SmolLM2, greedy"]["coherence"].group.tolist() == [4, 5, 6, 7], "seed 1's own prompts"


def test_seeds_share_no_prompt():
    prompts = [prompt for seed in module.reproduction.seeds for prompt in module.held_out(seed)[0]]
    assert len(set(prompts)) == len(prompts) == 6 * module.CONFIG["prompts"]
    with pytest.raises(ValueError, match="passages for"):
        module.held_out(100)


class Fixed:
    """Logits that never change: a likely token, ten of middling and a hundred of small, falling probability."""

    def __init__(self, size: int) -> None:
        probs = torch.zeros(size, dtype=torch.float64)
        probs[0], probs[1:11] = 0.3, 0.055
        probs[11:111] = torch.linspace(2.25, 0.75, 100) * 1e-3
        self.probs = probs / probs.sum()

    def kept(self, sampler: str) -> set[int]:
        """What each sampler may draw, by its definition."""
        information = -self.probs.clamp_min(1e-300).log()
        surprise = (information - (self.probs * information).sum()).abs()
        order = {"typical": surprise}.get(sampler, information).sort(stable=True).indices
        share = {"nucleus": module.CONFIG["top_p"], "typical": module.CONFIG["typical_p"]}
        if sampler == "top-k":
            return set(order[: module.CONFIG["top_k"]].tolist())
        count = int((self.probs[order].cumsum(0) < share[sampler]).sum()) + 1
        last = (information if sampler == "nucleus" else surprise)[order[count - 1]]
        ties = [i for i in order[count:].tolist() if sampler == "typical" and surprise[i] - last < 1e-9]
        return set(order[:count].tolist() + ties)


def test_each_sampler_draws_from_its_own_set_of_tokens(monkeypatch):
    from nearfar.data.fields.text import train_tokenizer

    model = language.language_model("tiny", tokenizer=train_tokenizer(["a red car"], 300))
    fixed = Fixed(model.lm.config.vocab_size)
    logits = fixed.probs.clamp_min(1e-30).log().float()
    model.lm.lm_head.register_forward_hook(lambda _, inputs, output: logits.expand_as(output))
    monkeypatch.setitem(module.CONFIG, "new_tokens", 16)  # of many prompts: a step costs more than a row of it
    tokens = model.tokenize_prompts(["a red car"] * 640)
    drawn = {}
    for name in ("top-k", "nucleus", "typical"):
        ids = module.decoders()[name](model.lm, tokens, 0)[:, tokens["input_ids"].shape[1] :]
        drawn[name] = set(ids.flatten().tolist())
        assert drawn[name] == fixed.kept(name), name
    assert 0 not in drawn["typical"], "the likeliest token is too sure to be typical"
    assert len({frozenset(chosen) for chosen in drawn.values()}) == 3, "no two samplers are one and the same"
