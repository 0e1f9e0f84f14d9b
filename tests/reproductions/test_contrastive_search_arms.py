"""The arms at toy size, with a fresh model in the place of the pretrained one."""

import math

import pytest

import nearfar.reproductions.contrastive_search as module
from nearfar.models import language


def test_every_claim_is_about_an_arm_that_is_measured(monkeypatch):
    fresh = language.language_model

    def toy(name="smollm2", **options):
        if name == "smollm2":
            from nearfar.data.text import train_tokenizer
            from nearfar.data.text_corpus import corpus

            options["tokenizer"] = train_tokenizer(corpus("python").texts()[:100], 400)
        return fresh("tiny", **options)

    monkeypatch.setattr(language, "language_model", toy)
    monkeypatch.setitem(module.CONFIG, "prompts", 2)
    monkeypatch.setitem(module.CONFIG, "new_tokens", 6)
    small = module.CONFIG["small"] | {"vocab_size": 400, "steps": 2, "batch_size": 2}
    monkeypatch.setitem(module.CONFIG, "small", small)
    monkeypatch.setitem(module.CONFIG, "fine_tuning", module.CONFIG["fine_tuning"] | {"steps": 1})
    arms = module.run(1)
    for claim in module.reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert math.isfinite(arms[arm][claim.metric])
    assert arms["human text"]["diversity_gap"] == 0


def test_seeds_share_no_prompt():
    seen = [prompt for seed in module.reproduction.seeds for prompt in module.held_out(seed)[0]]
    assert len(set(seen)) == len(seen) == 3 * module.CONFIG["prompts"]
    with pytest.raises(ValueError, match="passages for"):
        module.held_out(100)
