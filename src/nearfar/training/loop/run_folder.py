"""The run folder: one run at a time in it, and what a run finds there when it begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nearfar import distributed as processes
from nearfar import files
from nearfar.errors import UserError
from nearfar.locks import Lock
from nearfar.training.loop import peers
from nearfar.training.state import frozen_weights
from nearfar.training.state.run_checkpoint import Checkpoints


@contextmanager
def alone(out: Path | None, device: str | None) -> Iterator[None]:
    """All ranks together, and no other run in the folder `out`, until the block ends.

    Raises:
        UserError: another process trains in `out` (the message says which), or another rank ended.
    """
    processes.start(device)
    with peers.watched():
        lock, why = None, None
        if out and processes.is_main():
            try:
                lock = Lock(out, "training in", ", or name another folder (--out, out=)", name="run.lock")
            except UserError as error:
                why = str(error)
        if why := processes.gather_objects(why)[0]:
            raise UserError(why)
        try:
            yield
        finally:
            if lock:
                lock.release()


def check_folder(out: Path, device: str | None, *, resume: bool) -> None:
    """Raise a `UserError` where no run can begin in `out`, before its data are read: it holds one, another process
    trains in it, nothing can be written there. Nothing is made."""
    if not resume and next(out.glob("checkpoints/step-*"), next(out.glob("*/checkpoints/step-*"), None)):
        raise UserError(HOLDS_A_RUN.format(out=out))
    files.check_writable(out)
    if out.is_dir():
        with alone(out, device):
            pass


HOLDS_A_RUN = "{out} already holds a run: resume it (resume=True, --resume), or name another folder."


def open_folder(out: Path, checkpoints: Checkpoints, *, resume: bool) -> Path | None:
    """Make the run folder ready. Returns the checkpoint to go on from, None where the run begins.

    Raises:
        UserError: the folder holds a run, and `resume` is False.
    """
    latest = checkpoints.latest()
    if latest and not resume:
        raise UserError(HOLDS_A_RUN.format(out=out))
    if processes.is_main():
        files.folder(checkpoints.folder)
        with files.writing(out):
            files.remove_leftovers(out)
            files.remove_leftovers(checkpoints.folder)
            files.remove_leftovers(checkpoints.folder / frozen_weights.FOLDER)
        checkpoints.relink()
    processes.barrier()
    return latest
