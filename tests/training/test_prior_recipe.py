"""The recipe of PRIOR: a reference on the captions alone, then the model that writes them, in the same vocabulary."""

import pytest
import torch
import yaml

import nearfar
from nearfar.errors import UserError
from nearfar.evaluation import load_results
from nearfar.methods.lvlm.prior import PRIOR
from nearfar.training.recipe import load

SCENES = {"spec": "world/scenes", "vocabulary": "shapes", "size": 32, "n": 24}
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
QUICK = {
    "data.train": SCENES,
    "data.validation": {**SCENES, "split": "val", "n": 8},
    "training.batch_size": 8,
    "training.report": False,
    "training.progress": False,
    "stages.captions.model.image": VIT | {"intermediate_size": 32},
    "stages.captions.model.image_size": 32,
    "stages.captions.model.pool": 2,
    "stages.captions.training.steps": 2,
    "stages.captions.evaluation.data": {**SCENES, "split": "test", "n": 8},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    load("prior", QUICK).run(out)
    return out


def test_the_reference_of_the_first_stage_weighs_the_tokens_of_the_second(whole):
    reference, model = nearfar.load(whole / "1-reference" / "model"), nearfar.load(whole / "model")
    assert reference.tokenizer.get_vocab() == model.tokenizer.get_vocab()
    assert set(load_results(whole / "2-captions" / "results.json")) == {"captioning"}
    pixels = torch.zeros(1, 3, 32, 32)
    assert len(model.caption(pixels, max_tokens=3)) == 1
    kept = yaml.safe_load((whole / "config.yaml").read_text())
    assert kept["stages"][1]["method"]["reference"] == "previous"


class Stop(BaseException):
    """Stands for a kill: nothing catches it."""


def test_a_run_that_was_stopped_ends_with_the_same_weights(whole, tmp_path, monkeypatch):
    """Stopped in the second stage, after its first step."""
    saving = {**QUICK, "training.save_every": 1}
    original = PRIOR.forward

    def stopping(self, batch):
        stopping.calls += 1
        if stopping.calls == 2:
            raise Stop
        return original(self, batch)

    stopping.calls = 0
    with monkeypatch.context() as patch:
        patch.setattr(PRIOR, "forward", stopping)
        with pytest.raises(Stop):
            load("prior", saving).run(tmp_path / "stopped")
    assert (tmp_path / "stopped" / "2-captions" / "checkpoints").is_dir()
    load("prior", saving).run(tmp_path / "stopped", resume=True)
    one, other = (nearfar.load(each / "model").state_dict() for each in (whole, tmp_path / "stopped"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_previous_needs_a_stage_before(tmp_path):
    path = tmp_path / "alone.yaml"
    values = {"model": {"make": "vision_language_model"}, "method": {"name": "prior", "reference": "previous"}}
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=r"method\.reference: 'previous' is the model of the stage before"):
        load(path)


@pytest.mark.parametrize("name", ["prior", "prior-paper"])
def test_recipes_have_the_paper_s_alpha_and_a_reference_of_words_alone(name):
    first, second = (stage.recipe for stage in load(name).stages)
    assert (first.method["name"], first.method["weight"]) == ("simctg", 0.0)
    assert (second.method["alpha"], second.method["reference"]) == (1.0, "previous")
