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
from nearfar.search.index.damage import REQUIRED, damaged, file_fault, manifest_fault

FORMAT = 1
NAME = "manifest.json"


@dataclass(kw_only=True)
class Manifest:
    """`vectors` holds `count` rows of `dim` little-endian float32 numbers, `pictures` the bytes of pictures that are
    no files, `items` the Parquet table, `graph` the faiss index where the kind has one,
    with the checksum `graph_sum`: faiss trusts what it reads. `probe` is how the model saw
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
    graph_sum: int | None = None
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
        values = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise damaged(directory, f"{path} is not a manifest of an index ({error})") from None
    if isinstance(values, dict) and set(values) >= REQUIRED and values.get("format", FORMAT) != FORMAT:
        raise UserError(
            f"{directory} was written in index format {str(values['format'])[:20]}, this nearfar reads {FORMAT}: index "
            "again"
        )
    if fault := manifest_fault(values):
        raise damaged(directory, fault)
    manifest = Manifest(**values)
    needed = {manifest.vectors: manifest.count * manifest.dim * 4, manifest.pictures: manifest.picture_bytes}
    for name in sorted(manifest.files):
        if fault := file_fault(directory / name, needed.get(name, 0)):
            raise damaged(directory, fault)
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
