"""Two trainings into one folder: the second is told who trains there; a process that died holds nothing."""

import os
import signal
import socket
import time

import pytest
import ranks
from killed import go
from peer_work import train_in_turn
from toy import Pairs, loader

from nearfar import train
from nearfar.errors import UserError
from nearfar.training.recipe import load

BUSY = r"another process is training in .*run \(process {pid} on {host}, since 20\d\d-.*\): wait for it to end, or name"


@pytest.fixture
def other(tmp_path):
    """A process that trains in `run`, and is killed at the end."""
    process = ranks.server().Process(target=go, args=(tmp_path / "run", 100_000), kwargs={"progress": False})
    process.start()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("run/checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    yield process
    process.kill()
    process.join()


def test_the_second_is_told_who_holds_the_folder(other, recipe, tmp_path):
    out = tmp_path / "run"
    message = BUSY.format(pid=other.pid, host=socket.gethostname())
    before = (out / "config.yaml").exists()
    for resume in (False, True):
        with pytest.raises(UserError, match=message):
            train(Pairs(), loader(), out=out, steps=2, progress=False, resume=resume)
    quick = ["report=false", "evaluation.data=null", "evaluation.watch=[]"]
    with pytest.raises(UserError, match=message):
        load(recipe, quick).run(out, resume=True)
    for said in ranks.run(train_in_turn, 2, str(out)):
        assert "another process is training in" in said, "every rank says so"
    assert (out / "config.yaml").exists() == before
    assert other.is_alive()

    os.kill(other.pid, signal.SIGKILL)
    other.join()
    steps = int(max(out.glob("checkpoints/step-*")).name.removeprefix("step-"))
    assert go(out, steps + 2, progress=False).step >= steps + 2, "a lock that a dead process left blocks nobody"
    assert not (out / ".run.lock-holder").exists()
