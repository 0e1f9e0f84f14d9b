"""A run killed at any moment and resumed ends with the same bits as one that was never stopped."""

import json
import random
import shutil
import signal

import pytest
import ranks
import torch
from killed import go
from toy import Pairs, Plain, loader

from nearfar import files, train
from nearfar.errors import UserError
from nearfar.training.state import run_checkpoint as checkpoint
from nearfar.training.state.run_checkpoint import Checkpoints

STEPS = 24
CLOCK = ("samples_per_s", "seconds")


def final_files(out):
    last = out / "checkpoints" / "last"
    return {name: (last / name).read_bytes() for name in ("method.safetensors", "average.safetensors", "optimizer.pt")}


def story(out):
    rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that was never stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    go(out, STEPS, progress=False)
    return out


class Stop(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("at", [1, 2, 3, 5, 7, 12, 23])
def test_stopped_in_a_step_and_resumed(at, whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    original = Pairs.after_step

    def after_step(self, step):
        if step == at:
            raise Stop
        original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Pairs, "after_step", after_step)
        with pytest.raises(Stop):
            go(out, STEPS, progress=False)
    go(out, STEPS, progress=False)
    assert final_files(out) == final_files(whole)
    assert story(out) == story(whole)


DISK = ("sync", "point", "replace_folder", "write")


@pytest.mark.parametrize("call", range(0, 60, 7))
def test_stopped_while_a_checkpoint_is_written(call, whole, tmp_path, monkeypatch):
    """Stops in the `call`-th operation on the disk, in the middle of writing."""
    out, count = tmp_path / "run", 0

    def counted(original):
        def operation(*args, **options):
            nonlocal count
            count += 1
            if count == call + 1:
                raise Stop
            return original(*args, **options)

        return operation

    with monkeypatch.context() as patch:
        for name in DISK:
            patch.setattr(files, name, counted(getattr(files, name)))
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        with pytest.raises(Stop):
            go(out, STEPS, progress=False)
    go(out, STEPS, progress=False)
    assert final_files(out) == final_files(whole)
    assert not list(out.rglob(".*")), "leftovers of the killed run"


def kill_at_random(whole, out, kills, seed):
    """SIGKILL the run after random times, again and again, then let it end."""
    draw, killed = random.Random(seed), 0
    while killed < kills:
        process = ranks.server().Process(target=go, args=(out, STEPS), kwargs={"progress": False})
        process.start()
        process.join(draw.uniform(0.05, 0.6))
        process.kill()  # SIGKILL, unless it has ended
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        killed += 1
        if process.exitcode == 0:  # it came to its end before
            shutil.rmtree(out)
    go(out, STEPS, progress=False)
    assert final_files(out) == final_files(whole)
    assert story(out) == story(whole)


def test_killed_outright(whole, tmp_path):
    kill_at_random(whole, tmp_path / "run", kills=8, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_killed_outright_many_times(seed, whole, tmp_path):
    kill_at_random(whole, tmp_path / "run", kills=15, seed=seed)


def test_a_run_that_is_over_stays_as_it_is(whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out, symlinks=True)
    run = go(out, STEPS, progress=False)
    assert run.step == STEPS
    assert final_files(out) == final_files(whole)


def test_best_and_last(whole):
    rows = [row for row in story(whole) if "val_loss" in row]
    best = min(rows, key=lambda row: row["val_loss"])["step"]
    assert (whole / "checkpoints" / "best").resolve().name == f"step-{int(best):08d}"
    assert (whole / "checkpoints" / "last").resolve().name == f"step-{STEPS:08d}"
    kept = sorted(path.name for path in (whole / "checkpoints").glob("step-*"))
    assert len(kept) <= 3


def test_data_without_a_state_is_read_up_to_its_place(tmp_path, monkeypatch):
    options = {"steps": 10, "save_every": 3, "progress": False, "report": False, "lr": 0.05}
    whole = train(Pairs(), loader(), out=tmp_path / "whole", **options).method.state_dict()

    def stop(self, step):
        if step == 8:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Pairs, "after_step", stop)
        with pytest.raises(Stop):
            train(Pairs(), loader(), out=tmp_path / "run", **options)
    resumed = train(Pairs(), loader(), out=tmp_path / "run", resume=True, **options).method.state_dict()
    weights = {name for name in whole if name != "last_steps"}
    assert all(torch.equal(resumed[name], whole[name]) for name in weights)


def test_a_folder_that_holds_a_run_is_not_overwritten(whole):
    with pytest.raises(UserError, match="already holds a run"):
        train(Pairs(), loader(), out=whole, steps=2, progress=False)


@pytest.mark.parametrize("method", [Pairs(width=7), Plain()])
def test_a_checkpoint_of_another_model(method, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run", symlinks=True)
    with pytest.raises(UserError, match="the checkpoint is of another"):
        train(method, loader(), out=tmp_path / "run", resume=True, steps=30, progress=False)


def test_a_checkpoint_with_a_missing_file(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run", symlinks=True)
    latest = Checkpoints(tmp_path / "run" / "checkpoints", 2).latest()
    (latest / "optimizer.pt").unlink()
    with pytest.raises(UserError, match=r"not a whole checkpoint: .*optimizer\.pt is missing"):
        checkpoint.load(latest)


def test_tied_weights_are_saved(tmp_path):
    method = Plain()
    method.again = method.net[0]
    train(method, loader(), out=tmp_path / "run", steps=2, progress=False, report=False)
    other = Plain()
    other.again = other.net[0]
    train(other, loader(), out=tmp_path / "run", resume=True, steps=2, progress=False, report=False)
    assert torch.equal(other.net[0].weight, method.net[0].weight)


@pytest.mark.parametrize("call", [0, 1], ids=["before both links", "between the links"])
def test_links_are_made_anew_where_a_kill_came_before_them(call, tmp_path, monkeypatch):
    """The checkpoint of the best step is whole, and neither `last` nor `best` points at it yet."""
    out, original, calls = tmp_path / "run", files.point, []

    def point(link, target):
        if target == "step-00000003":
            calls.append(link.name)
            if len(calls) > call:
                raise Stop
        original(link, target)

    with monkeypatch.context() as patch:
        patch.setattr(files, "point", point)
        with pytest.raises(Stop):
            go(out, STEPS, progress=False)
    assert (out / "checkpoints" / "last").resolve().name == ("step-00000003" if call else "step-00000002")
    assert not (out / "checkpoints" / "best").exists()

    def stop(self, step):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Pairs, "after_step", stop)
        with pytest.raises(Stop):
            go(out, STEPS, progress=False)
    for name in ("last", "best"):
        assert (out / "checkpoints" / name).resolve().name == "step-00000003"


def test_a_damaged_checkpoint_is_named(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run", symlinks=True)
    latest = Checkpoints(tmp_path / "run" / "checkpoints", 2).latest()
    for name, content in (("optimizer.pt", b"PK"), ("method.safetensors", b"\x08"), ("state.json", b"{}")):
        kept = (latest / name).read_bytes()
        (latest / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{latest.name} is damaged: remove it, and the run goes on"):
            checkpoint.load(latest)
        (latest / name).write_bytes(kept)
