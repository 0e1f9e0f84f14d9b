"""Who trains pretrained towers on a CPU hears what it costs before it begins; the model is left as it was."""

import re

import pytest
import torch

from nearfar.data import train_tokenizer
from nearfar.methods import CLIP
from nearfar.models import create
from nearfar.training.recipe import forewarnings
from nearfar.training.recipe.forewarnings import tower_cost


@pytest.fixture
def method():
    torch.manual_seed(0)
    return CLIP(create("tiny", tokenizer=train_tokenizer(["a red square"], 300), image_size=32, embed_dim=16))


@pytest.fixture
def slow(monkeypatch):
    """A clock on which eight pictures take four seconds."""
    ticks = iter(range(0, 4000, 4))
    monkeypatch.setattr(forewarnings.time, "perf_counter", lambda: next(ticks))


def test_the_cost_is_of_the_whole_run(method, slow):
    # Half a second a picture, 100 pictures a step, forward and backward: 150 s; 36 steps: an hour and a half.
    said = tower_cost(method, 100, None, 36)
    assert "about 150 s a step and 1.5 hours for 36 steps" in said
    assert "model.freeze=[image,text]" in said
    weights = sum(p.numel() for p in method.model.image.parameters()) / 1e6
    assert f"({weights:.1f} million weights)" in said


def test_gradient_caching_embeds_twice(method, slow):
    assert "about 200 s a step and 33 minutes for 10 steps" in tower_cost(method, 100, 50, 10)


def test_a_short_run_and_frozen_towers_need_no_word(method, slow):
    assert tower_cost(method, 10, None, 10) is None
    method.model.freeze("image", "text")
    assert tower_cost(method, 100, None, 1000) is None


def test_the_model_and_the_draws_stay_as_they_were(method, slow):
    before = {name: value.clone() for name, value in method.state_dict().items()}
    modes = [module.training for module in method.modules()]
    state = torch.get_rng_state()
    assert re.search("hours", tower_cost(method, 100, None, 100))
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert [module.training for module in method.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
