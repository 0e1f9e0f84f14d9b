"""The recipe of LexiCLIP: two stages on texts alone, which differ in the queries that are drawn."""

import pytest
import torch

import nearfar
from nearfar.evaluation import load_results
from nearfar.methods import LexiCLIP
from nearfar.training.recipe import load

PAIRS = {"spec": "world/described", "n": 16}
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
QUICK = {
    "data.train": PAIRS,
    "data.validation": {**PAIRS, "split": "val", "n": 8},
    "training.batch_size": 8,
    "training.report": False,
    "training.progress": False,
    "training.save_every": 1,
    "stages.captions.model.name": BERT | {"intermediate_size": 32},
    "stages.captions.training.steps": 2,
    "stages.parts.training.steps": 2,
    "evaluation.data": {**PAIRS, "split": "test", "n": 8},
}


class Stop(BaseException):
    """Stands for a kill: nothing catches it."""


def test_a_run_that_was_stopped_in_the_second_stage_ends_with_the_same_weights(tmp_path, monkeypatch):
    load("lexiclip", QUICK).run(tmp_path / "whole")
    results = load_results(tmp_path / "whole" / "2-parts" / "results.json")
    assert {"pair_retrieval", "geometry"} <= set(results)
    model = nearfar.load(tmp_path / "whole" / "model")
    assert type(model).__name__ == "TextEncoder"
    with monkeypatch.context() as patch:
        patch.setattr(LexiCLIP, "embed", _after(LexiCLIP.embed, 3))
        with pytest.raises(Stop):
            load("lexiclip", QUICK).run(tmp_path / "stopped")
    assert (tmp_path / "stopped" / "2-parts").is_dir()
    load("lexiclip", QUICK).run(tmp_path / "stopped", resume=True)
    again = nearfar.load(tmp_path / "stopped" / "model").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def _after(function, most):
    """The function, which stops a run at the training call after so many."""

    def counted(self, batch):
        counted.calls += self.training
        if counted.calls > most:
            raise Stop
        return function(self, batch)

    counted.calls = 0
    return counted


@pytest.mark.parametrize("name", ["lexiclip", "lexiclip-paper"])
def test_captions_come_first_and_are_mixed_with_parts_after(name):
    first, second = (stage.recipe for stage in load(name).stages)
    assert (first.data.caption, second.data.caption) == ("first", 0.5)
    for recipe in (first, second):
        assert recipe.method["name"] == "lexiclip"
        assert recipe.training.schedule == "cosine"
    assert second.model["load"] == "previous"


def test_the_paper_s_scale():
    first, second = (stage.recipe for stage in load("lexiclip-paper").stages)
    assert first.data.max_length == 256
    assert first.model["name"] == "BAAI/bge-large-en-v1.5"
    for recipe in (first, second):
        training = recipe.training
        assert (training.batch_size, training.lr, training.weight_decay, training.warmup) == (512, 1e-5, 0.01, 0.05)
        assert recipe.method["temperature"] == 0.02
