"""Weights that a run does not train are written once for all of its checkpoints, and come back with each."""

import json

import pytest
import torch
from torch import nn
from toy import Plain, loader

from nearfar import train
from nearfar.errors import UserError
from nearfar.methods.parts.momentum_encoder import MomentumEncoder
from nearfar.training.state import frozen_weights, run_checkpoint
from nearfar.training.state.frozen_weights import FrozenWeights

QUIET = {"progress": False, "report": False, "save_every": 1, "schedule": "constant", "warmup": 0}


class WithTower(Plain):
    """A frozen tower of 1 MiB and a momentum copy as large, which moves although it takes no gradient."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.tower = nn.Linear(512, 513).requires_grad_(False)
        self.trained = nn.Linear(512, 513)
        self.slow = MomentumEncoder(self.trained, 0.5)

    def forward(self, batch):
        return {"loss": super().forward(batch)["loss"] + sum(part.square().sum() for part in self.trained.parameters())}

    def after_step(self, step):
        super().after_step(step)
        self.slow.update()


def inside(run):
    """Names in the last checkpoint's file, and those in the folder of frozen weights."""
    from safetensors import safe_open

    with safe_open(run / "checkpoints/last/method.safetensors", "pt") as file:
        trained = set(file.keys())
    frozen = {}
    for path in (run / "checkpoints/frozen").glob("*"):
        with safe_open(path, "pt") as file:
            frozen[path.stem] = set(file.keys())
    return trained, frozen


def test_a_frozen_tower_is_written_once(tmp_path):
    method = WithTower()
    train(method, loader(), out=tmp_path, steps=3, keep=3, **QUIET)
    trained, frozen = inside(tmp_path)
    assert list(frozen.values()) == [{"tower.weight", "tower.bias"}]
    assert trained == method.state_dict().keys() - {"tower.weight", "tower.bias"}, "the momentum copy moves"
    states = [json.loads(path.read_text()) for path in sorted((tmp_path / "checkpoints").glob("step-*/state.json"))]
    assert [state["frozen"] for state in states] == list(frozen) * 3
    for step in (1, 3):
        saved = run_checkpoint.weights(tmp_path / f"checkpoints/step-0000000{step}")
        assert saved.keys() == method.state_dict().keys()
        assert torch.equal(saved["tower.weight"], method.tower.weight)


def test_a_resumed_run_gets_the_tower_of_the_one_before(tmp_path):
    """Also where its own would be another: drawn with another seed."""
    whole = WithTower()
    train(whole, loader(), out=tmp_path / "whole", steps=4, **QUIET)
    train(WithTower(), loader(), out=tmp_path / "run", steps=2, **QUIET)
    resumed = WithTower(seed=1)
    train(resumed, loader(), out=tmp_path / "run", steps=4, resume=True, **QUIET)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert inside(tmp_path / "run")[1] == inside(tmp_path / "whole")[1], "it is not written again"


def test_a_tower_that_begins_to_train_is_part_of_the_checkpoint(tmp_path):
    train(WithTower(), loader(), out=tmp_path, steps=1, keep=1, **QUIET)
    assert len(inside(tmp_path)[1]) == 1
    state = {**run_checkpoint.load(tmp_path / "checkpoints/last"), "step": 2}
    del state["progress"]["frozen"]
    run_checkpoint.Checkpoints(tmp_path / "checkpoints", keep=1).save(state, best=False)
    trained, frozen = inside(tmp_path)
    assert "tower.weight" in trained
    assert frozen == {}, "no checkpoint names them any more"


def test_frozen_weights_that_are_missing_are_named(tmp_path):
    train(WithTower(), loader(), out=tmp_path, steps=1, **QUIET)
    (path,) = (tmp_path / "checkpoints/frozen").iterdir()
    path.unlink()
    with pytest.raises(UserError, match=rf"is not a whole checkpoint: .*{path.name} is missing"):
        train(WithTower(), loader(), out=tmp_path, steps=2, resume=True, **QUIET)


@pytest.mark.parametrize("change", ["another weight", "another name", "cut"])
def test_frozen_weights_are_those_of_their_fingerprint(tmp_path, change):
    """Neither a run that goes on nor one that takes the weights alone reads others."""
    from safetensors.torch import load_file, save_file

    train(WithTower(), loader(), out=tmp_path, steps=1, **QUIET)
    (path,) = (tmp_path / "checkpoints/frozen").iterdir()
    weights = load_file(path)
    if change == "another weight":
        weights["tower.weight"][7, 7] += 1e-6
    if change == "another name":
        weights["tower.bias2"] = weights.pop("tower.bias")
    save_file(weights, path)
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    for read in (
        lambda: train(WithTower(), loader(), out=tmp_path, steps=2, resume=True, **QUIET),
        lambda: run_checkpoint.weights(tmp_path / "checkpoints/last"),
    ):
        with pytest.raises(UserError, match=rf"{path.name} does not hold the weights that it was named by: put this"):
            read()


def test_what_counts_as_frozen(monkeypatch):
    module = nn.ModuleDict({"a": nn.Linear(2, 2).requires_grad_(False), "b": nn.Linear(2, 2)})
    assert FrozenWeights(module).unchanged(module) == {}, "too little to be apart"
    monkeypatch.setattr(frozen_weights, "LEAST", 1)
    frozen = FrozenWeights(module)
    assert frozen.unchanged(module).keys() == {"a.weight", "a.bias"}
    module["a"].weight.add_(1e-3)
    assert frozen.unchanged(module).keys() == {"a.bias"}
    module["a"].bias.requires_grad_(True)
    assert frozen.unchanged(module) == {}
    half = torch.zeros(3, dtype=torch.bfloat16)
    assert len({frozen_weights.digest(x) for x in (half, half.float(), half[:2], half + 1, half.bool())}) == 5
