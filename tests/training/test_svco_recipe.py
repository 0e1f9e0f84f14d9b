"""The recipe of S-VCO: captions of the first pictures, then both pictures of each pair, against the model of before."""

import pytest
import torch
from safetensors.torch import load_file

import nearfar
from nearfar.evaluation import load_results
from nearfar.methods import SVCO
from nearfar.training.recipe import load

PAIRS = {"spec": "world/contrasts", "vocabulary": "shapes", "size": 32, "n": 24}
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
QUICK = {
    "data.train": PAIRS,
    "data.validation": {**PAIRS, "split": "val", "n": 8},
    "evaluation.data": {**PAIRS, "split": "test", "n": 8},
    "training.report": False,
    "training.progress": False,
    "stages.captions.model.image": VIT | {"intermediate_size": 32},
    "stages.captions.model.image_size": 32,
    "stages.captions.model.pool": 2,
    "stages.captions.training.steps": 2,
    "stages.captions.training.batch_size": 8,
    "stages.contrast.training.steps": 5,
    "stages.contrast.training.batch_size": 8,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    load("s-vco", QUICK).run(out)
    return out


def test_it_goes_on_from_the_model_that_writes(whole):
    before, after = nearfar.load(whole / "1-captions" / "model"), nearfar.load(whole / "model")
    assert any(not torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items())
    assert set(load_results(whole / "2-contrast" / "results.json")) == {"captioning", "contrasts"}


class Stop(BaseException):
    """Stands for a kill: nothing catches it."""


def test_a_run_that_was_stopped_ends_with_the_same_weights(whole, tmp_path, monkeypatch):
    """Stopped in the second pass over the pairs, when the reference is read from what was kept of it."""
    saving = {**QUICK, "training.save_every": 1}
    original = SVCO.after_step

    def after_step(self, step):
        if step == 5:
            raise Stop
        original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(SVCO, "after_step", after_step)
        with pytest.raises(Stop):
            load("s-vco", saving).run(tmp_path / "stopped")
    load("s-vco", saving).run(tmp_path / "stopped", resume=True)
    one, other = (nearfar.load(each / "model").state_dict() for each in (whole, tmp_path / "stopped"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    methods = [
        load_file(each / "2-contrast" / "checkpoints" / "last" / "method.safetensors")
        for each in (whole, tmp_path / "stopped")
    ]
    assert not methods[0]["cache.likelihoods"].isnan().any(), "each pair was read once"
    assert all(torch.equal(value, methods[1][name]) for name, value in methods[0].items())


@pytest.mark.parametrize("name", ["s-vco", "s-vco-paper"])
def test_recipes_have_the_paper_s_betas(name):
    recipe = load(name)
    method = recipe.stages[-1].recipe.method if name == "s-vco" else recipe.method
    assert (method["name"], method["betas"]) == ("svco", (0.1,) * 4)
