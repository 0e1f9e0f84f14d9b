"""What `nearfar curate` keeps of a source, as a source: its records, with the captions that were kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.data.sources.open_source import open_source
from nearfar.data.sources.record_numbers import stream_place, with_id
from nearfar.data.sources.source import Record, Source, Stream
from nearfar.errors import UserError

NAME = "curated.json"
FORMAT = "nearfar.curation"


def curated(folder: str | Path) -> Source | Stream:
    """The records that `nearfar curate` kept, with the ids that they have in their source; a stream where that is one.

    Raises:
        UserError: the folder holds no curation that has ended.
    """
    folder = Path(folder)
    try:
        about: dict[str, Any] = json.loads((folder / NAME).read_text("utf-8"))
        if about["format"] != FORMAT:
            raise ValueError("another format")
        source, options, blocks = about["source"], about["options"], int(about["blocks"])
        stage, streaming = folder / about["stage"], bool(about["streaming"])
    except FileNotFoundError:
        raise UserError(f"{folder} holds no curation that has ended: run `nearfar curate` again") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / NAME} is damaged: run `nearfar curate` again") from error
    paths = [stage / f"block-{number:06}.parquet" for number in range(blocks)]
    opened = open_source(source, **{**options, "streaming": True} if streaming else options)
    return KeptStream(opened, paths) if isinstance(opened, Stream) else KeptPairs(opened, paths)


class KeptPairs(Source):
    """Records of a source that were kept. Their places and captions are held, as Arrow holds them."""

    def __init__(self, source: Source, paths: list[Path]) -> None:
        import pyarrow

        tables = [_table(path) for path in paths]
        self.source, self._kept = source, pyarrow.concat_tables(tables).combine_chunks()
        self.name, self.columns = f"{source.name}, curated", _columns(source, [self._kept])
        self.classes, self.domains, self._skipped = source.classes, source.domains, source.skipped

    def __len__(self) -> int:
        return len(self._kept)

    def record(self, index: int) -> Record:
        place, text = self._kept["place"][index].as_py(), self._kept["text"][index].as_py()
        return _with_text(with_id(self.source.record(place), place), text)

    def where(self, place: int) -> str:
        return self.source.where(self._kept["place"][place].as_py())


class KeptStream(Stream):
    """Records of a stream that were kept, part by part: nothing is held of other parts."""

    def __init__(self, stream: Stream, paths: list[Path]) -> None:
        if stream.parts != len(paths):
            raise UserError(
                f"{stream.name} has {stream.parts:,} shards, and {len(paths):,} were curated: curate it anew"
            )
        self.stream, self._paths, self.parts = stream, paths, stream.parts
        self.name, self.columns = f"{stream.name}, curated", _columns(stream, map(_table, paths))
        self.classes, self.domains, self._skipped = stream.classes, stream.domains, stream.skipped

    def read(self, part: int, skip: int = 0) -> Iterator[Record]:
        kept = _table(self._paths[part]).slice(skip)
        texts = dict(zip(kept["place"].to_pylist(), kept["text"].to_pylist(), strict=True))
        last = max(texts, default=-1)
        for number, record in enumerate(self.stream.read(part)):
            place = stream_place(part, number)
            if place > last:
                return
            if place in texts:
                yield _with_text(with_id(record, place), texts[place])


def _columns(source: Source | Stream, tables: Iterable[Any]) -> Sequence[str]:
    """The columns of the data, and `text` where captions were given to pictures that had none."""
    columns = list(source.columns)
    first = next((table for table in tables if len(table)), None) if "text" not in columns else None
    return columns if first is None or first["text"].null_count == len(first) else [*columns, "text"]


def _with_text(record: Record, text: list[str] | None) -> Record:
    return record if text is None else {**record, "text": text}


def _table(path: Path) -> Any:
    from pyarrow import ArrowException, parquet

    try:
        return parquet.read_table(path, columns=["place", "text"], partitioning=None)
    except (ArrowException, OSError) as error:
        why = files.why(error, "it is damaged")
        raise UserError(f"{path} cannot be read; {why}: run `nearfar curate` again") from error
