"""The recipes of CLOSE: an image-text model, then captions from texts alone, and pictures afterwards."""

import json

import pytest
import torch
import yaml

import nearfar
from nearfar.data import open_source
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.methods import CLOSE
from nearfar.training.loop.optim import lr_factor
from nearfar.training.recipe import load

SCENES = {"spec": "world/scenes", "vocabulary": "shapes", "size": 32, "n": 24}
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TEST = {**SCENES, "split": "test", "n": 8}
QUICK = {
    "data.train": SCENES,
    "data.validation": {**SCENES, "split": "val", "n": 8},
    "training.batch_size": 8,
    "training.report": False,
    "training.progress": False,
    "stages.pair.model.image": VIT | {"intermediate_size": 32},
    "stages.pair.model.text": BERT | {"intermediate_size": 32},
    "stages.pair.model.image_size": 32,
    "stages.pair.training.epochs": 1,
    "stages.pair.evaluation.data": TEST,
    "stages.captions.training.steps": 2,
    "stages.captions.evaluation.data": TEST,
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A table without pictures."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    lines = [{"text": f"a {colour} {shape}"} for colour in ("red", "blue", "green") for shape in ("circle", "star")]
    path.write_text("\n".join(map(json.dumps, lines * 4)))
    return path


def test_texts_of_ones_own_are_learnt_and_pictures_captioned(tmp_path, texts):
    out = tmp_path / "run"
    load("close", {**QUICK, "stages.captions.data.train": str(texts), "stages.captions.data.validation": 0.2}).run(out)
    pair, model = nearfar.load(out / "1-pair" / "model"), nearfar.load(out / "model")
    measured = evaluate(model, open_source(**TEST), ["captioning"])["captioning"]
    assert measured.metrics["token_f1"].n == 8
    assert model.frozen == ("image", "head")
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        vectors = pair.encode_image(pixels, normalize=True)
    assert model.caption(pixels, max_tokens=3) == model.caption(vectors, max_tokens=3)
    kept = yaml.safe_load((out / "config.yaml").read_text())["stages"][1]
    assert (kept["method"]["pair"], kept["model"]["image"]) == ("previous", "previous")


def test_a_run_that_was_killed_ends_with_the_same_weights(tmp_path, monkeypatch):
    settings = {**QUICK, "training.save_every": 1}
    load("close", settings).run(tmp_path / "whole")
    forward, trained = CLOSE.forward, []

    def killed_at_the_second(self, batch):
        trained.append(self.training)
        if sum(trained) == 2:
            raise KeyboardInterrupt
        return forward(self, batch)

    monkeypatch.setattr(CLOSE, "forward", killed_at_the_second)
    stopped = load("close", settings)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(tmp_path / "killed")
    monkeypatch.undo()
    load("close", settings).run(tmp_path / "killed", resume=True)
    one, other = (nearfar.load(tmp_path / name / "model").state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_previous_needs_a_stage_before(tmp_path):
    path = tmp_path / "alone.yaml"
    model = {"make": "vision_language_model", "read": "embedding"}
    for setting, value in (("method", {"pair": "previous"}), ("model", {"image": "previous"})):
        values = {"model": model, "method": {"name": "close", "pair": "starter"}}
        values[setting] = values[setting] | value
        path.write_text(yaml.safe_dump(values))
        with pytest.raises(UserError, match=rf"{setting}\.{next(iter(value))}: 'previous' is the model of the stage"):
            load(path)


def test_features_of_pictures_are_not_read_ahead(tmp_path, texts):
    from nearfar.data import train_tokenizer
    from nearfar.models import create

    tokenizer = train_tokenizer(["a red circle"] * 3, 300)
    towers = {"image": VIT, "text": BERT, "image_size": 32, "embed_dim": 8}
    folder = create(**towers, tokenizer=tokenizer).save_pretrained(tmp_path / "pair")
    settings = {"data.train": str(texts), "model.image": str(folder), "method.pair": str(folder)}
    with pytest.raises(UserError, match="CLOSE reads no pictures"):
        load("close-texts", {**settings, "data.precompute": ["none"]}).run(tmp_path / "run")


@pytest.mark.parametrize("name", ["close", "close-texts", "close-paper"])
def test_recipes_are_the_paper_s(name):
    recipe = load(name)
    last = recipe.stages[-1].recipe if hasattr(recipe, "stages") else recipe
    assert (last.model["read"], last.model["tokens"], last.model["projector"]) == ("embedding", 4, "linear")
    assert last.method.get("adapter", "noise") == "noise"
    assert last.method.get("noise") in (None, 0.12)
    if name == "close-paper":
        assert (last.training.lr, last.training.weight_decay, last.training.epochs) == (3e-4, 0.0, 8)
        assert (last.training.batch_size, last.training.betas, last.training.clip_norm) == (128, (0.9, 0.999), None)


def test_the_schedule_falls_to_nothing():
    """In the released code it is counted in examples and stepped by batches: 1 - 1 / 128 of the rate is left."""
    recipe = load("close-paper").training
    factors = [lr_factor(step, 100, recipe) for step in (0, 50, 100)]
    assert factors == pytest.approx([1.0, 0.5, 0.0])
