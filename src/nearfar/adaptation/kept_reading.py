"""What image towers made of pictures, kept on disk: no picture goes through one twice, also after a kill.

    OUT/reading/TOWER/00000.safetensors    keys [n, 16] uint8 and summaries [n, W] float32, written whole or not at all

A picture is known by the pixels that the tower gets, and the tower by its weights: so nothing that changed in between
is taken for what it was. `adapt` reads a picture for its maps, for the figures of three models and for the index.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nearfar import files
from nearfar.errors import UserError
from nearfar.locks import Lock
from nearfar.models.dual.dual_encoder import DualEncoder

T = TypeVar("T")

FOLDER = "reading"
EVERY = 5.0
"""Seconds of reading that a kill may cost."""


class KeptReading:
    """Summaries by picture, in a folder.

    Args:
        folder: is made if need be; what a run that was killed left there is taken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = files.folder(folder)
        files.remove_leftovers(folder)
        self._at: dict[bytes, tuple[int, int]] = {}
        self._parts: list[Tensor] = []
        for path in sorted(folder.glob("*.safetensors")):
            self._take(path)
        self.before = len(self._at)
        """How many pictures an earlier run left."""
        self.read = 0
        """How many went through the tower since."""
        self.seconds = 0.0
        """How long the tower took for these."""
        self._keys: list[bytes] = []
        self._rows: list[Tensor] = []
        self._written = time.monotonic()

    def __call__(self, pixels: Tensor, tower: Callable[[Tensor], Tensor]) -> Tensor:
        """The tower's summaries `[B, W]` of pixels `[B, 3, H, W]`; only those not kept go through it."""
        keys = [blake2b(row.numpy().tobytes(), digest_size=16).digest() for row in pixels.cpu().contiguous()]
        pending = {key: place for place, key in enumerate(self._keys)}
        new = [i for i, key in enumerate(keys) if key not in self._at and key not in pending]
        if new:
            began = time.monotonic()
            made = tower(pixels[new]).float()
            self.seconds += time.monotonic() - began
            self.read += len(new)
            for i, row in zip(new, made.cpu(), strict=True):
                if keys[i] not in pending:
                    pending[keys[i]] = len(self._keys)
                    self._keys.append(keys[i])
                    self._rows.append(row)
        rows = [self._rows[pending[key]] if key in pending else self._row(key) for key in keys]
        if self._keys and time.monotonic() - self._written >= EVERY:
            self.write()
        return torch.stack(rows).to(pixels.device)

    def each(self, seconds: float, records: int) -> float:
        """Seconds that a picture takes, of so many for reading so many records, whatever an earlier run had read."""
        tower = self.seconds / self.read if self.read else 0.0
        return tower + (seconds - self.seconds) / max(records, self.read)

    def write(self) -> None:
        """Put what is not written yet on the disk."""
        if not self._keys:
            return
        path = self.folder / f"{len(self._parts):05d}.safetensors"
        keys = torch.tensor([list(key) for key in self._keys], dtype=torch.uint8)
        with files.writing(path), files.whole(path) as temporary:
            save_file({"keys": keys, "summaries": torch.stack(self._rows)}, temporary)
        self._take(path)
        self._keys, self._rows, self._written = [], [], time.monotonic()

    def _row(self, key: bytes) -> Tensor:
        part, row = self._at[key]
        return self._parts[part][row]

    def _take(self, path: Path) -> None:
        held = load_file(path)  # maps the file: it takes no memory that others need
        self._at |= {bytes(key): (len(self._parts), row) for row, key in enumerate(held["keys"].tolist())}
        self._parts.append(held["summaries"])


class ReadOnce:
    """A model whose image tower sees a picture once; everything else is the model's."""

    def __init__(self, model: DualEncoder, kept: KeptReading) -> None:
        self.model, self.kept = model, kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def image_summary(self, pixels: Tensor) -> Tensor:
        """As the model's."""
        # Towers that take pictures of any shape get more than pixels, by which a picture is not known.
        plain = isinstance(pixels, Tensor) and pixels.ndim == 4
        return self.kept(pixels, self.model.image_summary) if plain else self.model.image_summary(pixels)

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        """As the model's."""
        return self.model.encode_image(self.image_summary(pixels), normalize=normalize)


class Readings:
    """What several models read, by image tower.

    Attributes:
        folder: where it is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._of: dict[str, KeptReading] = {}
        self._known: dict[nn.Module, str] = {}

    def of(self, model: DualEncoder) -> ReadOnce:
        """The model, reading each picture once."""
        tower = model.image
        if tower not in self._known:
            self._known[tower] = fingerprint(tower)
        name = self._known[tower]
        if name not in self._of:
            self._of[name] = KeptReading(self.folder / name)
        return ReadOnce(model, self._of[name])

    def write(self) -> None:
        """Put what is not written yet on the disk."""
        for kept in self._of.values():
            kept.write()


@contextmanager
def keeping(out: Path | None) -> Iterator[Readings]:
    """What is read of pictures in the block, kept in `out`, where that is given, until the block ends without error."""
    if out is None:
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            yield Readings(Path(folder))
        return
    readings = Readings(out / FOLDER)
    try:
        yield readings
    except BaseException:
        readings.write()
        raise
    shutil.rmtree(out / FOLDER, ignore_errors=True)


def fingerprint(module: nn.Module) -> str:
    """Of a module's weights."""
    digest = blake2b(digest_size=8)
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def agreed(out: Path | None, plan: dict[str, Any], key: str, value: Callable[[], T]) -> T:
    """Plain data that a run that was killed worked out for the same plan, else `value()`, which is kept: a second run
    of a command then takes the same pairs, and trains in the same way."""
    if out is None:
        return value()
    path = out / FOLDER / "plan.json"
    known = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if known.get(key, {}).get("plan") != plan:
        known[key] = {"plan": plan, "value": value()}
        files.write(path, json.dumps(known))
    agreement: T = known[key]["value"]
    return agreement


def alone(out: Path) -> Lock:
    """The lock of a run in a folder.

    Raises:
        UserError: another process adapts in it.
    """
    return Lock(out, "adapting in", ", or name another folder (out=, --out)", name="adapt.lock")


def is_killed(out: Path) -> bool:
    """Whether a run that was killed left its reading there, and no other goes on with it."""
    if not (out / FOLDER).is_dir() or (out / "adapt.json").exists():
        return False
    try:
        alone(out).release()
    except UserError:
        return False
    return True
