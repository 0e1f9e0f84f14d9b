"""The recipe of visual question answering, made small: from scratch, and on from a model of its own kind."""

import json

import pytest

import nearfar
from nearfar.errors import UserError
from nearfar.models import FusionAnswerer
from nearfar.training.recipe import load

BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
VIT = {**BERT, "model_type": "vit", "num_hidden_layers": 1, "patch_size": 16}
SMALL = {
    "data.train.n": 24,
    "data.validation.n": 8,
    "evaluation.data.n": 12,
    "model.image": VIT,
    "model.text": BERT,
    "model.text_layers": 1,
    "training.steps": 2,
    "training.batch_size": 4,
    "training.progress": False,
    "training.report": True,
}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run from scratch, and its folder."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    return load("albef-vqa", SMALL).run(folder), folder


def test_runs_from_scratch_and_on_from_its_model(first):
    run, folder = first
    assert isinstance(run.model, FusionAnswerer)
    actual = run.results["answering"]
    assert {"accuracy", "blank_image", "text_only", "most_frequent", "reachable"} <= set(actual.metrics)
    assert actual["reachable"] == 1
    assert set(actual.by["question_type"]) <= {"colour", "presence", "relation", "thing", "count"}
    assert "answering" in json.loads((folder / "results.json").read_text())["results"]
    assert (folder / "report.html").is_file()
    assert "val_accuracy" in run.metrics

    changed = {key: value for key, value in SMALL.items() if not key.startswith("model.")}
    recipe = load("albef-vqa", {**changed, "model.load": str(folder)})
    method = recipe.build().method
    assert isinstance(method.model, FusionAnswerer)
    saved = nearfar.load(folder).state_dict()
    assert all((value == saved[name]).all() for name, value in method.model.state_dict().items())

    larger = {**changed, "model.load": str(folder), "model.image_size": 96}
    built = load("albef-vqa", {**larger, "data.train.size": 96}).build()
    assert built.method.model.image_size == built.method.distillation.teacher.module.image_size == 96
    assert next(iter(built.loader))["image"].shape[2:] == (96, 96)
    with pytest.raises(UserError, match="embed_dim does not go with load"):
        load("albef-vqa", {**larger, "model.embed_dim": 4}).build()


def test_data_without_answers_are_refused(tmp_path):
    with pytest.raises(UserError, match="has no 'answers'"):
        load("albef-vqa", {**SMALL, "data.train": {"spec": "world/scenes", "size": 48, "n": 8}}).build()


def test_entailment_goes_on_from_the_same_model(first, tmp_path):
    """The paper's fine-tuning for entailment, on statements about scenes."""
    scenes = {"spec": "world/statements", "size": 64, "n": 12}
    changed = {
        "data.train": scenes,
        "data.validation": {**scenes, "split": "val"},
        "data.views": "none",
        "model.load": str(first[1]),
        "model.image_size": 64,
        "method.classes": 2,
        "training.precision": "no",
        "training.steps": 2,
        "training.warmup": 0,
        "training.batch_size": 4,
        "training.progress": False,
        "training.report": True,
        "evaluation.data": {**scenes, "split": "test"},
        "evaluation.options": {"entailment": {"train": {**scenes, "n": 40}}},
    }
    run = load("albef-entailment-paper", changed).run(tmp_path / "second")
    actual = run.results["entailment"]
    assert {"accuracy", "blank_image", "text_only", "most_frequent"} <= set(actual.metrics)
    assert actual.details["fitted_on"] == "40 statements of training"
    assert run.model.image_size == 64
    assert nearfar.load(tmp_path / "second").classes == 2
