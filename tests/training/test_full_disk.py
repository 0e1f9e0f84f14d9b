"""A disk that takes no more ends a run with the file and the remedy, and the state before stays whole."""

import errno
import shutil

import pytest
import ranks
from full_disk_work import OPTIONS, with_small_files
from killed import go
from toy import Pairs, loader

from nearfar import train
from nearfar.errors import UserError
from nearfar.training.state import run_checkpoint as checkpoint
from nearfar.training.state.run_checkpoint import Checkpoints


@pytest.mark.parametrize(("largest", "file"), [(900, "checkpoints/step-00000004"), (300, "history.jsonl")])
def test_a_file_that_the_system_refuses(largest, file, tmp_path):
    out = tmp_path / "run"
    with ranks.ProcessPoolExecutor(1, mp_context=ranks.server()) as pool:
        said = pool.submit(with_small_files, out, 3, largest).result(120)
    assert said == (
        f"{out / file} cannot be written; the file is larger than is allowed: raise the limit (`ulimit -f`), or name a "
        "place on another disk"
    )
    assert [path.name for path in (out / "checkpoints").iterdir() if path.name.startswith((".", "step"))] == [
        "step-00000002"
    ]
    assert checkpoint.load(Checkpoints(out / "checkpoints", 2).latest())["progress"]["step"] == 2
    assert train(Pairs(), loader(), out=out, resume=True, **OPTIONS).step == 6


@pytest.mark.parametrize("name", ["_save_tensors", "_save"])
def test_a_disk_that_is_full_at_the_resume(name, tmp_path, monkeypatch):
    out = tmp_path / "run"
    train(Pairs(), loader(), out=out, **{**OPTIONS, "steps": 2})
    kept = tmp_path / "kept"
    shutil.copytree(out / "checkpoints" / "step-00000002", kept)

    def full(state, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, name, full)
        with pytest.raises(UserError, match=r"step-00000004 cannot be written; the disk is full: free some space"):
            train(Pairs(), loader(), out=out, resume=True, **OPTIONS)
    assert not list((out / "checkpoints").glob(".*")), "room is what a full disk needs"
    for path in kept.iterdir():
        assert (out / "checkpoints" / "step-00000002" / path.name).read_bytes() == path.read_bytes()
    assert train(Pairs(), loader(), out=out, resume=True, **OPTIONS).step == 6


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file, and a folder is to be written there"):
        go(tmp_path / "file" / "run", 2, progress=False)
