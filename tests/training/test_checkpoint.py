"""What a run keeps: so many checkpoints, the best of all its parts, and whole ones however late a process is."""

import json
import time

import pytest
import ranks
import torch
from checkpoint_work import save_late
from toy import Plain, loader

from nearfar import train
from nearfar.errors import UserError
from nearfar.training.state import run_checkpoint
from nearfar.training.state.run_checkpoint import Checkpoints

QUIET = {"progress": False, "report": False}


def kept(out):
    return sorted(int(path.name.removeprefix("step-")) for path in (out / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_as_many_checkpoints_are_kept_as_were_asked_for(keep, tmp_path):
    train(Plain(), loader(), out=tmp_path / "run", steps=5, save_every=1, keep=keep, **QUIET)
    assert kept(tmp_path / "run") == [1, 2, 3, 4, 5][-keep:]


def test_the_best_is_kept_beside_the_last_ones(tmp_path):
    figures = iter([0.9, 0.2, 0.8, 0.7, 0.6])
    watch = {"validation": lambda method: {"recall": next(figures)}, "monitor": "val_recall", "eval_every": 1}
    train(Plain(), loader(), out=tmp_path / "run", steps=5, save_every=1, keep=2, **watch, **QUIET)
    assert kept(tmp_path / "run") == [1, 4, 5]
    assert (tmp_path / "run" / "checkpoints" / "best").resolve().name == "step-00000001"


class Stop(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize(("figures", "best"), [([0.9, 0.5, 0.4, 0.3], 1), ([0.2, 0.5, 0.7, 0.3], 3)])
def test_the_best_figure_survives_a_resume(figures, best, tmp_path, monkeypatch):
    """A later, worse figure does not take the place of one from before the stop; a better one does."""
    out, place = tmp_path / "run", iter(figures)
    options = {"steps": 4, "save_every": 1, "eval_every": 1, "monitor": "val_recall", "keep": 4, **QUIET}
    watch = {"validation": lambda method: {"recall": next(place)}}

    def stop(self, step):
        if step == 3:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Plain, "after_step", stop)
        with pytest.raises(Stop):
            train(Plain(), loader(), out=out, **watch, **options)
    assert json.loads((out / "checkpoints" / "last" / "state.json").read_text())["best"] == max(figures[:2])
    train(Plain(), loader(), out=out, resume=True, **watch, **options)
    assert (out / "checkpoints" / "best").resolve().name == f"step-{best:08d}"


def test_the_clock_and_the_settings_survive_a_resume(tmp_path):
    first = train(Plain(), loader(), out=tmp_path / "run", steps=2, **QUIET)
    again = train(Plain(), loader(), out=tmp_path / "run", steps=4, resume=True, **QUIET)
    assert again.step == 4
    assert again.seconds > first.seconds > 0
    assert json.loads((tmp_path / "run" / "checkpoints" / "last" / "state.json").read_text())["config"]["steps"] == 4


def test_a_slow_disk_takes_nothing_off_the_clock(tmp_path, monkeypatch):
    """A checkpoint cannot hold the time of its own writing: the clock stands still meanwhile."""
    save = Checkpoints.save

    def slow(*args, **kwargs):
        save(*args, **kwargs)
        time.sleep(1)

    monkeypatch.setattr(Checkpoints, "save", slow)
    first = train(Plain(), loader(), out=tmp_path / "run", steps=2, save_every=2, **QUIET)
    saved = json.loads((tmp_path / "run" / "checkpoints" / "last" / "state.json").read_text())["seconds"]
    assert saved == first.seconds
    again = train(Plain(), loader(), out=tmp_path / "run", steps=3, resume=True, **QUIET)
    assert again.seconds > first.seconds


@pytest.mark.parametrize("late", ["folder", "process", "rename", "prune"])
def test_a_checkpoint_is_whole_however_late_a_process_is(late, tmp_path):
    """Two real processes, one of which is held up: while the folder is made, while its own part is written, while the
    folder is renamed, while old ones are deleted. Every process finds its own part in the last one right away."""
    actual = ranks.run(save_late, 2, str(tmp_path), late)
    for rank, (last, mine, files, left) in enumerate(actual):
        assert last == "step-00000003"
        assert mine == {"rank": rank, "step": 3}
        assert files == ["method.safetensors", "optimizer.pt", "process-0.pt", "process-1.pt", "state.json"]
        assert left == ["step-00000003"], "the older ones are gone when saving returns"


def test_a_checkpoint_of_more_processes_is_refused(tmp_path):
    ranks.run(save_late, 2, str(tmp_path), "nothing")
    with pytest.raises(UserError, match=r"^this run was started with 2 processes"):
        run_checkpoint.load(tmp_path / "step-00000003")


def test_tensors_that_share_memory_come_back_each(tmp_path):
    method = Plain()
    method.register_buffer("part", method.net[0].weight.detach()[1])
    train(method, loader(), out=tmp_path / "run", steps=1, **QUIET)
    state = run_checkpoint.load(tmp_path / "run" / "checkpoints" / "step-00000001")["method"]
    assert torch.equal(state["net.0.weight"], method.net[0].weight)
    assert torch.equal(state["part"], method.part)
