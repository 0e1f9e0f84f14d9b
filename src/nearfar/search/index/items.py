"""What an index knows of a picture besides its embedding, and what a search gives back."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nearfar.errors import UserError
from nearfar.files import why
from nearfar.search.index.damage import damaged, table_fault
from nearfar.search.index.kept import kept_of, to_columns

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image

    from nearfar.search.index.manifest import Manifest


KEYS_READ = 1 << 14
"""Keys that are read at a time to find one."""
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


def to_parquet(items: list[Item], kept: Iterable[str]) -> bytes:
    """The items as the bytes of a Parquet file: the columns of `schema`, and those of these names that are kept."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    own = schema()
    columns = {name: pa.array([getattr(item, name) for item in items], own.field(name).type) for name in own.names}
    columns |= to_columns([item.kept for item in items], kept)
    sink = io.BytesIO()
    # In groups, so that who looks for one key holds no more than a group of them.
    pq.write_table(pa.table(columns), sink, compression="zstd", write_page_checksum=True, row_group_size=KEYS_READ)
    return sink.getvalue()


def read_table(directory: Path, manifest: Manifest) -> pa.Table:
    """The items of an index, one row a vector, in the vectors' order, those included that were taken out since: the
    columns of `schema`, and the kept ones. Raises UserError when they are damaged."""
    if not manifest.items:
        return schema().empty_table()
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = directory / manifest.items
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = with_added(file.read())
        fault = table_fault(table, schema(), manifest)
    except (pa.ArrowException, OSError, ValueError) as error:
        fault = f"{path} cannot be read ({why(error, 'its content is damaged')})"
    if fault:
        raise damaged(directory, fault)
    return table


def without(table: pa.Table, removed: list[int]) -> pa.Table:
    """The table without these rows, ascending: pieces of it, none of them copied.

    >>> import pyarrow as pa
    >>> without(pa.table({"key": ["a", "b", "c", "d"]}), [0, 2])["key"].to_pylist()
    ['b', 'd']
    """
    import pyarrow as pa

    if not removed:
        return table
    pieces = [table.slice(a + 1, b - a - 1) for a, b in pairwise([-1, *removed, len(table)]) if b - a > 1]
    return pa.concat_tables([table.slice(0, 0), *pieces])


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


def rows_of(table: pa.Table, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
    """The items of these numbers `[K]`, as their values by column.

    Row numbers come to Arrow as a buffer: where it makes an array of numpy's it imports pandas, which takes longer than
    a query.
    """
    import pyarrow as pa

    numbers = pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows, np.int64))])
    records: list[dict[str, Any]] = table.take(numbers).to_pylist()
    return records


def with_added(table: pa.Table) -> pa.Table:
    """The table with the columns that were added since the first versions, empty where it has none of them."""
    import pyarrow as pa

    if table.schema.names == [name for name in schema().names if name not in ADDED]:
        for name in ADDED:
            table = table.append_column(name, pa.nulls(len(table), schema().field(name).type))
    return table


def to_item(values: dict[str, Any]) -> Item:
    """An item from a row of the table.

    >>> to_item({"key": "a", "stamp": "1", "source": "s", "row": 0, "captions": None, "kept:price": 3}).kept
    {'price': 3}
    """
    own = {name: value for name, value in values.items() if ":" not in name}
    return Item(**{**own, "captions": tuple(values["captions"] or ()), "kept": kept_of(values)})
