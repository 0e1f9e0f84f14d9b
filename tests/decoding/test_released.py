"""Against outputs of the released implementation, recorded with the commit they came from (released/simctg.json)."""

import json
from pathlib import Path

import pytest
import torch

from nearfar.decoding import contrastive_search
from nearfar.evaluation.language.generation import diversity, repetition
from oracles.released_models import released_model

RECORDED = json.loads((Path(__file__).parent / "released" / "simctg.json").read_text())


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_decoding(family):
    model = released_model(family)
    cases = [case for case in RECORDED["decoding"] if case["family"] == family]
    assert len(cases) == 5
    for case in cases:
        prompt = torch.tensor([case["prompt"]])
        ours = contrastive_search(
            model, prompt, attention_mask=torch.ones_like(prompt), k=case["k"], alpha=case["alpha"], max_new_tokens=24
        )
        assert ours[0].tolist() == case["output"]


@pytest.mark.parametrize("case", RECORDED["diversity"], ids=lambda case: f"{len(case['texts'])} texts")
def test_diversity_as_released(case):
    *rep, overall = case["rep"]
    for n, expected in zip((2, 3, 4), rep, strict=True):
        assert round(100 * repetition(case["texts"], n, released=True), 2) == expected
    # the released code rounds each rep-n to two decimals before it multiplies
    assert diversity(case["texts"], released=True) == pytest.approx(overall, abs=1e-3)
