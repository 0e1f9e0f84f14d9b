"""Checkpoints: everything that a run needs to go on as if it had never stopped.

    checkpoints/
      step-00000400/
        method.safetensors     parameters and buffers (queues, momentum copies, temperatures)
        average.safetensors    the moving average of the weights, if there is one
        optimizer.pt           moments and step counts
        process-0.pt           random state, place in the data and running statistics, one file a process
        state.json             step, epoch, best figure, settings
        shards/                in place of both safetensors files where the run is sharded: the parts of each process
      frozen/                  the weights that the run does not train, once for all (`frozen_weights`)
      last -> step-00000400
      best -> step-00000200

A checkpoint is written beside its place and renamed when it is whole. Nothing in it is a pickle that runs code.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from nearfar import distributed as processes
from nearfar import files
from nearfar.errors import UserError
from nearfar.training.state import frozen_weights, sharding
from nearfar.training.state import sharded_checkpoint as shards


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, state: Mapping[str, Any], *, best: bool) -> None:
        """Write one; every process calls it. `state` has `step`, `method`, `average`, `optimizer`, `process` and
        `progress`, and may have `frozen`, the digests of tensors of `method` that do not change in the run. Where the
        method's tensors are split over the processes, each writes its own parts."""
        name = f"step-{state['step']:08d}"
        temporary = self.folder / f".{name}.tmp"
        try:
            with files.writing(self.folder / name):
                self._fill(temporary, state)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)  # on a full disk room is what is needed
            raise
        if processes.is_main():
            files.replace_folder(temporary, self.folder / name)
            files.point(self.folder / "last", name)
            if best:
                files.point(self.folder / "best", name)
            self._prune()
        processes.barrier()

    def _fill(self, temporary: Path, state: Mapping[str, Any]) -> None:
        """Write this process's share of a checkpoint, and wait for the others'."""
        if processes.is_main():
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        processes.barrier()
        _save(state["process"], temporary / f"process-{processes.rank()}.pt")
        split = any(map(processes.is_split, state["method"].values()))
        if split:
            shards.save(temporary, state)
        if processes.is_main():
            optimizer, progress = state["optimizer"], state["progress"]
            if split:
                optimizer = optimizer | {"optimizer": shards.rest_of_optimizer(optimizer["optimizer"])}
                progress = progress | {"shards": sorted(path.name for path in (temporary / shards.FOLDER).iterdir())}
            else:
                trained, progress = self._apart(state, progress)
                _save_tensors(trained, temporary / "method.safetensors")
                if state["average"] is not None:
                    _save_tensors(state["average"], temporary / "average.safetensors")
            _save(optimizer, temporary / "optimizer.pt")
            (temporary / "state.json").write_text(json.dumps(progress, indent=1), "utf-8")
        processes.barrier()

    def _apart(self, state: Mapping[str, Any], progress: Any) -> tuple[dict[str, Tensor], Any]:
        """The method's tensors without the frozen ones, which are written beside the checkpoints, and the progress with
        their fingerprint."""
        method = dict(state["method"])
        frozen = {name: digest for name, digest in (state.get("frozen") or {}).items() if name in method}
        apart = {name: method.pop(name) for name in frozen}
        if not apart:
            return method, progress
        name = frozen_weights.fingerprint(frozen)
        frozen_weights.write(frozen_weights.path_of(self.folder / "step", name), apart, _save_tensors)
        return method, progress | {"frozen": name}

    def relink(self) -> None:
        """Point `last` and `best` where the newest checkpoint says: a kill may have come between it and its links."""
        latest = self.latest()
        if latest is None:
            return
        files.point(self.folder / "last", latest.name)
        with suppress(OSError, ValueError, AttributeError):
            step = json.loads((latest / "state.json").read_text("utf-8")).get("best_step")
            if isinstance(step, int) and (self.folder / f"step-{step:08d}").is_dir():
                files.point(self.folder / "best", f"step-{step:08d}")

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        return max(self.folder.glob("step-*"), default=None)

    def _prune(self) -> None:
        best = self.folder / "best"
        kept = {best.resolve()} if best.is_symlink() else set()
        for path in sorted(self.folder.glob("step-*"))[: -self.keep]:
            if path.resolve() not in kept:
                # Renamed first, so that a kill in the middle of deleting leaves no checkpoint that seems whole.
                doomed = path.with_name(f".{path.name}.old")
                shutil.rmtree(doomed, ignore_errors=True)
                path.rename(doomed)
                shutil.rmtree(doomed)
        frozen_weights.remove_others(self.folder.glob("step-*"))


RENAMED = ("_queue.ids", "_queue.group")
"""A buffer's name in checkpoints of earlier versions, and its name now."""


def load(folder: Path, like: Mapping[str, Mapping[str, Tensor]] | None = None) -> dict[str, Any]:
    """What :meth:`Checkpoints.save` wrote, for this process.

    Args:
        folder: the checkpoint.
        like: tensors of this run (see :func:`sharded_checkpoint.load`); those that are split come split.

    Returns:
        `method`, `average`, `optimizer`, `process` and `progress`. A sharded checkpoint, and a sharded run, take any
        number of processes; with another than before, `process` has the place in the data but no random state (None).

    Raises:
        UserError: a file is missing or damaged, or the number of processes does not fit.
    """
    from safetensors import SafetensorError

    like = like or {}
    try:
        progress = json.loads((folder / "state.json").read_text("utf-8"))
        same = progress["processes"] == processes.world_size()
        sharded = "shards" in progress or any(map(processes.is_split, like.get("method", {}).values()))
        if not same and not sharded:
            raise UserError(
                f"this run was started with {progress['processes']} processes: resume it with as many, or sharded "
                "(accelerate/fsdp), which takes any number."
            )
        mine = _load(folder / f"process-{processes.rank() if same else 0}.pt")
        optimizer = _load(folder / "optimizer.pt")
        return {
            **(_load_shards(folder, progress, optimizer, like) if "shards" in progress else _load_whole(folder)),
            "optimizer": optimizer,
            "process": mine if same else mine | {"random": None},
            "progress": progress,
        }
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not a whole checkpoint: {error.filename} is missing.") from None
    except UserError:
        raise
    except (
        *(KeyError, TypeError, ValueError, EOFError, RuntimeError, AssertionError, AttributeError),
        *(SafetensorError, UnpicklingError),
    ) as error:
        raise UserError(f"{folder} is damaged: remove it, and the run goes on from the one before.") from error


def _load_whole(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    average, frozen = folder / "average.safetensors", frozen_weights.named_in(folder)
    method = load_file(folder / "method.safetensors")
    if frozen is not None:
        method |= frozen_weights.read(frozen_weights.path_of(folder, frozen))
    return {
        "method": {name.replace(*RENAMED): value for name, value in method.items()},
        "average": load_file(average) if average.exists() else None,
    }


def _load_shards(
    folder: Path, progress: Any, optimizer: Any, like: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Any]:
    """The tensors of a sharded checkpoint; those of the optimiser are put into `optimizer`."""
    for name in progress["shards"]:
        if not (path := folder / shards.FOLDER / Path(name).name).is_file():
            raise FileNotFoundError(errno.ENOENT, "missing", str(path))
    parts = shards.load(folder, like)
    for number, tensors in parts.pop("optimizer").items():
        optimizer["optimizer"]["state"].setdefault(number, {}).update(tensors)
    return parts


def _load(path: Path) -> Any:
    return torch.load(path, weights_only=True, map_location="cpu")


def load_optimizer(folder: Path) -> dict[str, Any]:
    """The optimiser's part of a whole checkpoint."""
    return dict(_load(folder / "optimizer.pt"))


def load_weights(folder: Path, module: nn.Module) -> None:
    """Put a checkpoint's weights and buffers into `module`, the averaged weights where it has some, as the run's model
    has them."""
    like = {"method": module.state_dict(), "average": dict(module.named_parameters())}
    sharding.load_tensors(module.state_dict(), weights(folder, like))


def learned(folder: Path) -> dict[str, float]:
    """What the method of a checkpoint gives its model beside the weights (`Method.learned`)."""
    return _noted(folder, "learned")


def settings(folder: Path) -> dict[str, Any]:
    """The settings of the run that wrote a checkpoint, by their names in `TrainConfig`."""
    return _noted(folder, "config")


def _noted(folder: Path, key: str) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "state.json").read_text("utf-8")).get(key) or {})
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is damaged: remove it.") from error


def weights(folder: Path, like: Mapping[str, Mapping[str, Tensor]] | None = None) -> dict[str, Tensor]:
    """A checkpoint's weights and buffers by their names in the method, the averaged weights where it has some. Of a
    sharded one every process must call it; `like` as in :func:`load`.

    Raises:
        UserError: it is damaged or not whole.
    """
    from safetensors import SafetensorError

    try:
        parts = shards.load(folder, like or {}) if (folder / shards.FOLDER).is_dir() else _load_whole(folder)
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder} is damaged or no whole checkpoint: remove it, and the run goes on from the one before."
        ) from error
    return {**parts["method"], **(parts["average"] or {})}


def _save(state: Any, path: Path) -> None:
    """As `torch.save`, with a file that says why it cannot be written."""
    with path.open("wb") as file:
        torch.save(state, file)


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    # safetensors refuses tensors that share memory (tied weights): each gets its own copy in the file.
    written: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if pointer in written else tensor
        written.add(pointer)
    save_file(separate, path)
