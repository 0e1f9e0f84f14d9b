"""What an index knows of a picture besides its embedding, and what a search gives back."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfar.errors import UserError
from nearfar.files import why
from nearfar.search.index.damage import damaged
from nearfar.search.index.kept import kept_of

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image

    from nearfar.search.index.manifest import Manifest


KEYS_READ = 1 << 14
"""Keys that are read at a time to find one."""
GROUP = 1 << 12
"""Items of a row group: so many are read to give one back, and are written at a time."""
MOVING = 32
"""Bytes at the beginning of a picture by which `moves` knows an animation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One indexed picture, video or text. A picture that is a file is kept by its path; any other by its bytes,
    `length` of them at `offset` of the index's picture file; a video by both, the bytes a small animation of some of
    its frames; a text is its captions, with neither.

    `key` is the item's stable name (`SOURCE:path` or `SOURCE:number`); `stamp` changes when the picture does, so that
    an unchanged one is not embedded again; `row` is the row of its embedding; `id` is the record's own number, or its
    place; `sample` and `shard` name a sample of shards; `kept` are values of the user's own columns.
    """

    key: str
    stamp: str
    source: str
    row: int
    path: str | None = None
    offset: int = 0
    length: int = 0
    captions: tuple[str, ...] = ()
    label: int | None = None
    label_name: str | None = None
    group: int | None = None
    domain: int | None = None
    domain_name: str | None = None
    id: int | None = None
    sample: str | None = None
    shard: str | None = None
    kept: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One result: `score` is the cosine of query and picture, or the re-ranker's score where one was used; `id` is the
    record's number in its source; `sample` and `shard` are the `__key__` and the tar file of a sample of shards; `kept`
    are the values of the columns that were kept (`nearfar index ... --keep`); `moves` says that `picture` gives the
    animation which an index keeps of a video, `sounds` that it gives the sound that one keeps.

    >>> Hit(rank=1, score=0.5, key="photos:a.png", captions=("a red car", "a car")).caption
    'a red car'
    """

    rank: int
    score: float
    key: str
    path: str | None = None
    captions: tuple[str, ...] = ()
    label: int | None = None
    label_name: str | None = None
    group: int | None = None
    domain: int | None = None
    domain_name: str | None = None
    id: int | None = None
    sample: str | None = None
    shard: str | None = None
    kept: dict[str, Any] = field(default_factory=dict)
    moves: bool = field(default=False, repr=False, compare=False)
    sounds: bool = field(default=False, repr=False, compare=False)
    picture: Callable[[], bytes] | None = field(default=None, repr=False, compare=False)

    @property
    def is_text(self) -> bool:
        """Whether the item is a text, without a picture."""
        return self.picture is None and self.path is None

    @property
    def caption(self) -> str:
        """The first caption, or else the label's name, or else an empty string."""
        return self.captions[0] if self.captions else self.label_name or ""

    def image(self) -> Image.Image:
        """The picture itself, RGB; of a video the middle one of the frames that the index keeps. Raises UserError when
        its file is gone or broken."""
        from nearfar.data.pictures.images import load_image

        if self.picture is None:
            raise UserError(f"the hit {self.key!r} is a text: it has no picture")
        if self.moves:
            return middle_frame(self.picture())
        if self.sounds:
            from nearfar.data.sound.sound_preview import spectrogram

            return spectrogram(self.picture())
        return load_image(self.picture())

    def as_dict(self) -> dict[str, Any]:
        """The hit as plain values, for JSON."""
        plain = asdict(self)
        del plain["picture"], plain["moves"], plain["sounds"]
        return {**plain, "captions": list(self.captions), "caption": self.caption}

    @property
    def place(self) -> str:
        """Where it is from: its file, its sample of a shard, or else its key."""
        return self.path or (f"{self.shard}: {self.sample}" if self.shard and self.sample else self.key)


def schema() -> pa.Schema:
    """Columns of the items' Parquet file beside the kept ones, in the order of `Item`'s fields."""
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    return pa.schema(
        {
            "key": text,
            "stamp": text,
            "source": text,
            "row": number,
            "path": text,
            "offset": number,
            "length": number,
            "captions": pa.list_(text),
            "label": number,
            "label_name": text,
            "group": number,
            "domain": number,
            "domain_name": text,
            "id": number,
            "sample": text,
            "shard": text,
        }
    )


def moves(picture: bytes) -> bool:
    """Whether the bytes of a picture begin an animated WebP file, which is what an index keeps of a video.

    >>> moves(b"RIFF....WEBPVP8X\\n\\0\\0\\0\\x02"), moves(b"RIFF....WEBPVP8X\\n\\0\\0\\0\\0"), moves(b"GIF8")
    (True, False, False)
    """
    return picture[8:16] == b"WEBPVP8X" and bool(picture[20:21] and picture[20] & 2)


def sounds(picture: bytes) -> bool:
    """Whether these bytes begin an Ogg file, which is what an index keeps of a sound.

    >>> sounds(b"OggS\\0\\2"), sounds(b"GIF8")
    (True, False)
    """
    return picture[:4] == b"OggS"


def middle_frame(animation: bytes) -> Image.Image:
    """The frame in the middle of an animation, RGB."""
    from PIL import Image

    film: Any = Image.open(io.BytesIO(animation))
    film.seek(film.n_frames // 2)
    middle: Image.Image = film.convert("RGB")
    return middle


ADDED = ("id", "sample", "shard")
"""Columns that an index of the first versions does not have."""


def row_of(directory: Path, manifest: Manifest, key: str) -> int:
    """The row of the item of this key, of which no more than all keys are read. Raises KeyError for an unknown key, and
    UserError when the keys are damaged."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not manifest.items:
        raise KeyError(key)
    path = directory / manifest.items
    try:
        row, count = -1, 0
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for part in file.iter_batches(KEYS_READ, columns=["key"], use_threads=False):
                place = pc.index(part["key"], pa.scalar(key, pa.string())).as_py()
                row = count + place if row < 0 <= place else row
                count += len(part)
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        raise damaged(directory, f"{path} cannot be read ({why(error, 'its content is damaged')})") from None
    if count != manifest.count:
        raise damaged(directory, f"{manifest.items} holds {count} items for {manifest.count} vectors")
    if row < 0 or row in manifest.removed:
        raise KeyError(key)
    return row


def added(stored: pa.Schema) -> pa.Schema:
    """A schema with the columns that were added since the first versions, where it has none of them."""
    if stored.names == [name for name in schema().names if name not in ADDED]:
        for name in ADDED:
            stored = stored.append(schema().field(name))
    return stored


def with_added(table: pa.Table) -> pa.Table:
    """The table with the columns that were added since the first versions, empty where it has none of them."""
    import pyarrow as pa

    for one in [*added(table.schema)][len(table.schema) :]:
        table = table.append_column(one, pa.nulls(len(table), one.type))
    return table


def to_item(values: dict[str, Any]) -> Item:
    """An item from a row of the table.

    >>> to_item({"key": "a", "stamp": "1", "source": "s", "row": 0, "captions": None, "kept:price": 3}).kept
    {'price': 3}
    """
    own = {name: value for name, value in values.items() if ":" not in name}
    return Item(**{**own, "captions": tuple(values["captions"] or ()), "kept": kept_of(values)})
