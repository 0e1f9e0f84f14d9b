"""A clustered memory and a mean teacher go through kills: the run ends with the bits of one that was never stopped."""

import random
import signal

import pytest
import ranks
from parts_work import STEPS, Remembering, go
from safetensors.torch import load_file

METHOD = "checkpoints/last/method.safetensors"


class Stop(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    go(out)
    return out


def same(out, whole):
    return all(
        (out / path).read_bytes() == (whole / path).read_bytes()
        for path in (METHOD, METHOD.replace("method", "average"))
    )


def test_the_run_uses_both_parts(whole):
    state = load_file(whole / METHOD)
    assert state["teacher.updates"] == STEPS
    assert state["memory.filled"] == 48
    assert (state["memory.label"] >= 0).all()
    assert state["memory.pointer"] == STEPS * 12 % 48


@pytest.mark.parametrize("at", [1, 4, 9])
def test_stopped_before_and_after_the_memory_is_full(at, whole, tmp_path, monkeypatch):
    original = Remembering.after_step

    def after_step(self, step):
        if step == at:
            raise Stop
        original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Remembering, "after_step", after_step)
        with pytest.raises(Stop):
            go(tmp_path / "run")
    go(tmp_path / "run")
    assert same(tmp_path / "run", whole)


def test_killed_outright(whole, tmp_path):
    draw = random.Random(0)
    for _ in range(4):
        process = ranks.server().Process(target=go, args=(tmp_path / "run",))
        process.start()
        process.join(draw.uniform(0.1, 0.6))
        process.kill()  # SIGKILL, unless it has ended
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
    go(tmp_path / "run")
    assert same(tmp_path / "run", whole)
