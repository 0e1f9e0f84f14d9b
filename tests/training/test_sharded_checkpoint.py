"""A sharded run's checkpoint is written in parts, and opens on any number of processes with the same numbers."""

import json
import shutil
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
import ranks
from safetensors import safe_open
from sharded_work import begin, go_on, killed_while_saving
from toy import Pairs, loader

from nearfar import train
from nearfar.errors import UserError
from nearfar.training.state import run_checkpoint

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs that were stopped, by how many sharded processes they had; 0 is one process without sharding."""
    folder = tmp_path_factory.mktemp("runs")
    begin(str(folder / "0"))
    for world in (1, 2):
        ranks.run(begin, world, str(folder / str(world)), env=FSDP)
    return folder


@pytest.fixture(scope="module")
def alone(runs, tmp_path_factory):
    """The run of one process, resumed by one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    shutil.copytree(runs / "0", out, symlinks=True)
    return go_on(str(out))


def equal(actual, kept):
    assert actual.keys() == kept.keys()
    for name, value in kept.items():
        np.testing.assert_array_equal(actual[name], value.numpy(), err_msg=name)


@pytest.mark.parametrize(
    ("before", "now", "sharded"),
    [(2, 2, True), (2, 1, True), (2, 1, False), (1, 2, True), (2, 4, True), (0, 2, True)],
)
def test_a_run_goes_on_with_another_number_of_processes(before, now, sharded, runs, alone, tmp_path):
    """It begins with the very bits that were saved, and ends where one process ends."""
    out = tmp_path / "run"
    shutil.copytree(runs / str(before), out, symlinks=True)
    kept = run_checkpoint.load(out / "checkpoints" / "last")
    actual = ranks.run(go_on, now, str(out), env=FSDP) if sharded else [go_on(str(out))]
    for rank in actual:
        assert rank["step"] == 3
        assert (rank["split"] > 8) == sharded
        equal(rank["method"], kept["method"])
        equal(rank["average"], kept["average"])
        moments = kept["optimizer"]["optimizer"]["state"]
        assert rank["optimizer"].keys() == moments.keys()
        for number, values in moments.items():
            equal(rank["optimizer"][number], values)
        for name, value in alone["end"].items():
            np.testing.assert_allclose(rank["end"][name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert len({rank["drawn"] for rank in actual}) == now, "every process draws numbers of its own"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_while_parts_are_written_loses_nothing(when, runs, alone, tmp_path):
    """SIGKILL of one of two processes in the second checkpoint: the first is whole, and the run goes on from it."""
    out = tmp_path / "run"
    with pytest.raises((BrokenProcessPool, UserError)):
        ranks.run(killed_while_saving, 2, str(out), when, env=FSDP)
    checkpoints = out / "checkpoints"
    assert [path.name for path in checkpoints.glob("step-*")] == ["step-00000003"]
    assert (checkpoints / "last").resolve().name == "step-00000003"
    kept = run_checkpoint.load(runs / "2" / "checkpoints" / "last")
    for rank in ranks.run(go_on, 2, str(out), env=FSDP):
        assert rank["step"] == 3
        equal(rank["method"], kept["method"])
        for name, value in alone["end"].items():
            np.testing.assert_allclose(rank["end"][name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert not list(checkpoints.glob(".*.tmp")), "leftovers of the killed run"


def test_each_process_writes_its_parts_and_no_whole_tensor(runs):
    last = runs / "2" / "checkpoints" / "last"
    names = ["optimizer.pt", "process-0.pt", "process-1.pt", "shards", "state.json"]
    assert sorted(path.name for path in last.iterdir()) == names
    files = sorted((last / "shards").iterdir())
    assert json.loads((last / "state.json").read_text())["shards"] == [path.name for path in files]
    first, second = (safe_open(path, "pt") for path in files)
    weight = "method.stages.0.layers.0.0.weight"
    assert first.get_slice(weight).get_shape() == second.get_slice(weight).get_shape() == [12, 6]
    assert "method.logit_scale" in first.keys()  # noqa: SIM118
    assert "method.logit_scale" not in second.keys()  # noqa: SIM118
    assert first.get_tensor("method.last_steps").tolist() == [3, 1, 2]


@pytest.mark.parametrize("shard", [0, 1])
def test_missing_and_damaged_parts_are_named(shard, runs, tmp_path):
    last = tmp_path / "step-00000003"
    shutil.copytree(runs / "2" / "checkpoints" / "step-00000003", last)
    part = sorted((last / "shards").iterdir())[shard]
    part.write_bytes(part.read_bytes()[:-40])
    with pytest.raises(UserError, match="step-00000003 is damaged"):
        run_checkpoint.load(last)
    part.unlink()
    with pytest.raises(UserError, match=rf"not a whole checkpoint: .*{part.name} is missing"):
        run_checkpoint.load(last)


def test_parts_of_another_model_are_refused(runs, tmp_path):
    shutil.copytree(runs / "2", tmp_path / "run", symlinks=True)
    with pytest.raises(UserError, match=r"the checkpoint is of another method or model: .*stages"):
        train(Pairs(), loader(), out=tmp_path / "run", resume=True, steps=8, progress=False)
