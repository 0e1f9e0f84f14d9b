"""Open any source by one word, as the command line and recipes do."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from nearfar import files, lookup
from nearfar.data.sources.files_beside import ARCHIVES
from nearfar.data.sources.source import Record, Source, Stream, concat
from nearfar.errors import UserError

UNDERSTOOD = """what is understood:
  world/emoji, world/clipart, world/scenes   the data that come with nearfar; world/emoji+clipart for both
  world/words                                names and keywords of the emojis: pairs of texts
  world/topics                               the same as single texts, with subjects as classes
  world/questions, world/statements          questions about scenes with answers, statements true or false
  world/marks                                emojis, every other one with a mark over it
  world/contrasts                            pairs of scenes that differ in one thing, each with a text
  world/documents                            texts with pictures in them, scenes and captions in turn
  world/described                            queries about scenes with descriptions, texts alone
  world/commands                             spoken commands with words and intents, made by flite (apt install flite)
  world/fashion                              Fashion-MNIST, clothes (apt install dataset-fashion-mnist)
  world/video                                short videos: a thing that moves, grows, shrinks, turns
  SOURCE + SOURCE                            both, one after the other, such as 'world/emoji + photos/'
  FOLDER                                     images, with captions in .txt files, or folders as classes
  FILE.csv, .tsv, .jsonl, .parquet           rows with paths of images, or the images, and texts
  STS.input.*.txt in a folder, sts-dev.csv   sentence pairs with scores, as STS benchmarks are published
  rt-polarity.pos and .neg in a folder, ...  labelled sentences, as SentEval's tasks are published
  FILE.tar, 'DIR/*.tar', '{000..099}.tar'    WebDataset shards
  hub:NAME                                   a dataset of the datasets library
  text:FILE_OR_FOLDER, text:python           running text, in passages
  FOLDER of .mp4, .webm ... files            videos, with captions or classes as images have them
  videos:FOLDER, videos:FILE.csv             the same of animated pictures, of folders of frames, of a table
  FOLDER of .wav, .flac, .ogg ... files      sounds, with captions or classes as images have them
  sounds:FOLDER, sounds:FILE.csv             sounds beside pictures or videos, or of a table
  FOLDER written by save_to_disk             the same, from disk
  QUESTIONS.json                             VQA's questions, with its annotations and pictures beside
  CAPTIONS.json                              captions as COCO and Karpathy's splits have them, pictures beside
  INSTANCES.json                             boxes as COCO and LVIS have them, pictures beside
  genome:FOLDER                              things and relations as Visual Genome has them, pictures below"""

WITHOUT = "captions='none'"
"""What a remark on data without captions says; who has said it needs no remark."""

WORLD = {
    "emoji": "nearfar.data.world",
    "clipart": "nearfar.data.world",
    "scenes": "nearfar.data.scenes",
    "questions": "nearfar.data.scenes",
    "marks": "nearfar.data.scenes",
    "contrasts": "nearfar.data.scenes",
    "documents": "nearfar.data.scenes.documents",
    "described": "nearfar.data.scenes.described_scenes",
    "video": "nearfar.data.scenes",
    "statements": "nearfar.data.scenes",
    "words": "nearfar.data.world",
    "topics": "nearfar.data.world",
    "commands": "nearfar.data.sound.spoken_commands",
    "fashion": "nearfar.data.pictures.fashion",
}

PREFIXES = ("hub:", "videos:", "sounds:", "genome:")
"""Words before a name that say what it is opened as."""

READERS_OF = {
    "hub": "sources.datasets_hub.hub",
    "folder": "sources.image_folder.folder",
    "table": "tables.table_files.table",
    "sts": "tables.sts_files.sts",
    "senteval": "tables.senteval_files.senteval",
    "vqa": "sources.vqa_files.vqa",
    "captions": "sources.caption_files.caption_file",
    "boxes": "boxes.box_files.box_file",
    "genome": "boxes.visual_genome.visual_genome",
    "videos": "video.video_folder.videos",
    "sounds": "sound.sound_folder.sounds",
    "shards": "sources.tar_shards.shards",
    "curated": "mining.kept_pairs.curated",
    "parquet": "tables.parquet_shards.parquet_shards",
}
"""Kind of source -> the function below `nearfar.data` that opens it."""


def open_source(
    spec: Any,
    *,
    split: str | None = None,
    image: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    answers: str | Sequence[str] | None = None,
    captions: str | None = None,
    max_skipped: float | None = None,
    world_split: str = "train",
    **options: Any,
) -> Any:
    """Open a source by its name: part of the embedded world, a folder, a table, shards or a dataset.

    Args:
        spec: `world/emoji`, `world/emoji+clipart`, a folder, a `.csv`, `.tsv`, `.jsonl` or `.parquet` file, `.tar` or
            `.parquet` files by a glob or braces, `hub:NAME`, a folder that `save_to_disk` or `nearfar curate` wrote, a
            `.json` file of VQA's questions, or several of these joined by " + ", where an option goes to those that
            have it. A `datasets.Dataset` is opened, a source returned as it is.
        split: which split.
        image, text, label: columns (tables, datasets) or endings (shards); guessed by default.
        answers: columns of the answers to the question in `text` (tables, datasets).
        captions: `none` reads pictures alone, from any source; `txt`, `class` and `name` are for folders (`folder`).
        max_skipped: share of records that may be unusable already when the source is opened (folders and shards, 0.1 by
            default; others find what is unusable when it is read).
        world_split: which split of the embedded world, where `split` names none.
        options: passed on to the function behind (`folder`, `table`, `shards`, `hub`, `world.emoji`, ...).

    Returns:
        a `Source`; a `Stream` with `streaming=True` (shards, datasets), and of several Parquet files.

    Raises:
        UserError: nothing of that name; the message lists what is understood. An option that it does not have.
    """
    roles: dict[str, Any] = {"image": image, "text": text, "label": label, "answers": answers, "captions": captions}
    named = {key: value for key, value in roles.items() if value is not None}
    if captions == "none" and text is not None:
        raise UserError(f"captions='none' reads no texts: leave it out, or text={text!r}")
    if isinstance(spec, Source | Stream):
        for key, value in {"split": split, **named, **options}.items():
            if value is not None and key != "captions":
                raise UserError(f"{spec.name} is open already: leave out {key}={value!r}, or open it with it")
        opened = spec
    else:
        if max_skipped is not None:
            options["max_skipped"] = max_skipped
        opened = _opened(spec, split, world_split, named | options)
    if captions == "none" and opened is not spec and opened.remark:  # what was asked for needs no remark
        opened.remark = "\n".join(line for line in opened.remark.splitlines() if WITHOUT not in line) or None
    return pictures_alone(opened) if captions == "none" else opened


def pictures_alone(data: Any) -> Any:
    """The same records without `text`.

    Raises:
        UserError: they have no pictures.

    >>> from nearfar.data import Records
    >>> pictures_alone(Records([{"image": "a.jpg", "text": "a cat", "label": 0}], name="pets"))
    <pets: 1 records of image, label>
    """
    columns = [name for name in data.columns if name != "text"]
    if not {"image", "video", "audio"} & {*columns}:
        raise UserError(f"{data.name} has no pictures, and captions='none' reads pictures alone: leave it out")
    if columns == list(data.columns):
        return data
    return _StreamAlone(data, columns) if isinstance(data, Stream) else data.map(_without_text, columns=columns)


def _opened(spec: Any, split: str | None, world_split: str, options: dict[str, Any]) -> Any:
    """What `open_source` opens."""
    if type(spec).__module__.startswith("datasets."):
        return _call("sources.datasets_hub.of_dataset", spec, {"split": split, **options}, "a dataset")
    if not isinstance(spec, str | os.PathLike):
        remedy = "make a source of your records with nearfar.data.Records(rows), or name a file or folder"
        raise UserError(f"a {type(spec).__name__} is no source of data: {remedy}")
    where = os.fspath(spec)
    if len(parts := parts_of(where)) > 1:
        return _joined(where, parts, split, world_split, options)
    if files.is_address(where):
        raise UserError(f"{where}: an address, not a file or folder here: download it first, and name its place")
    if where.startswith("text:"):
        return _call("sources.text_corpus.corpus", where.removeprefix("text:"), {"split": split, **options}, where)
    if where.startswith("world/"):
        return _world(where.removeprefix("world/"), split or world_split, options)
    kind, path = _kind(where), _without_prefix(where)
    if kind in ("hub", "folder", "senteval", "videos", "sounds", "captions"):
        return _call(READERS_OF[kind], path, {"split": split, **options}, where)
    if split is not None:
        raise UserError(f"{where}: a table or shards have no splits; leave out split={split!r}, or name other files")
    return _call(READERS_OF[kind], path, options, where)


def parts_of(spec: str) -> list[str]:
    """The sources that a word joins by " + ", unless it is the name of a file or folder itself.

    >>> parts_of("world/emoji + photos/"), parts_of("photos/")
    (['world/emoji', 'photos/'], ['photos/'])
    """
    joined = " + " in spec and not os.path.exists(spec)
    return [part.strip() for part in spec.split(" + ")] if joined else [spec]


def _joined(where: str, parts: list[str], split: str | None, world_split: str, options: dict[str, Any]) -> Source:
    """Sources one after the other. An option goes to those that have it: the columns of a table are not the world's."""
    takes = [_takes(part) for part in parts]
    known = dict.fromkeys(name for each in takes for name in each)
    everywhere = {"max_skipped", *(("captions",) if options.get("captions") == "none" else ())}
    lookup.check("option", options.keys() - everywhere, known, where=f"{where}: ")
    if split is not None and "split" not in known:
        raise UserError(f"{where}: none of these has splits; leave out split={split!r}")
    opened: list[Any] = []
    for part, own in zip(parts, takes, strict=True):
        its_options = {name: value for name, value in options.items() if name in {*own, *everywhere}}
        its_split = split if "split" in own and split is not None and _has_splits(part, split) else None
        opened.append(open_source(part, split=its_split, world_split=world_split, **its_options))
    if streams := [source.name for source in opened if isinstance(source, Stream)]:
        raise UserError(f"{where}: {streams[0]} is a stream, and only sources can be joined")
    return concat(*opened, name=where)


def _has_splits(where: str, split: str) -> bool:
    """Whether a word's source has splits: a folder without folders of their names is one whole, and so is a dataset
    that was saved alone."""
    path = Path(_without_prefix(where))
    if where.startswith(("world/", "text:")) or not path.is_dir():
        return True
    from nearfar.data.sources.datasets_hub import is_saved_dataset
    from nearfar.data.sources.image_folder import SPLITS
    from nearfar.data.tables.senteval_files import is_senteval

    if is_senteval(path):
        return True
    if is_saved_dataset(path):
        return (path / "dataset_dict.json").is_file()
    return any((path / name).is_dir() for name in (split, *SPLITS))


def _takes(where: str) -> list[str]:
    """The options that a word's source has."""
    if files.is_address(where):
        return []
    if where.startswith("text:"):
        return _known("sources.text_corpus.corpus")
    if where.startswith("world/"):
        names = [name for name in where.removeprefix("world/").split("+") if name in WORLD]
        return ["split", *(key for name in names for key in _known(_world_function(name)))]
    from nearfar.data.sources.image_folder import holds_table
    from nearfar.signatures.data_columns import NAMES

    kind = _kind(where)
    without = {*NAMES} - {"captions"} if kind == "folder" and not holds_table(where) else ()
    return [name for name in _known(READERS_OF[kind]) if name not in without]


def _without_prefix(where: str) -> str:
    return where.split(":", 1)[1] if where.startswith(PREFIXES) else where


def _kind(where: str) -> str:
    from nearfar.data.sources.datasets_hub import is_saved_dataset
    from nearfar.data.tables.senteval_files import is_senteval
    from nearfar.data.tables.sts_files import is_sts
    from nearfar.data.tables.table_files import READERS

    path = Path(where)
    if where.startswith(PREFIXES):
        return where.split(":", 1)[0]
    if is_sts(path):
        return "sts"
    if is_senteval(path):
        return "senteval"
    if path.is_dir():
        if (path / "curated.json").is_file():
            return "curated"
        if is_saved_dataset(path):
            return "hub"
        if next(path.glob("*.[tT][aA][rR]"), None) is not None:
            return "shards"
        return kind_of_folder(path)
    if path.suffix.lower() not in READERS and re.search(r"\.tar\b", path.name.lower()):
        return "shards"
    if path.suffix.lower() == ".json" and path.is_file():
        from nearfar.data.boxes.box_files import holds_boxes
        from nearfar.data.sources.caption_files import holds_captions

        if holds_rows(path):
            return "table"
        return "boxes" if holds_boxes(path) else "captions" if holds_captions(path) else "vqa"
    if path.suffix.lower() in READERS:
        if any(mark in where for mark in "*?{") and not path.exists():
            if path.suffix.lower() == ".parquet":
                return "parquet"
            raise UserError(f"{where}: tables are named one by one, several joined by ' + ': 'a.csv + b.csv'")
        return "table"
    if path.suffix.lower() in REMEDIES and path.is_file():
        raise UserError(f"{where}: {REMEDIES[path.suffix.lower()]}")
    what = "a file of a kind that is not known" if path.exists() else "no such file or folder"
    raise UserError(f"{where}: {what}; {UNDERSTOOD}")


REMEDIES = dict.fromkeys(ARCHIVES, "an archive: unpack it first, and name what was in it") | dict.fromkeys(
    (".xlsx", ".xls", ".ods"), "a spreadsheet: save it as .csv, and name that"
)
"""What to do about files that are no data yet, by their ending."""


def holds_rows(file: Path) -> bool:
    """Whether a JSON file is a list of objects, the rows of a table."""
    with file.open(encoding="utf-8-sig", errors="replace") as text:
        return "".join(text.read(1 << 12).split()).startswith("[{")


def kind_of_folder(path: Path) -> str:
    """What the files of a folder are opened as: "folder" where there are pictures among them, or nothing that is known,
    else "videos" where there are videos, else "sounds"."""
    from nearfar.data.pictures.images import EXTENSIONS
    from nearfar.data.sound.sound_folder import ENDINGS
    from nearfar.data.sources.image_folder import media_below
    from nearfar.data.video.video_folder import MOVING

    if next(media_below(path, (*MOVING, *ENDINGS)), None) is None or next(media_below(path, EXTENSIONS), None):
        return "folder"
    return "sounds" if next(media_below(path, MOVING), None) is None else "videos"


def _world(names: str, split: str, options: dict[str, Any]) -> Source:
    parts = []
    for name in names.split("+"):
        if name not in WORLD:
            raise UserError(f"world/{names}: there is no {name!r} in the world; {UNDERSTOOD}")
        parts.append((_world_function(name), f"world/{name}"))
    known = dict.fromkeys(key for spec, _ in parts for key in _known(spec))
    lookup.check("option", options.keys() - {"max_skipped", "captions"}, known, where=f"world/{names}: ")
    opened = []
    for spec, where in parts:  # an option goes to those that have it: `styles` to the emoji, `clean` to the clip art
        own_options = {key: value for key, value in options.items() if key in (*_known(spec), "captions")}
        opened.append(_call(spec, split, own_options, where))
    return concat(*opened, name=f"world/{names}") if len(opened) > 1 else opened[0]


def _world_function(name: str) -> str:
    return f"{WORLD[name]}.{name}".removeprefix("nearfar.data.")


def _call(spec: str, first: Any, options: dict[str, Any], where: str) -> Any:
    """Call `module.function(first, **options)` and explain an option that the function does not have."""
    known = _known(spec)
    if "max_skipped" not in known:  # one that judges nothing when it opens
        options = {name: value for name, value in options.items() if name != "max_skipped"}
    if "captions" in options and "captions" not in known:
        if (captions := options["captions"]) != "none":
            raise UserError(
                f"{where}: captions={captions!r} is for a folder of pictures; captions='none' is for all data"
            )
        options = {name: value for name, value in options.items() if name != "captions"}
        options |= {"text": ()} if "text" in known else {}  # what is not read cannot be refused
    lookup.check("option", options, known, where=f"{where}: ")
    return _function(spec)(first, **options)


def _known(spec: str) -> list[str]:
    """The options of a function."""
    from inspect import signature

    return list(signature(_function(spec)).parameters)[1:]


def _function(spec: str) -> Callable[..., Any]:
    module, _, name = spec.rpartition(".")
    return getattr(import_module(f"nearfar.data.{module}"), name)


def _without_text(record: Record) -> Record:
    return {key: value for key, value in record.items() if key != "text"}


class _StreamAlone(Stream):
    """What `pictures_alone` makes of a stream."""

    def __init__(self, stream: Stream, columns: list[str]) -> None:
        self.stream, self.columns = stream, columns
        self.name, self.classes, self.domains, self.parts = stream.name, stream.classes, stream.domains, stream.parts
        self._skipped = stream.skipped

    def read(self, part: int, skip: int = 0) -> Iterator[Record]:
        return map(_without_text, self.stream.read(part, skip))

    def where(self, place: int) -> str:
        return self.stream.where(place)
