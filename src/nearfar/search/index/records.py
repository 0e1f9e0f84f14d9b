"""From a source's record to what an index needs: a stable key, a stamp that changes with the picture, the picture."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, SupportsIndex

from nearfar import files
from nearfar.data.sources.record_groups import Groups
from nearfar.data.sources.record_numbers import own_group
from nearfar.data.sources.record_text import captions, readable
from nearfar.data.sources.source import Concatenation, Mapped, Selection, Source, Stream
from nearfar.data.tables.cells import SAMPLE, SHARD
from nearfar.errors import UserError
from nearfar.search.index.items import Item
from nearfar.search.page.pictures import keep, thumbnail


@dataclass(frozen=True, slots=True)
class UnreadItem:
    """The item of a record, its picture or video not decoded yet: `image` is a path, bytes, a PIL image, an array, or a
    list of these; None of a text. `by_place` says that nothing but its place names it, so that rows of the same bytes
    are one picture."""

    item: Item
    image: Any
    by_place: bool = False


def read_image_record(
    record: Mapping[str, Any], place: int, *, source: Any, name: str, groups: Groups, side: str = "image"
) -> UnreadItem:
    """The item a record makes, and where its picture is; with `side` "video" its video.

    A file is known by its path, and is held to be unchanged while its time of change and its size are; one whose name
    is not UTF-8 is kept as a picture of another kind is. Those are known by the record's `index`, and by a hash of
    their content.

    Raises UserError when the record has no picture or its file cannot be found.
    """
    if record.get(side) is None and side in record:
        raise UserError(f"it has no {side}")
    if record.get(side) is None:
        raise UserError(f"record {place} has no {side}, only {', '.join(record)}: name the column with {side}=NAME")
    image, path = record[side], None
    if isinstance(image, dict):
        image = image["bytes"] if image.get("bytes") is not None else image.get("path")
    if files.is_address(image):
        raise UserError(f"{image} is an address, not a file: download the images first")
    if isinstance(image, str | os.PathLike):
        image = str(Path(image).resolve())
        # Where a name is not UTF-8, no path in a table or a page would lead to the file again.
        path = image if readable(image) == image else None
        key, stamp = f"{name}:{path or files.one_line(image)}", stamp_of_file(image)
    else:
        image = image.read() if hasattr(image, "read") else image
        key, stamp = f"{name}:{record.get('index', place)}", stamp_of_content(image)
    group = groups.shared(record, place)
    by_place = not isinstance(image, str) and (record.get("index") is None or numbers_by_place(source))
    item = _item(record, key, stamp, path, source=source, name=name, group=group, id=record_id(record, place))
    return UnreadItem(item, image, by_place)


def numbers_by_place(source: Any) -> bool:
    """Whether the `index` of a source's records is their place in it, as in a joined source, and no id of the data."""
    while isinstance(source, Selection | Mapped):
        source = source.source
    return isinstance(source, Concatenation)


def as_moving(source: Any) -> Any:
    """Records of videos without the still picture that they have beside it, which says less; other data as they are.

    >>> from nearfar.data import Records
    >>> as_moving(Records([{"image": "middle.png", "video": "a.mp4", "text": "a dog runs"}], name="clips"))
    <clips: 1 records of video, text>
    """
    if not isinstance(source, Source | Stream) or not {"image", "video"} <= {*source.columns} or not all_move(source):
        return source
    columns = [name for name in source.columns if name != "image"]
    return source.map(_without_image, columns=columns) if isinstance(source, Source) else source


def all_move(source: Any) -> bool:
    """Whether all records have a video: of joined data each part says so."""
    while isinstance(source, Selection):
        source = source.source
    parts = source.sources if isinstance(source, Concatenation) else [source]
    return all("video" in part.columns for part in parts)


def _without_image(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "image"}


def with_kept(unread: UnreadItem, row: Mapping[str, Any], columns: Iterable[str]) -> UnreadItem:
    """The item with its record's values: of `columns`, and the names of its sample and its shard."""
    sample, shard = (None if row[name] is None else readable(row[name]) for name in (SAMPLE, SHARD))
    kept = {name: row[name] for name in columns}
    return replace(unread, item=replace(unread.item, sample=sample, shard=shard, kept=kept))


def record_id(record: Mapping[str, Any], place: int) -> int:
    """The record's own number, or its place."""
    own = record.get("index")
    return int(own) if isinstance(own, SupportsIndex) and abs(int(own)) < 2**63 else place


def _item(
    record: Mapping[str, Any],
    key: str,
    stamp: str,
    path: str | None,
    *,
    source: Any,
    name: str,
    group: int | None,
    id: int,
) -> Item:
    label, domain = number(record, "label"), number(record, "domain")
    return Item(
        key=key,
        stamp=stamp,
        source=name,
        row=-1,
        path=path,
        captions=tuple(dict.fromkeys(captions(record.get("text")))),
        label=label,
        label_name=name_of(label, getattr(source, "classes", None)),
        group=None if group is None else int(group),
        domain=domain,
        domain_name=name_of(domain, getattr(source, "domains", None)),
        id=id,
    )


def read_text_record(record: Mapping[str, Any], place: int, *, source: Any, name: str, groups: Groups) -> UnreadItem:
    """The item that a record makes by its texts alone; it is known by its `index`, and changes with its texts.

    Raises UserError when the record has no text.
    """
    texts = tuple(dict.fromkeys(captions(record.get("text"))))
    if not texts:
        raise UserError(f"record {place} has no text, only {', '.join(record)}: name the column with text=NAME")
    stamp, key = stamp_of_content("\0".join(texts).encode()), f"{name}:{record.get('index', place)}"
    group, number = own_group(record), record_id(record, place)
    item = _item(record, key, stamp, None, source=source, name=name, group=group, id=number)
    return UnreadItem(item, None)


def decode(unread: UnreadItem, *, near: int | None = None) -> tuple[Any, bytes | None]:
    """The picture as RGB, and the bytes to keep of one that is no file. A large JPEG is decoded no finer than `near`
    needs. Raises UserError for a broken picture."""
    from nearfar.data.pictures.images import load_image

    image = load_image(unread.image, near=near)
    if unread.item.path is not None:
        return image, None
    return image, keep(image, unread.image if isinstance(unread.image, bytes) else None)


def decode_video(unread: UnreadItem, encoder: Any) -> tuple[Any, bytes]:
    """What the encoder reads of a video, and its frames as a small animation, to be kept beside its embedding. Raises
    UserError for a video that cannot be read."""
    from nearfar.data.video.still import moving_picture

    pictures: list[Any] = []
    frames = encoder.read_video(unread.image, keep=lambda picture: pictures.append(thumbnail(picture)))
    return frames, moving_picture(pictures)


def decode_audio(unread: UnreadItem, encoder: Any) -> tuple[Any, bytes]:
    """What the encoder reads of a sound, and its beginning as a small file, to be kept beside its embedding. Raises
    UserError for a sound that cannot be read."""
    from nearfar.data.sound.sound_preview import preview

    return encoder.read_audio(unread.image), preview(unread.image)


def stamp_of_file(path: str) -> str:
    """Time of change and size of a file."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    return f"{status.st_mtime_ns}-{status.st_size}"


def stamp_of(image: Any) -> str:
    """The stamp of a file by its path, of anything else by its content."""
    return stamp_of_file(str(image)) if isinstance(image, str | os.PathLike) else stamp_of_content(image)


def stamp_of_content(image: Any) -> str:
    """A hash of bytes, of the pixels of a PIL image or an array, or of a list of these, and of the stamps of files.

    >>> stamp_of_content(b"a") == stamp_of_content(b"a") != stamp_of_content(b"b")
    True
    """
    if isinstance(image, list | tuple):
        image = "\0".join(map(stamp_of, image)).encode()
    shape = "" if isinstance(image, bytes) else f"{getattr(image, 'mode', '')}{image.size}"
    content = image if isinstance(image, bytes) else shape.encode() + image.tobytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def number(record: Mapping[str, Any], key: str) -> int | None:
    """A record's number, None where it is absent or unknown (-1)."""
    value = record.get(key)
    return None if value is None or int(value) < 0 else int(value)


def name_of(value: int | None, names: list[str] | None) -> str | None:
    """What a number stands for, None where that is not known."""
    return readable(names[value]) if names and value is not None and value < len(names) else None
