"""The recipes of CG-VLM: a language model, a projector aligned by two losses, then answers, stage after stage."""

import pytest
import torch
import yaml

import nearfar
from nearfar.errors import UserError
from nearfar.evaluation import load_results
from nearfar.methods import CGVLM
from nearfar.training.recipe import load

SCENES = {"spec": "world/scenes", "vocabulary": "shapes", "size": 32, "n": 24}
QUESTIONS = {"spec": "world/questions", "vocabulary": "shapes", "objects": 2, "size": 32, "n": 24}
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
QUICK = {
    "data.validation": {**SCENES, "split": "val", "n": 8},
    "training.batch_size": 8,
    "training.report": False,
    "training.progress": False,
    "stages.words.data.train": SCENES,
    "stages.align.data.train": SCENES,
    "stages.answer.data.train": QUESTIONS,
    "stages.answer.data.validation": {**QUESTIONS, "split": "val", "n": 8},
    "stages.align.model.image": VIT | {"intermediate_size": 32},
    "stages.align.model.image_size": 32,
    "stages.words.training.epochs": 1,
    "stages.align.training.steps": 2,
    "stages.answer.training.steps": 2,
    "stages.align.evaluation.data": {**SCENES, "split": "test", "n": 8},
    "stages.answer.evaluation.data": {**QUESTIONS, "split": "test", "n": 8},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    load("cg-vlm", QUICK).run(out)
    return out


def test_each_stage_trains_its_part_of_the_model_before(whole):
    words, aligned, answers = (nearfar.load(whole / name / "model") for name in ("1-words", "2-align", "3-answer"))
    table = "model.embed_tokens.weight"
    assert torch.equal(words.lm.state_dict()[table], aligned.lm.state_dict()[table])
    assert not torch.equal(aligned.lm.state_dict()[table], answers.lm.state_dict()[table])
    assert all(torch.equal(a, b) for a, b in zip(aligned.image.parameters(), answers.image.parameters(), strict=True))
    assert (aligned.frozen, answers.frozen) == (("image", "lm"), ("image",))
    assert set(load_results(whole / "2-align" / "results.json")) == {"captioning"}
    assert set(load_results(whole / "3-answer" / "results.json")) == {"answering"}
    kept = yaml.safe_load((whole / "config.yaml").read_text())
    assert kept["stages"][1]["model"]["language"] == "previous"


def test_a_run_that_was_interrupted_ends_with_the_same_weights(whole, tmp_path, monkeypatch):
    """In the middle of the alignment, after a checkpoint."""

    def stop(method, step):
        if step == 2:
            raise RuntimeError("stopped")

    saving = {**QUICK, "training.save_every": 1}
    with monkeypatch.context() as patch:
        patch.setattr(CGVLM, "after_step", stop)
        with pytest.raises(RuntimeError, match="stopped"):
            load("cg-vlm", saving).run(tmp_path / "again")
    assert list((tmp_path / "again" / "2-align").rglob("*step*1*")), "a checkpoint"
    load("cg-vlm", saving).run(tmp_path / "again", resume=True)
    one, other = (nearfar.load(each / "model").state_dict() for each in (whole, tmp_path / "again"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_previous_needs_a_stage_before(tmp_path):
    path = tmp_path / "alone.yaml"
    values = {"model": {"make": "vision_language_model", "language": "previous"}, "method": {"name": "cg_vlm"}}
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=r"model\.language: 'previous' is the model of the stage before"):
        load(path)


@pytest.mark.parametrize("name", ["cg-vlm", "cg-vlm-paper"])
def test_recipes_have_the_settings_of_the_specification(name):
    *_, align, answer = (stage.recipe for stage in load(name).stages)
    assert (align.method["contrast"], align.method["temperature"]) == (1.0, 0.07)
    assert (answer.method["name"], answer.model["freeze"]) == ("instruction", ["image"])
