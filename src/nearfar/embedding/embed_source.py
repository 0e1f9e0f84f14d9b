"""From a model and data to vectors: the one place where evaluation and search run an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain, count, islice
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nearfar import console, lookup
from nearfar.data.sources.record_groups import Groups, picture_key, picture_number
from nearfar.data.sources.record_numbers import MEDIA, medium_of, numbered, own_group, record_id
from nearfar.data.sources.record_text import captions as clean_captions
from nearfar.data.sources.skipped import BadRecord, Skipped, judged_over
from nearfar.data.sources.source import Stream
from nearfar.embedding.embeddings import Embeddings, NothingToEmbed
from nearfar.errors import UserError, at_least
from nearfar.modes import device_of, to_device

NUMBERS = ("index", "group", "label", "domain")
PLAIN = (str, int, float, bool, type(None))
NOUNS = {"image": "images", "video": "videos", "audio": "sounds"}


def embed(
    encoder: Any,
    source: Any,
    sides: Sequence[str] | None = None,
    *,
    batch_size: int = 64,
    captions: int | None = None,
    max_skipped: float = 0.1,
    threads: int = 4,
    progress: bool | None = None,
) -> Embeddings:
    """Embed a source: every picture, every caption, and what else both the model and the records have.

    Args:
        encoder: anything with `encode_image` and `preprocess`, with `encode_text` and `tokenize`, or with both; another
            side, "video" say, takes `encode_video` and `preprocess_video`, which makes a list of records' `video` a
            batch; with `read_video`, too, one of them is read by that in the threads that read records. A model of
            pictures alone embeds the videos of records without pictures as `FrameMean`, unless `sides` are named. Used
            in eval mode, on the device it is on, and left in the mode it was in.
        source: a `nearfar.data` source or stream, or any iterable of records.
        sides: which to embed; None: those that the model and the records have.
        batch_size: images, and captions, at a time.
        captions: how many captions of each record to take, from the first; None takes all, 0 none.
        max_skipped: the share of broken records above which this stops.
        threads: threads that read and decode images.
        progress: show a progress bar; None: within a command only.

    Returns:
        `Embeddings` with unit rows, float32, on the CPU. Each different caption is encoded once.

    Raises:
        UserError: the model and the records share no side, the source holds no usable record, or too many are broken.
    """
    from nearfar.data.pictures.images import reading_size
    from nearfar.models.video.frame_mean import for_videos

    at_least(1, batch_size=batch_size)
    at_least(0, captions=captions)
    encoder = for_videos(encoder, source) if sides is None else encoder
    sides = shared_sides(encoder, source) if sides is None else _known_sides(encoder, sides)
    captions = captions if "text" in sides else 0
    read = tuple(side for side in sides if side != "text")
    near = reading_size(encoder)
    readers = {side: _reader_of(encoder, side, near) for side in read}
    reader = _Reader(source, sides=readers, captions=captions, max_skipped=max_skipped, threads=threads)
    vectors: dict[str, list[Tensor]] = {side: [] for side in read}
    noun = NOUNS.get(read[0] if len(read) == 1 else "image", "records") if read else ""
    with evaluating(encoder), console.progress(f"embedding {noun}", reader.total, progress if read else False) as step:
        for values in reader.batches(batch_size):
            for side in read:
                vectors[side].append(_encode(encoder, side, [value[side] for value in values]))
            step(len(values))
    if not reader.records:
        hint = f"\n{reader.skipped.reasons(5)}" if reader.skipped else ""
        called = " and ".join(sides)
        raise NothingToEmbed(f"{reader.name} holds no {called} that can be embedded{hint}", reader.skipped)
    embedded = {side: torch.cat(parts) for side, parts in vectors.items()}
    text = embed_texts(encoder, reader.captions, batch_size=batch_size, progress=progress)
    if not len(text) and embedded:
        text = torch.zeros(0, next(iter(embedded.values())).shape[1])
    return Embeddings(
        image=embedded.pop("image", None),
        text=text,
        image_of_text=torch.tensor(reader.owner, dtype=torch.long),
        sides=embedded,
        row=torch.tensor(reader.rows, dtype=torch.long),
        index=torch.tensor(reader.ids, dtype=torch.long),
        group=reader.numbers("group") if reader.in_part or reader.has("group") else None,
        picture=reader.pictures(),
        label=reader.numbers("label") if reader.has("label") else None,
        domain=reader.numbers("domain") if reader.has("domain") else None,
        classes=getattr(source, "classes", None),
        domains=getattr(source, "domains", None),
        names=[_name(record, row) for record, row in zip(reader.records, reader.rows, strict=True)],
        captions=reader.captions,
        columns=reader.columns(),
        source=reader.name,
        skipped=reader.skipped,
    )


def embeds(encoder: Any) -> list[str]:
    """The sides that a model embeds: "image", "text", and others for which it has `encode_SIDE` and `preprocess_SIDE`.

    >>> class Sentences:
    ...     def tokenize(self, texts): ...
    ...     def encode_text(self, tokens): ...
    >>> embeds(Sentences())
    ['text']
    """
    others = sorted(name.removeprefix("preprocess_") for name in dir(encoder) if name.startswith("preprocess_"))
    return [side for side in ("image", "text", *others) if hasattr(encoder, f"encode_{side}")]


def as_video_model(encoder: Any) -> Any:
    """The encoder if it embeds videos, else its `FrameMean`.

    Raises:
        UserError: it embeds neither videos nor pictures.
    """
    from nearfar.models.video.frame_mean import FrameMean

    return encoder if hasattr(encoder, "encode_video") else FrameMean(encoder)


def embed_media(encoder: Any, side: str, values: Sequence[Any], *, batch_size: int = 64) -> Tensor:
    """Unit embeddings `[n, D]` float32, on the CPU, of videos or sounds (`side` "video" or "audio"), read or not.

    Raises:
        nearfar.data.BadVideo, nearfar.data.BadSound: one of them cannot be read.
    """
    at_least(1, batch_size=batch_size)
    with evaluating(encoder):
        batches = [_encode(encoder, side, part) for part in _batches(values, batch_size)]
    return torch.cat(batches or [torch.zeros(0, getattr(encoder, "embed_dim", 0) or 0)])


def shared_sides(encoder: Any, source: Any) -> list[str]:
    """The sides that a model embeds and records have. Records that do not name their columns, a plain list of them, are
    held to have pictures, if the model takes some.

    Raises:
        UserError: there are none.
    """
    able, columns = embeds(encoder), getattr(source, "columns", None)
    if columns is None:
        shared = [side for side in able if side in ("image", "text")]
    else:
        shared = [side for side in able if has_column(source, side)]
    if not shared:
        name, held = getattr(source, "name", "the data"), ", ".join(columns or ()) or "none"
        raise UserError(
            f"{name} has no {' and no '.join(able or ['side'])} for a {type(encoder).__name__} to embed (its columns "
            f"are: {held}): name the column with {able[0] if able else 'image'}=NAME"
        )
    return shared


def has_column(source: Any, key: str) -> bool:
    """Whether records have a key: the source says so, or its first record, as a `map` may bring it unsaid."""
    if key in source.columns:
        return True
    try:
        first: Mapping[str, Any] = next(iter(source), {})
        return first.get(key) is not None
    except BadRecord:
        return False


def _known_sides(encoder: Any, sides: Sequence[str]) -> list[str]:
    lookup.check("side", sides, embeds(encoder), where=f"a {type(encoder).__name__}: ")
    return list(sides)


def embed_texts(encoder: Any, texts: Sequence[str], *, batch_size: int = 64, progress: bool | None = None) -> Tensor:
    """Unit embeddings `[len(texts), D]` of texts, float32, on the CPU. Each different text is encoded once, and texts
    of like length together, so that little is spent on padding.

    Raises:
        UserError: a model that reads no texts.
    """
    at_least(1, batch_size=batch_size)
    different = sorted(set(texts), key=lambda text: (len(text), text))
    if not different:
        return torch.zeros(0, getattr(encoder, "embed_dim", 0) or 0)
    if not (hasattr(encoder, "encode_text") and hasattr(encoder, "tokenize")):
        raise UserError(f"this {type(encoder).__name__} does not embed texts: take a model with a text tower")
    encoded = []
    with evaluating(encoder), console.progress("embedding captions", len(different), progress) as step:
        for batch in _batches(different, batch_size):
            tokens = to_device(encoder.tokenize(list(batch)), device_of(encoder))
            encoded.append(_unit(encoder.encode_text(tokens)))
            step(len(batch))
    place = {text: i for i, text in enumerate(different)}
    return torch.cat(encoded)[[place[text] for text in texts]]


def embed_images(encoder: Any, images: Iterable[Any], *, batch_size: int = 64, progress: bool | None = None) -> Tensor:
    """Unit embeddings `[n, D]` of images given as paths, bytes or PIL images, float32, on the CPU.

    Raises:
        nearfar.data.pictures.images.BadImage: one of them cannot be read.
    """
    from nearfar.data.pictures.images import load_image

    at_least(1, batch_size=batch_size)
    with evaluating(encoder):
        parts = console.track(_batches(images, batch_size), "embedding images, by batch", progress)
        batches = [_encode(encoder, "image", [load_image(image) for image in part]) for part in parts]
    return torch.cat(batches) if batches else torch.zeros(0, getattr(encoder, "embed_dim", 0) or 0)


@contextmanager
def evaluating(encoder: Any) -> Iterator[None]:
    """No gradients, and the encoder in eval mode, until the block ends; then each of its modules is back in its own
    mode (a frozen tower that was in eval mode stays there)."""
    modules = [m for m in encoder.modules() if m.training] if isinstance(encoder, torch.nn.Module) else []
    for module in modules:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in modules:
            module.training = True


class _Reader:
    """Reads records in order, keeps what describes them, and hands out what is to be encoded in batches."""

    def __init__(
        self,
        source: Any,
        *,
        sides: Mapping[str, Callable[[Any], Any]],
        captions: int | None,
        max_skipped: float,
        threads: int,
    ) -> None:
        self.source, self.most, self.max_skipped, self.threads = source, captions, max_skipped, threads
        self.sides = sides
        self.name = str(getattr(source, "name", "source"))
        self.total = len(source) if hasattr(source, "__len__") else None
        self.in_part = getattr(source, "in_part", False)
        self.skipped = Skipped()
        self.records: list[dict[str, Any]] = []
        self.rows: list[int] = []
        self.ids: list[int] = []
        self.captions: list[str] = []
        self.owner: list[int] = []
        self._group_of = Groups(source).ready()
        self._groups: list[Any] = []
        self._pictures: list[Any] = []

    def batches(self, size: int) -> Iterator[list[dict[str, Any]]]:
        read_count, read = 0, partial(_read, sides=self.sides, texts=self.most != 0)
        with ThreadPoolExecutor(max(1, self.threads)) as pool:
            for part in _batches(self._items(), size):
                good = []
                places, items = zip(*part, strict=True)
                for row, place, (record, values) in zip(count(read_count), places, pool.map(read, items), strict=False):
                    if isinstance(values, Exception):
                        self.skipped.add(self._where(record, place), str(values))
                    else:
                        good.append(values)
                        self._keep(row, place, record)
                read_count += len(part)
                self.skipped.check(read_count, limit=self.max_skipped, name=self.name, total=judged_over(self.source))
                if good:
                    yield good

    def _items(self) -> Iterable[tuple[int, Any]]:
        """Records with their places; closures for a source that is read by number, so that the threads do its reading
        too."""
        source = self.source
        if self.total is not None and hasattr(source, "__getitem__"):
            return ((i, lambda i=i: source[i]) for i in range(self.total))
        return numbered(source) if isinstance(source, Stream) else enumerate(source)

    def _keep(self, row: int, place: int, record: Mapping[str, Any]) -> None:
        texts = [] if self.most == 0 else clean_captions(record.get("text"))[: self.most]
        self.captions += texts
        self.owner += [len(self.records)] * len(texts)
        image = medium_of(record)
        plain = {k: v for k, v in record.items() if k not in ("text", *MEDIA) and isinstance(v, PLAIN)}
        if isinstance(image, str | PathLike):
            plain.setdefault("path", str(image))
        self.records.append(plain)
        identity = record_id(record, place, name=self.name)
        self.rows.append(row)
        self.ids.append(identity)
        self._groups.append(self._group_of(record, place, identity))
        known = picture_key(image) if {*MEDIA} & self.sides.keys() else None
        # The same drawing in two styles is a candidate of each.
        self._pictures.append(known and (known, record.get("domain")))

    def _where(self, record: Mapping[str, Any], place: int) -> str:
        """Which record it is: its number, and its file where it has one."""
        file = next((record[key] for key in ("path", *MEDIA) if isinstance(record.get(key), str)), "")
        words = self.source.where(place) if hasattr(self.source, "where") else f"record {place}"
        return f"{self.name}, {words}" + (f" ({file})" if file else "")

    def has(self, key: str) -> bool:
        if key == "group":
            return any(own_group(record) is not None for record in self.records)
        return any(record.get(key) is not None for record in self.records)

    def numbers(self, key: str) -> Tensor:
        """One number a record; -1 (unknown) where it is missing. Every record has a group."""
        values = self._groups if key == "group" else [record.get(key) for record in self.records]
        return torch.tensor([-1 if value is None else int(value) for value in values], dtype=torch.long)

    def pictures(self) -> Tensor | None:
        """The first row of each record's picture; None where all are different. Without groups of their own, records
        form one where they show the same picture, copies of its file included. In a block of a source: a number that
        the same picture has in all blocks."""
        if self.in_part:
            return torch.tensor([picture_number(key or (i,)) for key, i in zip(self._pictures, self.ids, strict=True)])
        keys = self._pictures if self.has("group") else self._groups
        first: dict[Any, int] = {}
        rows = [row if key is None else first.setdefault(key, row) for row, key in enumerate(keys)]
        return torch.tensor(rows) if {*MEDIA} & self.sides.keys() and rows != list(range(len(rows))) else None

    def columns(self) -> dict[str, list[Any]]:
        names = dict.fromkeys(key for record in self.records for key in record if key not in NUMBERS)
        return {name: [record.get(name) for record in self.records] for name in names}


def _read(item: Any, *, sides: Mapping[str, Callable[[Any], Any]], texts: bool = True) -> tuple[Mapping[str, Any], Any]:
    """A record and what is to be encoded of it by side, or the error that says why there is nothing. With `texts` its
    captions must be some that can be read."""
    record: Mapping[str, Any] = {}
    try:
        record = item() if callable(item) else item
        for name in ("label", "domain", "group"):
            if isinstance(record.get(name), float) and record[name] == record[name]:
                from nearfar.data.fields.number_field import number_of  # of few data: a query does without

                number_of(record, name, -1)
        if texts and not clean_captions(record.get("text")) and not sides:
            return record, BadRecord("it has no text")
        return record, {side: _value(record, side, read) for side, read in sides.items()}
    except BadRecord as error:
        return record, error
    except OSError as error:
        return record, BadRecord(str(error))


def _value(record: Mapping[str, Any], side: str, read: Callable[[Any], Any]) -> Any:
    if side == "image" and "image" not in record:
        raise UserError(f"a record has no 'image', only {', '.join(record)}: name the column with image=NAME")
    if side != "image" and record.get(side) is None:
        raise BadRecord(f"it has no {side}")
    return read(record[side])


def _reader_of(encoder: Any, side: str, near: int | None) -> Callable[[Any], Any]:
    """What reads a record's value of a side, in the threads that read records."""
    from nearfar.data.pictures.images import load_image

    return partial(load_image, near=near) if side == "image" else getattr(encoder, f"read_{side}", lambda value: value)


def _name(record: Mapping[str, Any], row: int) -> str:
    for key in ("name", "path", *MEDIA):
        if isinstance(record.get(key), str):
            return record[key]
    texts = clean_captions(record.get("text"))
    return texts[0] if texts else f"record {row}"


def _encode(encoder: Any, side: str, values: list[Any]) -> Tensor:
    prepare = encoder.preprocess if side == "image" else getattr(encoder, f"preprocess_{side}")
    return _unit(getattr(encoder, f"encode_{side}")(to_device(prepare(values), device_of(encoder))))


def _unit(embedding: Tensor) -> Tensor:
    unit = normalize(embedding.float(), dim=-1).cpu()
    if not unit.isfinite().all():
        raise UserError("the model gives embeddings that are NaN or infinite: its training diverged, or a file is bad")
    return unit


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    for first in iterator:
        yield list(chain([first], islice(iterator, size - 1)))
