"""The one file that says what an index is: `manifest.json`.

Every other file of an index is written under a new name first; replacing the manifest, one atomic rename, is what makes
a change real. A reader therefore sees the index before the change or after it, whenever the writer was killed.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nearfar import files
from nearfar.errors import UserError

FORMAT = 1
NAME = "manifest.json"


@dataclass(kw_only=True)
class Manifest:
    """`vectors` holds `count` rows of `dim` little-endian float32 numbers, `pictures` the bytes of pictures that are
    no files, `items` the Parquet table, `graph` the faiss index where the kind has one. `probe` is how the model saw
    the probe picture and the probe sentence (see `identity`)."""

    model: str
    dim: int
    probe: list[list[float]]
    kind: str = "flat"
    count: int = 0
    serial: int = 0
    vectors: str = ""
    pictures: str = ""
    picture_bytes: int = 0
    items: str = ""
    graph: str | None = None
    sources: dict[str, dict[str, int | str]] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def files(self) -> set[str]:
        """Names of the files that belong to the index as it is."""
        return {name for name in (self.vectors, self.pictures, self.items, self.graph) if name}

    def save(self, directory: Path) -> None:
        """Make this manifest the index's own, atomically."""
        files.write(directory / NAME, json.dumps(asdict(self), indent=1, ensure_ascii=False))


def load_manifest(directory: Path | str) -> Manifest:
    """The manifest of the index in `directory`. Raises UserError when there is none, or its files do not fit it."""
    directory = Path(directory)
    path = directory / NAME
    if not path.is_file():
        what = "holds no index" if directory.is_dir() else "does not exist"
        raise UserError(f"{directory} {what}: make one with `nearfar index MODEL SOURCE --out {directory}`")
    try:
        manifest = Manifest(**json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not a manifest of an index ({error}): delete {directory}, index again") from None
    if manifest.format != FORMAT:
        raise UserError(
            f"{directory} was written in index format {manifest.format}, this nearfar reads {FORMAT}: index again"
        )
    needed = {manifest.vectors: manifest.count * manifest.dim * 4, manifest.pictures: manifest.picture_bytes}
    for name in sorted(manifest.files):
        file = directory / name
        if not file.is_file() or file.stat().st_size < needed.get(name, 0):
            state = "cut short" if file.is_file() else "missing"
            raise UserError(f"{file} is {state}: the index is damaged; delete {directory} and index again")
    return manifest


def sync_directory(directory: Path) -> None:
    """Have the directory's renames reach the disk, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
