"""Open any source by one word, as the command line and recipes do."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from nearfar import lookup
from nearfar.data.sources.source import Source, Stream, concat
from nearfar.errors import UserError

UNDERSTOOD = """what is understood:
  world/emoji, world/clipart, world/scenes   the data that come with nearfar; world/emoji+clipart for both
  world/questions, world/statements          questions about scenes with answers, statements true or false
  world/marks                                emojis, every other one with a mark over it
  SOURCE + SOURCE                            both, one after the other, such as 'world/emoji + photos/'
  FOLDER                                     images, with captions in .txt files, or folders as classes
  FILE.csv, .tsv, .jsonl, .parquet           rows with paths of images, or the images, and texts
  FILE.tar, 'DIR/*.tar', '{000..099}.tar'    WebDataset shards
  hub:NAME                                   a dataset of the datasets library
  text:FILE_OR_FOLDER, text:python           running text, in passages
  FOLDER written by save_to_disk             the same, from disk
  QUESTIONS.json                             VQA's questions, with its annotations and pictures beside"""

WORLD = {
    "emoji": "nearfar.data.world",
    "clipart": "nearfar.data.world",
    "scenes": "nearfar.data.scenes",
    "questions": "nearfar.data.scenes",
    "marks": "nearfar.data.scenes",
    "statements": "nearfar.data.scenes",
}

READERS_OF = {
    "table": "sources.table_files.table",
    "vqa": "sources.vqa_files.vqa",
    "shards": "sources.tar_shards.shards",
}
"""Kind of file -> the function below `nearfar.data` that opens it."""


def open_source(
    spec: Any,
    *,
    split: str | None = None,
    image: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    answers: str | Sequence[str] | None = None,
    max_skipped: float | None = None,
    **options: Any,
) -> Any:
    """Open a source by its name: part of the embedded world, a folder, a table, shards or a dataset.

    Args:
        spec: `world/emoji`, `world/emoji+clipart`, a folder, a `.csv`, `.tsv`, `.jsonl` or `.parquet` file, `.tar`
            files or a glob of them, `hub:NAME`, a folder that `save_to_disk` wrote, a `.json` file of VQA's questions,
            or several of these joined by " + ". A `datasets.Dataset` is opened, a source given back as it is.
        split: which split; for the world `train` by default.
        image, text, label: columns (tables, datasets) or endings (shards); guessed by default.
        answers: columns of the answers to the question in `text` (tables, datasets).
        max_skipped: share of records that may be unusable already when the source is opened (folders and shards, 0.1 by
            default; others find what is unusable when it is read).
        options: passed on to the function behind (`folder`, `table`, `shards`, `hub`, `world.emoji`, ...).

    Returns:
        a `Source`; a `Stream` with `streaming=True` (shards, datasets).

    Raises:
        UserError: nothing of that name; the message lists what is understood.
    """
    if isinstance(spec, Source | Stream):
        return spec
    if max_skipped is not None:
        options["max_skipped"] = max_skipped
    roles: dict[str, Any] = {"image": image, "text": text, "label": label, "answers": answers}
    named = {key: value for key, value in roles.items() if value is not None}
    if type(spec).__module__.startswith("datasets."):
        return _call("sources.datasets_hub.of_dataset", spec, {"split": split, **named, **options}, "a dataset")
    where = os.fspath(spec)
    if " + " in where and not os.path.exists(where):
        parts = [open_source(part.strip(), split=split, **roles, **options) for part in where.split(" + ")]
        if streams := [part.name for part in parts if isinstance(part, Stream)]:
            raise UserError(f"{where}: {streams[0]} is a stream, and only sources can be joined")
        return concat(*parts, name=where)
    if where.startswith(("http://", "https://")):
        raise UserError(f"{where}: an address, not a file or folder here: download it first, and name its place")
    if where.startswith("text:"):
        return _call("sources.text_corpus.corpus", where.removeprefix("text:"), {"split": split, **options}, where)
    if where.startswith("world/"):
        return _world(where.removeprefix("world/"), split, named | options)
    kind, path, reader_options = _kind(where), where.removeprefix("hub:"), named | options
    if kind == "hub":
        return _call("sources.datasets_hub.hub", path, {"split": split, **reader_options}, where)
    if kind == "folder":
        return _call("sources.image_folder.folder", path, {"split": split, **reader_options}, where)
    if split is not None:
        raise UserError(f"{where}: a table or shards have no splits; leave out split={split!r}, or name other files")
    return _call(READERS_OF[kind], path, reader_options, where)


def _kind(where: str) -> str:
    from nearfar.data.sources.datasets_hub import is_saved_dataset
    from nearfar.data.sources.table_files import READERS

    path = Path(where)
    if where.startswith("hub:"):
        return "hub"
    if path.is_dir():
        if is_saved_dataset(path):
            return "hub"
        return "shards" if next(path.glob("*.[tT][aA][rR]"), None) is not None else "folder"
    if ".tar" in where.lower():
        return "shards"
    if path.suffix.lower() in READERS:
        return "table"
    if path.suffix.lower() == ".json" and path.is_file():
        return "vqa"
    what = "a file of a kind that is not known" if path.exists() else "no such file or folder"
    raise UserError(f"{where}: {what}; {UNDERSTOOD}")


def _world(names: str, split: str | None, options: dict[str, Any]) -> Source:
    parts = []
    for name in names.split("+"):
        if name not in WORLD:
            raise UserError(f"world/{names}: there is no {name!r} in the world; {UNDERSTOOD}")
        spec = f"{WORLD[name]}.{name}".removeprefix("nearfar.data.")
        parts.append((spec, f"world/{name}"))
    known = dict.fromkeys(key for spec, _ in parts for key in _known(spec))
    lookup.check("option", options.keys() - {"max_skipped"}, known, where=f"world/{names}: ")
    opened = []
    for spec, where in parts:  # an option goes to those that have it: `styles` to the emoji, `clean` to the clip art
        own_options = {key: value for key, value in options.items() if key in _known(spec)}
        opened.append(_call(spec, split or "train", own_options, where))
    return concat(*opened, name=f"world/{names}") if len(opened) > 1 else opened[0]


def _call(spec: str, first: Any, options: dict[str, Any], where: str) -> Any:
    """Call `module.function(first, **options)` and explain an option that the function does not have."""
    known = _known(spec)
    if "max_skipped" not in known:  # one that judges nothing when it opens
        options = {name: value for name, value in options.items() if name != "max_skipped"}
    lookup.check("option", options, known, where=f"{where}: ")
    return _function(spec)(first, **options)


def _known(spec: str) -> list[str]:
    """The options of a function."""
    from inspect import signature

    return list(signature(_function(spec)).parameters)[1:]


def _function(spec: str) -> Callable[..., Any]:
    module, _, name = spec.rpartition(".")
    return getattr(import_module(f"nearfar.data.{module}"), name)
