"""A temperature goes on from the model's own, and back into the model that is saved: all that use the model read it."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import nearfar
from nearfar.classifiers.zero_shot import ZeroShotClassifier
from nearfar.data import train_tokenizer
from nearfar.methods import find
from nearfar.models import create
from nearfar.training import recipe as recipes
from nearfar.training.adapters import for_trainer, lightning_module

WORDS = ["a red fox", "the ship at sea", "a cat", "two dogs"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
QUIET = {"progress": False, "warmup": 0, "report": False}


def encoder(temperature=None, **options):
    torch.manual_seed(0)
    image = {"model_type": "vit", **SMALL, "patch_size": 8, "image_size": 16}
    text = {"model_type": "bert", **SMALL}
    tokenizer = train_tokenizer(WORDS * 5, 300)
    return create(image=image, text=text, tokenizer=tokenizer, embed_dim=8, temperature=temperature, **options)


def batches(model):
    return [{"image": torch.randn(4, 3, 16, 16), "text": model.tokenize(WORDS), "index": torch.arange(4)}]


METHODS = {"clip": 0.07, "align": 1.0, "siglip": 0.1, "negclip": 0.07}


@pytest.mark.parametrize(("name", "paper"), METHODS.items())
def test_the_first_temperature(name, paper):
    made = find(name)
    assert made(encoder()).loss.temperature().item() == pytest.approx(paper)
    assert made(encoder(0.03)).loss.temperature().item() == pytest.approx(0.03)
    assert made(encoder(0.03), temperature=0.5).loss.temperature().item() == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["clip", "negclip"])
def test_a_start_that_lies_outside_the_bounds_is_brought_inside(name):
    assert find(name)(encoder(0.00999)).loss.temperature().item() == pytest.approx(0.01)


@pytest.mark.parametrize("settings", [{}, {"ema": 0.5}])
@pytest.mark.parametrize("name", METHODS)
def test_what_was_learned_is_saved_and_gone_on_from(name, settings, tmp_path):
    model = encoder()
    run = nearfar.train(find(name)(model), batches(model), steps=4, lr=0.05, out=tmp_path, **settings, **QUIET)
    learned = run.method.loss.temperature().item()
    assert abs(learned - METHODS[name]) > 1e-3
    assert json.loads((tmp_path / "model" / "nearfar.json").read_text())["temperature"] == learned
    again = nearfar.load(tmp_path)
    assert again.temperature == learned
    assert find(name)(again).loss.temperature().item() == pytest.approx(learned, rel=1e-6)
    if name == "siglip":
        assert again.bias == run.method.loss.bias.item() != -10.0


def test_the_best_checkpoint_brings_its_own(tmp_path):
    losses = iter([1.0, 2.0, 3.0])
    model = encoder()
    taus = []

    def validation(method):
        taus.append(method.loss.temperature().item())
        return {"loss": next(losses)}

    settings = {"steps": 3, "lr": 0.05, "eval_every": 1, "final": "best", **QUIET}
    run = nearfar.train(find("clip")(model), batches(model), validation=validation, out=tmp_path, **settings)
    assert len(set(taus)) == 3
    assert run.model.temperature == nearfar.load(tmp_path).temperature == pytest.approx(taus[0])


def test_a_stage_goes_on_from_the_best_of_the_one_before(recipe, tmp_path):
    from nearfar.training.stages.finished import FinishedStage

    quiet = {"progress": False, "method.temperature": None, "eval_every": 1}
    recipes.load(recipe, {**quiet, "model.temperature": 0.5}).run(tmp_path / "first")
    stage = FinishedStage("first", tmp_path / "first")
    state = json.loads((tmp_path / "first" / "checkpoints" / "best" / "state.json").read_text())
    assert stage.best.temperature == state["learned"]["temperature"]
    second = recipes.load(recipe, {**quiet, "model.load": str(tmp_path / "first"), "steps": 1, "lr": 1e-9})
    assert second.run(tmp_path / "second").history[0]["temperature"] == pytest.approx(stage.model.temperature)


def test_an_ensemble_gives_the_geometric_mean():
    model = encoder(image_heads=2)
    method = find("ensemble")(model, of={"name": "siglip"})
    for member, tau, bias in zip(method.members, (0.1, 0.4), (-8.0, -6.0), strict=True):
        member.loss.temperature.value.data.fill_(-math.log(tau))
        member.loss.bias.data.fill_(bias)
    method.hand_over()
    assert (model.temperature, model.bias) == (pytest.approx(0.2), -7.0)


def test_other_loops_give_it_back():
    model = encoder()
    for_trainer(find("clip")(model), batches(model))["callbacks"][0].on_train_end(None, None, None)
    assert model.temperature == pytest.approx(0.07)
    model = encoder()
    lightning_module(find("align")(model), steps=1, loader=batches(model)).on_train_end()
    assert model.temperature == 1.0


def test_a_model_that_holds_none_is_left_alone():
    method = find("clip")(torch.nn.Linear(1, 1))
    method.hand_over()
    assert not hasattr(method.model, "temperature")


def test_zero_shot_takes_the_models_own():
    model = encoder(0.2).eval()
    classifier = ZeroShotClassifier(model, templates="{}").fit(WORDS)
    rows = torch.nn.functional.normalize(torch.randn(3, 8), dim=1)
    cosine = torch.from_numpy(classifier.decision_function(rows))
    np.testing.assert_allclose(classifier.predict_proba(rows), (cosine / 0.2).softmax(1), rtol=1e-5)
    np.testing.assert_allclose(classifier.predict_proba(rows, temperature=1.0), cosine.softmax(1), rtol=1e-5)
    classifier.encoder = SimpleNamespace(temperature=None)
    np.testing.assert_allclose(classifier.predict_proba(rows), (cosine / 0.01).softmax(1), rtol=1e-4)
