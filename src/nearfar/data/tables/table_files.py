"""Pairs in a table: CSV, TSV, JSON lines or Parquet, with paths of images or the images themselves."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.data.sources.source import Source
from nearfar.data.tables.arrow import ArrowSource, ColumnRoles, find_roles, undecoded
from nearfar.data.tables.delimited import converters, names_of, picture_name, separated
from nearfar.data.tables.document_columns import COLUMN, DocumentColumns, first_picture
from nearfar.data.tables.encoding import REMEDY, line_not_utf8
from nearfar.data.tables.first_row import LOOKED_AT, top_row
from nearfar.data.tables.picture_pairs import PicturePairs, pair_parts
from nearfar.data.tables.picture_paths import folder_of
from nearfar.errors import UserError
from nearfar.files import why

READERS: dict[str, tuple[str, dict[str, Any]]] = {
    # Without keep_default_na=False the captions "null", "None" and "NA" would count as missing.
    ".csv": ("csv", {"keep_default_na": False, "skipinitialspace": True}),
    ".tsv": ("csv", {"keep_default_na": False, "skipinitialspace": True, "sep": "\t"}),
    ".txt": ("csv", {"keep_default_na": False, "skipinitialspace": True}),
    ".token": ("csv", {"keep_default_na": False, "skipinitialspace": True, "sep": "\t"}),
    ".jsonl": ("json", {}),
    ".ndjson": ("json", {}),
    ".json": ("json", {}),
    ".parquet": ("parquet", {}),
}
"""The reader of `datasets` for each kind of file, with its options."""


NO_ROWS = ("corresponds to no data", "BatchSize must be greater than 0", "No columns to parse")
"""How the readers say that there is nothing in a file."""


def table(
    path: str | os.PathLike[str],
    *,
    image: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    domain: str | None = None,
    group: str | None = None,
    answers: str | Sequence[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Source:
    """Rows of a CSV, TSV, JSONL or Parquet file as records. Read through `datasets`, which keeps a memory-mapped copy
    in its cache, so a table may be larger than memory.

    Args:
        path: the file; by its ending one knows its kind.
        image, text, label, domain, group, answers: columns; those not named are guessed by their usual names (`image`,
            `file_name`, ...; `text`, `caption`, ...). `image` holds paths or bytes. `text` may be several columns, or a
            column of lists: all are captions of the row. Text in `label` and `domain` becomes numbers, in sorted order.
            `answers` are those to the question in `text`; of several annotators in as many columns or in lists. Pairs
            of texts are known by the names of published ones (`nearfar.data.tables.pair_columns`): `sentence1`,
            `sentence2`, `score`; `anchor`, `positive`, `negative_1` ...
            So are pairs of pictures: `image`, `image2`, `text`, `text2`, and `prompt`; see
            `nearfar.data.tables.picture_pairs`. A column `images` of lists of paths is of texts with pictures in them.
        root: folder that paths of images start from, by default that of the table.
        cache_dir: where `datasets` keeps its copy.

    Raises:
        UserError: no such file, a broken row (named), or no column that could be the image or the text (with a list
            of those there are), text that is not UTF-8 (with its line).
    """
    file = Path(path)
    kind, options = READERS.get(file.suffix.lower(), (None, {}))
    if kind is None:
        raise UserError(f"{file}: a table must end in one of {', '.join(READERS)}")
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    if file.stat().st_size == 0:
        raise UserError(f"{file}: the file is empty")
    if kind != "parquet" and _starts_as_zip(file):
        raise UserError(f"{file}: by its content a spreadsheet or an archive: save it as {file.suffix[1:].upper()}")
    if kind != "parquet" and (line := line_not_utf8(file)) is not None:
        raise UserError(f"{file}: line {line} is not UTF-8 text: {REMEDY}")
    named: dict[str, Any] = {
        "image": image,
        "text": text,
        "label": label,
        "domain": domain,
        "group": group,
        "answers": answers,
    }
    if kind == "csv":
        options = options | separated(file, options.get("sep", ","))
        header, first = _top(file, options)
        parts = pair_parts(header, image=image, text=text)
        named |= {role: parts[role] for role in ("image", "text") if parts}
        roles = find_roles(header, where=str(file), row=first, **named)
        named["text"] = repeated(file, options, header, roles) if named["text"] is None else named["text"]
        roles = find_roles(header, where=str(file), row=first, **named)
        # As they are written: a caption "007" or "1.50" is not the number 7 or 1.5, nor is a path; a group's number
        # beside blanks would become a float, and large ones would be rounded to one.
        pairs = {} if roles.pairs is None else roles.pairs.of
        written = (
            roles.image,
            *roles.text,
            *roles.answers,
            roles.group,
            *pairs.get("text2", ()),
            *pairs.get("negative_text", ()),
            *parts.values(),
        )
        as_written: dict[str, Any] = converters(file, options, (roles.label, roles.domain), written)
        as_written |= {column: str for column in written if column is not None}
        if "names" in options:
            as_written["image"] = picture_name
        options = {**options, "converters": as_written}
    rows = _rows(file, kind, options, cache_dir)
    raw = undecoded(rows)
    first = top_row([raw[place] for place in range(min(len(raw), LOOKED_AT))])
    parts = pair_parts(rows.column_names, image=image, text=text)
    named |= {role: parts[role] for role in ("image", "text") if parts}
    roles = find_roles(rows.column_names, where=str(file), row=first, **named)
    documents = roles.image is None and COLUMN in rows.column_names
    picture = first_picture(first) if documents else None if roles.image is None else first.get(roles.image)
    usual = folder_of(picture, file.parent) if isinstance(picture, str) else file.parent
    start = usual if root is None else root
    source = ArrowSource(rows, roles, name=file.name, root=start)
    source.is_written = kind == "csv"
    if documents:
        return DocumentColumns(source, start)
    return PicturePairs(source, parts, start) if parts else source


def _starts_as_zip(file: Path) -> bool:
    with file.open("rb") as start:
        return start.read(4) == b"PK\x03\x04"


def _rows(file: Path, kind: str, options: dict[str, Any], cache_dir: str | os.PathLike[str] | None) -> Any:
    from datasets import load_dataset

    with _named(file), quiet():
        return load_dataset(
            kind, data_files=[str(file)], split="train", cache_dir=cache_dir and str(cache_dir), **options
        )


def repeated(file: Path, options: dict[str, Any], header: Sequence[str], roles: ColumnRoles) -> tuple[str, ...] | None:
    """All columns of the captions, where the header has their name several times; None where it has no name twice.

    Raises:
        UserError: another column that is read is there twice.
    """
    names = names_of(file, options)
    for role in ("image", "label", "domain", "group"):
        if names.count(column := getattr(roles, role)) > 1:
            raise UserError(f"{file}: two columns are called {column!r}: give each a name of its own")
    if not any(names.count(column) > 1 for column in roles.text):
        return None
    return tuple(name for name, written in zip(header, names, strict=False) if written in roles.text)


def _top(file: Path, options: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """The columns of a CSV or TSV file, and the first value of each as it is written."""
    from pandas import read_csv

    with _named(file):
        top = read_csv(file, nrows=LOOKED_AT, dtype=str, **options)
        return [str(column) for column in top.columns], top_row(top.to_dict("records"))


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """What a reader raises, as an error that names the file and what is wrong in it."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Length of header or names does not match")  # see `delimited`
            yield
    except Exception as error:  # The readers of datasets raise what pandas and Arrow raise.
        raise UserError(f"{file}: cannot be read as {file.suffix[1:].upper()}: {_reason(file, error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars of `datasets`, which would cover our own, and without its log of an error, which is
    raised as well."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    bars_enabled, logged = not are_progress_bars_disabled(), logging.get_verbosity()
    disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(logged)
        if bars_enabled:
            enable_progress_bars()


def _reason(file: Path, error: BaseException) -> str:
    """What is wrong, with the row where it is known."""
    if file.suffix.lower() in (".jsonl", ".ndjson"):
        with open(file, encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    if not line.strip():
                        continue
                    if not isinstance(row := json.loads(line), dict):
                        return f"line {number} is not an object {{...}}"
                    json.dumps(row, ensure_ascii=False).encode()
                except UnicodeEncodeError:
                    return f"line {number} holds half a character, as the name of a file that is not UTF-8: rename it"
                except json.JSONDecodeError as broken:
                    return f"line {number} is no JSON from character {broken.colno} on: mend it there"
                except (ValueError, RecursionError) as broken:
                    return f"line {number}: {files.json_fault(broken)}"
    while error.__cause__ is not None:
        error = error.__cause__
    if any(words in str(error) for words in NO_ROWS):
        return "it holds no rows"
    if file.suffix.lower() == ".parquet" and type(error).__name__ in ("ArrowInvalid", "ArrowIOError", "OSError"):
        return "it is no whole Parquet file: write or copy it anew"
    return why(error, "its rows do not have one form: write it anew")
