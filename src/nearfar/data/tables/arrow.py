"""A source over a `datasets.Dataset`: which column is the image, which the text, and rows to records. `table` and
`hub` are made of it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import isfinite
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from nearfar.data.sources.record_numbers import is_blank
from nearfar.data.sources.record_text import stored_captions
from nearfar.data.sources.source import Record, Source, Stream
from nearfar.data.tables.first_row import ADDRESSES, DOWNLOAD, cell, check_first
from nearfar.data.tables.pair_columns import PairColumns, first_text
from nearfar.data.tables.picture_paths import file_named
from nearfar.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

USUAL = {
    "image": "image image_path img img_path file_name filename filepath file path jpg jpeg png webp image_bytes bytes "
    "photo photo_path picture picture_path pic image_file image_name imagename",
    "text": "text caption captions texts title alt_text alttext alt description sentence sentences txt question name",
    "answers": "answers answer",
    "label": "label class class_name category target cls fine_label labels",
    "domain": "domain style",
    "group": "group group_id",
}
"""Column names taken for each role, the most usual first."""

STRINGS = ("string", "large_string")
WHOLE = ("int", "uint", "bool", "null")

RESERVED = ("image", "text", "answers", "label", "domain", "group")
"""Keys with a meaning of their own: a column of that name that plays another part is not passed on under it."""


@dataclass(frozen=True)
class ColumnRoles:
    """Which columns play which part. `text` may be several columns: each is a caption of the row; so may `answers`,
    each an annotator's. `pairs` are the columns of pairs of texts."""

    image: str | None
    text: tuple[str, ...]
    label: str | None
    domain: str | None
    group: str | None
    answers: tuple[str, ...] = ()
    pairs: PairColumns | None = field(default=None, repr=False)


def find_roles(
    columns: Sequence[str],
    *,
    where: str,
    image: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    domain: str | None = None,
    group: str | None = None,
    answers: str | Sequence[str] | None = None,
    row: Mapping[str, Any] | None = None,
) -> ColumnRoles:
    """Columns for the roles: those named, else those with usual names; for the image, else one that holds pictures or
    names of pictures in `row`. A text may be a field inside of a column, `caption.en`; an empty `text` is none at all.

    Raises `UserError`, with the columns there are, when a named one is missing or neither image nor text is found.

    >>> find_roles(["file_name", "Caption", "n"], where="pets.csv")
    ColumnRoles(image='file_name', text=('Caption',), label=None, domain=None, group=None, answers=())
    """
    texts, answered = _several(text), _several(answers)
    for role, column in [
        ("image", image),
        ("label", label),
        ("domain", domain),
        ("group", group),
        *(("text", t) for t in texts),
        *(("answers", a) for a in answered),
    ]:
        if column is not None and column not in columns and column.split(".")[0] not in columns:
            raise UserError(f"{where}: no column {column!r} for {role}; its columns are: {', '.join(columns)}")
    folded = {column.strip().lower(): column for column in reversed(columns)}
    taken = {image, label, domain, group, *texts, *answered}

    def guess(role: str) -> str | None:
        columns_of_role = (folded[name] for name in USUAL[role].split() if name in folded and folded[name] not in taken)
        return next(columns_of_role, None)

    image = (
        image
        or guess("image")
        or next((c for c in columns if c not in taken and _is_picture((row or {}).get(c))), None)
    )
    taken.add(image)
    if text is None:
        texts = tuple(filter(None, [guess("text") or (first_text(columns) if image is None else None)]))
    taken.update(texts)
    answered = answered or tuple(filter(None, [guess("answers")]))
    pairs = PairColumns(columns, used=[*taken, *answered], row=row) if texts and image is None else None
    pairs = pairs if pairs is not None and pairs.of else None
    taken.update(pairs.of.get("score", ()) if pairs is not None else ())
    roles = ColumnRoles(
        image, texts, label or guess("label"), domain or guess("domain"), group or guess("group"), answered, pairs
    )
    if roles.image is None and not roles.text:
        remedy = "Name them with image=COLUMN and text=COLUMN."
        if len(columns) == 1 and where.endswith(".txt"):
            remedy = f"Sentences, one a line, are read by 'text:{where}' with unit='lines'; tables have columns."
            columns = [shorten(columns[0], 60, placeholder=" ...")]
        elif len(columns) == 1 and any(mark in columns[0] for mark in ";\t|"):
            remedy = "Columns are separated by commas in a .csv file, by tabs in a .tsv file: save it as one of them."
        raise UserError(
            f"{where}: which column is the image, and which the text? Its columns are: {', '.join(columns)}. {remedy}"
        )
    if roles.image is None and any(name in columns for name in ADDRESSES):
        raise UserError(f"{where}: it holds {DOWNLOAD} with image=COLUMN; its columns are: {', '.join(columns)}")
    return roles


def without_texts(columns: Sequence[str], roles: ColumnRoles, where: str) -> str | None:
    """What to say of pictures beside columns of which none is called as captions are; None where nothing is amiss."""
    others = [name for name in columns if name not in {roles.image, roles.domain, roles.group, *roles.answers}]
    if roles.image is None or roles.text or roles.label is not None or not others:
        return None
    return f"{where}: pictures alone are read, as {NONE_ELSE}: {', '.join(others)}; {NAME_IT}"


NONE_ELSE = "none of its other columns is called as captions are"
NAME_IT = "name the captions with text=COLUMN, or say captions='none'"


def _is_picture(value: Any) -> bool:
    """Whether a cell holds a picture, or what names one."""
    from nearfar.data.pictures.images import EXTENSIONS

    if isinstance(value, Mapping):
        return value.get("bytes") is not None and set(value) <= {"bytes", "path"}
    return isinstance(value, str) and value.strip().lower().endswith(EXTENSIONS)


def _several(columns: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if columns is None else (columns,) if isinstance(columns, str) else tuple(columns)


class ArrowSource(Source):
    """The rows of a `datasets.Dataset` as records. Paths in them are relative to `root`."""

    is_written = False
    """Whether the rows come from a text file, which has no kinds of values."""

    def __init__(
        self, dataset: Dataset, roles: ColumnRoles, *, name: str, root: str | os.PathLike[str] | None = None
    ) -> None:
        self.name = name
        self.remark = without_texts(dataset.column_names, roles, name)
        self._rows = undecoded(dataset)
        if len(self._rows):
            check_first(self._rows[0], roles.image, roles.text, name)
        self._reader = RowReader(roles, dataset.features, root=root)
        for role in ("label", "domain", "group"):
            column = getattr(roles, role)
            if column is not None and (names := _names(dataset, role, column, where=name)) is not None:
                self._reader.names[role] = {value: i for i, value in enumerate(names)}
        self.classes, self.domains = self._reader.list_of("label"), self._reader.list_of("domain")
        self.columns = self._reader.columns

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def column_names(self) -> list[str]:
        """All columns of the data but the pictures, as the data name them; paths of pictures are texts like others."""
        features, image = self._rows.features, self._reader.roles.image
        hidden = image is not None and getattr(features[image], "dtype", None) not in STRINGS
        return [name for name in self._rows.column_names if not (hidden and name == image)]

    def cells(self, columns: Sequence[str]) -> Callable[[int], dict[str, Any]]:
        """A function from the number of a row to its values in some of `column_names`, names of classes for their
        numbers. Of a text file a blank is None, and a column of nothing but numbers and blanks holds numbers."""
        rows = self._rows.select_columns([name for name in columns if name in self._rows.column_names])
        read = {name: _reader_of(rows, name, written=self.is_written) for name in rows.column_names}
        return lambda place: {name: read[name](value) for name, value in rows[place].items()} if read else {}

    def record(self, index: int) -> Record:
        return self._reader(self._rows[index], index)

    def pictures(self) -> Iterator[tuple[Any, Any]]:
        needed = [name for name in (self._reader.roles.image, self._reader.roles.group) if name is not None]
        if not needed:
            return ((None, None) for _ in range(len(self)))
        rows = enumerate(self._rows.select_columns(needed))
        return ((record.get("image"), record.get("group")) for record in (self._reader(row, i) for i, row in rows))

    def column(self, key: str, default: Any = None) -> list[Any]:
        needed = self._reader.needs(key)
        rows = self._rows.select_columns(needed) if needed is not None else self._rows
        return [self._reader(row, i).get(key, default) for i, row in enumerate(rows)]


class ArrowStream(Stream):
    """A `datasets.IterableDataset`, read in its own order, as one part per shard. Labels that are text stay text, in
    their own column, since nobody knows all of them yet."""

    def __init__(self, dataset: IterableDataset, roles: ColumnRoles, *, name: str) -> None:
        self.name = name
        features = dataset.features or {}
        self.remark = without_texts(list(features), roles, name)
        texts: dict[str, Any] = {
            role: None
            for role in ("label", "domain")
            if getattr(features.get(getattr(roles, role)), "dtype", "") in STRINGS
        }
        roles = replace(roles, **texts)
        check_kinds(features, roles, where=name)
        self._rows = undecoded(dataset)
        self._reader = RowReader(roles, dataset.features or {}, root=None)
        self.parts = dataset.num_shards
        self.classes, self.columns = self._reader.list_of("label"), self._reader.columns

    def read(self, part: int, skip: int = 0) -> Iterator[Record]:
        rows = self._rows.shard(self.parts, part) if self.parts > 1 else self._rows
        for place, row in enumerate(rows.skip(skip), start=skip):
            yield self._reader(row, place)


class RowReader:
    """Turns a row, a dict of columns, into a record."""

    def __init__(self, roles: ColumnRoles, features: Mapping[str, Any], *, root: str | os.PathLike[str] | None) -> None:
        self.roles, self.root, self.features = roles, root, features
        self.names: dict[str, dict[Any, int]] = {}
        if roles.label is not None and hasattr(features.get(roles.label), "names"):
            self.names["label"] = {name: i for i, name in enumerate(features[roles.label].names)}
        used = {
            roles.image,
            *roles.text,
            *(name.split(".")[0] for name in roles.text),
            *roles.answers,
            roles.label,
            roles.domain,
            roles.group,
        }
        self.extras = [name for name in features if name not in used and name not in RESERVED]
        self.pairs = PairColumns([]) if roles.pairs is None else roles.pairs

    @property
    def columns(self) -> list[str]:
        present = [role for role in RESERVED if getattr(self.roles, role)]
        if "text" not in present and "label" in self.names:
            present.append("text")
        return list(dict.fromkeys([*present, *self.pairs.of, *self.extras]))

    def list_of(self, role: str) -> list[str] | None:
        """Names of the numbers of a role, in order."""
        return [str(name) for name in self.names[role]] if role in self.names else None

    def needs(self, key: str) -> list[str] | None:
        """The columns that one key of the record is made of, or None if that may be any."""
        if key == "text":
            texts = [name if name in self.features else name.split(".")[0] for name in self.roles.text]
            return list(dict.fromkeys(texts)) or ([self.roles.label] if self.roles.label else None)
        if key == "answers":
            return list(self.roles.answers) or None
        if key in self.pairs.of:
            return list(self.pairs.of[key])
        if key in ("image", "label", "domain", "group"):
            return [getattr(self.roles, key)] if getattr(self.roles, key) else None
        return [key] if key in self.extras else None

    def __call__(self, row: Mapping[str, Any], place: int) -> Record:
        roles = self.roles
        record: Record = {key: row[key] for key in self.extras if key in row} | self.pairs.values(row)
        if not isinstance(record.get("index", 0), int) or isinstance(record.get("index"), bool):
            del record["index"]  # a column of this name that numbers nothing
        if "weight" in record and (weight := _weight(record.pop("weight"))) is not None:
            record["weight"] = weight
        if roles.image is not None and roles.image in row:
            record["image"] = self._image(row[roles.image])
        texts = [cell(row, column) for column in roles.text]
        if texts:
            record["text"] = stored_captions(texts)
        answers = [row[column] for column in roles.answers if column in row]
        if answers:
            record["answers"] = answers[0] if len(answers) == 1 else answers
        for role in ("label", "domain", "group"):
            column = getattr(roles, role)
            if column is not None and column in row:
                record[role] = self._number(role, row[column])
        if not roles.text and "label" in record and "label" in self.names:
            classes = list(self.names["label"])
            known = 0 <= record["label"] < len(classes)
            record["text"] = [str(classes[record["label"]]).replace("_", " ")] if known else []
        return record

    def _image(self, image: Any) -> Any:
        """Relative paths start at `root`; a path that does not exist is left for the decoder to report."""
        if isinstance(image, Mapping) and image.get("bytes") is None:
            image = image.get("path")
        return file_named(image, self.root) if isinstance(image, str) and self.root is not None else image

    def _number(self, role: str, value: Any) -> Any:
        if is_blank(value) if role == "group" else value is None or value == "" or value != value:
            return -1
        if role in self.names and not isinstance(value, int):
            return self.names[role].get(value, -1)
        if isinstance(value, str) and not _is_whole(value):  # a group of a stream, whose names nobody knows all yet
            return int.from_bytes(blake2b(value.encode(), digest_size=7).digest(), "big")
        # A fraction, or what is no number, stays: whoever reads the record refuses it then.
        is_whole = isinstance(value, str | int) or (isinstance(value, float) and value.is_integer())
        return int(value) if is_whole else value


def _weight(value: Any) -> float | None:
    """A record's weight; None for a cell that is blank or holds something else ("5 kg"), which weighs as others do."""
    try:
        weight = float(value)
    except (TypeError, ValueError):
        return None
    return weight if isfinite(weight) else None


def undecoded(dataset: Any) -> Any:
    """The dataset with images and sounds left as they are stored."""
    for column, feature in (dataset.features or {}).items():
        # Not so what `datasets` calls Json, a column of different kinds: that is stored as its notation.
        if getattr(feature, "decode", False) is True and type(feature).__name__ != "Json":
            dataset = dataset.cast_column(column, type(feature)(decode=False))
    return dataset


def _names(dataset: Dataset, role: str, column: str, *, where: str) -> list[Any] | None:
    """The sorted values of a column of strings, which then stand for its numbers; None for numbers."""
    feature = dataset.features[column]
    kind = getattr(feature, "dtype", "")
    if hasattr(feature, "names"):
        return list(feature.names)
    if kind in STRINGS:
        different = dataset.unique(column)
        if role == "group":
            values = sorted(value for value in different if not is_blank(value))
            return None if all(map(_is_whole, values)) else values
        return sorted(value for value in different if value not in (None, ""))
    if kind.startswith(WHOLE):
        return None
    # Readers make floats of a column of whole numbers in which some rows are blank.
    if kind.startswith("float") and all(v is None or v != v or v == int(v) for v in dataset.unique(column)):
        return None
    raise _no_number(role, column, feature, where)


def check_kinds(features: Mapping[str, Any], roles: ColumnRoles, *, where: str) -> None:
    """Refuse columns of a stream for label, domain or group that hold neither text nor numbers. Fractions among numbers
    are met when their rows are read."""
    for role in ("label", "domain", "group"):
        feature = features.get(getattr(roles, role))
        kind = str(getattr(feature, "dtype", ""))
        if feature is not None and kind not in STRINGS and not kind.startswith((*WHOLE, "float")):
            raise _no_number(role, getattr(roles, role), feature, where)


def _no_number(role: str, column: str, feature: Any, where: str) -> UserError:
    return UserError(
        f"{where}: column {column!r} holds {getattr(feature, 'dtype', '') or feature}: a {role} must be text or a "
        f"whole number; name another column with {role}=COLUMN, or rename this one if it is none"
    )


def _is_whole(text: str) -> bool:
    return re.fullmatch("[0-9]{1,18}", text.strip()) is not None


NUMERAL = r"^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$"


def _reader_of(rows: Dataset, name: str, *, written: bool) -> Callable[[Any], Any]:
    """From a cell of a column to its value."""
    import pyarrow.compute as pc

    feature = rows.features[name]
    if names := getattr(feature, "names", None):
        return lambda cell: names[cell] if isinstance(cell, int) and 0 <= cell < len(names) else None
    if not written or getattr(feature, "dtype", "") not in STRINGS:
        return lambda cell: None if isinstance(cell, float) and not isfinite(cell) else cell
    cells = rows.data.column(name)
    filled = cells.filter(pc.not_equal(pc.utf8_trim_whitespace(cells), ""))
    if len(filled) and pc.all(pc.match_substring_regex(filled, NUMERAL)).as_py():
        whole = not pc.any(pc.match_substring_regex(filled, r"[.eE]")).as_py()
        return lambda cell: (int if whole else float)(cell) if cell and cell.strip() else None
    return lambda cell: cell if cell and cell.strip() else None
