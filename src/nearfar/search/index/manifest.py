"""The one file that says what an index is: `manifest.json`.

Every other file of an index is written under a new name first; replacing the manifest, one atomic rename, is what makes
a change real. A reader therefore sees the index before the change or after it, whenever the writer was killed.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from nearfar import files
from nearfar.errors import UserError
from nearfar.files import why
from nearfar.search.index.damage import MOST, damaged, file_fault
from nearfar.search.kinds.graphs import KINDS, QUANTISED, kind_of

FORMAT = 1
REMOVING = 2
"""The format of an index from which items were taken out and whose files still hold them: what reads format 1 alone
would find them."""
LARGE = 3
"""The format of an index whose faiss file is too large to be read when it is opened."""
AIMING = 4
"""The format of an index that says what recall its next build is to aim at."""
FORMATS = (FORMAT, REMOVING, LARGE, AIMING)
NAME = "manifest.json"
CARRIED = "model"
"""The folder of an index where its model lies as ONNX files, if it carries one (`nearfar index --onnx`)."""
REQUIRED = {"model", "dim", "probe", "vectors", "pictures"}
WIDEST = 2**20
"""No embedding has as many numbers."""
NAMES = {
    "vectors": r"vectors-\d{1,20}\.f32",
    "pictures": r"pictures-\d{1,20}\.bin",
    "items": r"items-\d{1,20}\.parquet|",
    "graph": r"(hnsw|ivf|fp16|sq8|pq|ivf-sq8|ivf-pq)-\d{1,20}\.faiss",
}
"""What the files of an index may be called: what the writer calls them, so never a path."""


@dataclass(kw_only=True)
class Manifest:
    """`vectors` holds `count` rows of `dim` little-endian float32 numbers, `pictures` the bytes of pictures that are
    no files, `items` the Parquet table, `graph` the faiss index where the kind has one, with the checksum `graph_sum`:
    faiss trusts what it reads. Of a large file of lists it is the checksum of the first `graph_head` bytes. `recall` is
    its recall@10, `target_recall` the one that its lists were to reach, where it was named. `removed` are the rows,
    ascending, whose items were taken out since those files were written. `probe` is how the model saw the probe picture
    and the probe sentence (see `identity`). `kept` names the columns that each source keeps."""

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
    graph_head: int | None = None
    recall: float | None = None
    target_recall: float | None = None
    removed: list[int] = field(default_factory=list)
    sources: dict[str, dict[str, int | str]] = field(default_factory=dict)
    kept: dict[str, list[str]] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def files(self) -> set[str]:
        """Names of the files that belong to the index as it is."""
        return {name for name in (self.vectors, self.pictures, self.items, self.graph) if name}

    @property
    def held(self) -> int:
        """How many items there are: the rows without those that were taken out."""
        return self.count - len(self.removed)

    @property
    def kept_columns(self) -> list[str]:
        """Names of the columns that any source keeps."""
        return list(dict.fromkeys(name for names in self.kept.values() for name in names))

    def save(self, directory: Path) -> None:
        """Make this manifest the index's own, atomically."""
        fitting = LARGE if self.graph_head is not None else REMOVING if self.removed else FORMAT
        values = asdict(self) | {"format": fitting if self.target_recall is None else AIMING}
        if not self.removed:
            del values["removed"]
        for name in ("graph_head", "target_recall"):
            if values[name] is None:
                del values[name]
        files.write(directory / NAME, json.dumps(values, indent=1, ensure_ascii=False))


def load_manifest(directory: Path | str) -> Manifest:
    """The manifest of the index in `directory`. Raises UserError when there is none, or its files do not fit it."""
    directory = Path(directory)
    path = directory / NAME
    if not path.is_file():
        problem = "holds no index" if directory.is_dir() else "does not exist"
        raise UserError(
            f"{directory} {problem}: make one with `nearfar index MODEL SOURCE --out {quote(str(directory))}`"
        )
    try:
        values = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise damaged(directory, f"{path} is not a manifest of an index ({why(error, 'it is no JSON')})") from error
    if isinstance(values, dict) and set(values) >= REQUIRED and values.get("format", FORMAT) not in FORMATS:
        raise UserError(
            f"{directory} was written in index format {str(values['format'])[:20]}, this nearfar reads {FORMAT} to "
            f"{AIMING}: index again"
        )
    if fault := manifest_fault(values):
        raise damaged(directory, fault)
    manifest = Manifest(**values)
    needed = {manifest.vectors: manifest.count * manifest.dim * 4, manifest.pictures: manifest.picture_bytes}
    for name in sorted(manifest.files):
        if fault := file_fault(directory / name, needed.get(name, 0)):
            raise damaged(directory, fault)
    return manifest


def manifest_fault(values: Any) -> str | None:
    """What is wrong with the content of `manifest.json`, if anything.

    >>> manifest_fault([])
    'manifest.json holds a list, not an object'
    """
    if not isinstance(values, dict):
        return f"manifest.json holds a {type(values).__name__}, not an object"
    if missing := sorted(REQUIRED - set(values)):
        return f"manifest.json is not a manifest of an index (it has no {missing[0]!r})"
    if unknown := sorted(set(values) - set(Manifest.__dataclass_fields__)):
        return f"manifest.json has an unknown key {unknown[0]!r}"
    bounds = {"dim": (1, WIDEST), **dict.fromkeys(("count", "serial", "picture_bytes"), (0, MOST))}
    for key, (least, most) in bounds.items():
        value = values.get(key, least)
        if type(value) is not int or not least <= value <= most:
            return f"{key} in manifest.json is {_short(value)}, not a whole number from {least} on"
    if type(values.get("graph_sum")) not in (int, type(None)):
        return f"graph_sum in manifest.json is {_short(values['graph_sum'])}, not a checksum"
    if not (values.get("graph_head") is None or (type(values["graph_head"]) is int and values["graph_head"] > 0)):
        return f"graph_head in manifest.json is {_short(values['graph_head'])}, not a number of bytes"
    for key, pattern in NAMES.items():
        value = values.get(key, "")
        if (key != "graph" or value is not None) and not (
            isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII)
        ):
            return f"{key} in manifest.json is {_short(value)}, not the name of a file that nearfar wrote"
    if values.get("count") and not values.get("items"):
        return "manifest.json counts pictures and names no items"
    if not _is_rows(values.get("removed", []), values.get("count", 0)):
        return "removed in manifest.json is not rows of the index, ascending"
    if not isinstance(values["model"], str):
        return f"model in manifest.json is {_short(values['model'])}, not a name"
    if values.get("kind", "flat") not in [*KINDS]:
        return f"kind in manifest.json is {_short(values['kind'])}, not one of {', '.join(KINDS)}"
    if values.get("graph") and kind_of(values["graph"]) != values.get("kind", "flat"):
        return f"graph in manifest.json is {_short(values['graph'])}, which is of another kind than the index"
    if values.get("graph") and values.get("kind") in QUANTISED and values.get("graph_sum") is None:
        return "graph_sum in manifest.json is None, not a checksum"
    for key in ("recall", "target_recall"):
        share = values.get(key)
        if share is not None and not (type(share) in (int, float) and 0 <= share <= 1):
            return f"{key} in manifest.json is {_short(share)}, not a share"
    probe = values["probe"]
    if not (isinstance(probe, list) and all(map(_is_vector, probe))):
        return "probe in manifest.json is not vectors of numbers"
    sources = values.get("sources", {})
    if not (isinstance(sources, dict) and all(isinstance(counts, dict) for counts in sources.values())):
        return "sources in manifest.json are not counts by name"
    kept = values.get("kept", {})
    if not (isinstance(kept, dict) and all(isinstance(names, list) for names in kept.values())):
        return "kept in manifest.json is not names of columns by source"
    if not all(isinstance(name, str) for names in kept.values() for name in names):
        return "kept in manifest.json is not names of columns by source"
    return None


def sync_directory(directory: Path) -> None:
    """Have the directory's renames reach the disk, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_rows(value: Any, count: int) -> bool:
    """Whether these are numbers of rows, each once and in order."""
    if not (isinstance(value, list) and all(type(row) is int for row in value)):
        return False
    return all(a < b for a, b in zip([-1, *value], [*value, count], strict=True))


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and all(type(x) in (int, float) and abs(x) < 2 for x in value)  # NaN is not


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
