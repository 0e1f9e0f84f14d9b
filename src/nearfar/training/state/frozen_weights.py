"""The weights that a run does not train, written once for all of its checkpoints.

    checkpoints/
      frozen/
        3f6c….safetensors      parameters without gradient, as they were when the run began
      step-00000400/           what is trained, and in state.json the fingerprint that names the file

A parameter counts as frozen when it takes no gradient and is still what it was: the copy of a momentum encoder takes
none, and moves.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nearfar import files
from nearfar.errors import UserError

FOLDER = "frozen"
LEAST = 1 << 20
"""Bytes below which frozen weights stay in the checkpoints."""


class FrozenWeights:
    """What of a method takes no gradient now, to be compared with later."""

    def __init__(self, method: nn.Module) -> None:
        weights = _without_gradient(method)
        enough = sum(value.nbytes for value in weights.values()) >= LEAST
        self._then = {name: digest(value) for name, value in weights.items()} if enough else {}

    def unchanged(self, method: nn.Module) -> dict[str, str]:
        """Digests, by name, of the parameters that still take no gradient and are what they were; nothing where they
        are too few to matter."""
        now = {name: value for name, value in _without_gradient(method).items() if name in self._then}
        self._then = {name: self._then[name] for name, value in now.items() if digest(value) == self._then[name]}
        return dict(self._then) if sum(now[name].nbytes for name in self._then) >= LEAST else {}


def _without_gradient(method: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in method.named_parameters() if not value.requires_grad}


def digest(tensor: Tensor) -> str:
    """What tells a tensor, of any shape `[...]` and dtype, from others: a hash of shape, dtype and bytes.

    >>> digest(torch.zeros(2)) == digest(torch.zeros(2)), digest(torch.zeros(2)) == digest(torch.zeros(1, 2))
    (True, False)
    """
    values = tensor.detach().cpu().contiguous()
    made = hashlib.blake2b(f"{list(values.shape)} {values.dtype}".encode(), digest_size=16)
    made.update(values.flatten().view(torch.uint8).numpy().data)
    return made.hexdigest()


def fingerprint(digests: Mapping[str, str]) -> str:
    """One digest of digests by name."""
    return hashlib.blake2b(json.dumps(sorted(digests.items())).encode(), digest_size=16).hexdigest()


def path_of(checkpoint: Path, name: str) -> Path:
    """Where the frozen weights of a checkpoint lie, by their fingerprint."""
    return checkpoint.parent / FOLDER / f"{Path(name).name}.safetensors"


def remove_others(checkpoints: Iterable[Path]) -> None:
    """Delete the frozen weights that none of these, the checkpoints that are left, names."""
    kept = list(checkpoints)
    try:
        needed = {path_of(each, name) for each in kept if (name := named_in(each))}
    except (OSError, ValueError):
        return  # one cannot be read: what it needs stays
    for path in {file for each in kept for file in (each.parent / FOLDER).glob("*.safetensors")} - needed:
        with suppress(OSError):
            path.unlink()


def named_in(checkpoint: Path) -> str | None:
    """The fingerprint that a checkpoint's `state.json` names."""
    progress: dict[str, Any] = json.loads((checkpoint / "state.json").read_text("utf-8"))
    return progress.get("frozen")


def write(path: Path, tensors: Mapping[str, Tensor], save: Callable[[Mapping[str, Tensor], Path], None]) -> None:
    """Write frozen weights by `save(tensors, path)` unless they are there."""
    if not path.exists():
        files.folder(path.parent)
        with files.whole(path) as temporary:
            save(tensors, temporary)


def read(path: Path) -> dict[str, Tensor]:
    """The frozen weights in a file, by name.

    Raises:
        FileNotFoundError: it is not there.
        UserError: they are not those that the fingerprint in its name was made of.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "missing", str(path))
    try:
        weights = load_file(path)
    except SafetensorError:
        weights = {}
    if fingerprint({name: digest(value) for name, value in weights.items()}) != path.stem:
        raise UserError(f"{path} does not hold the weights that it was named by: put this run's own file there")
    return weights
