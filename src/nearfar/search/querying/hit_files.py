"""The hits of many queries, written as they come: JSON lines, a query a line, or Parquet, a hit a row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.errors import UserError
from nearfar.search.index.kept import KEPT
from nearfar.search.index.stored_index import Index
from nearfar.search.querying.many_queries import in_batches
from nearfar.search.querying.query import Query, Results

COLUMNS = ("key", "id", "path", "captions", "label_name", "group", "domain_name", "sample", "shard")
"""What a Parquet file of hits holds of each item beside the kept columns."""


def check_ending(path: Path) -> None:
    """Raise UserError unless hits can be written to this file."""
    if path.suffix.lower() not in WRITERS:
        raise UserError(f"--out {path}: hits are written as .jsonl or .parquet; name the file {path.stem}.jsonl")
    files.place(path)


def write_hits(results: Iterable[Results], path: Path, *, index: Index) -> int:
    """Write results to `path` while they come, and put the file in its place when all are there; their number."""
    check_ending(path)
    with files.whole(path) as temporary:
        return WRITERS[path.suffix.lower()](results, temporary, index)


def _write_lines(results: Iterable[Results], path: Path, index: Index) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as out:
        for each in results:
            count += 1
            line = {"query": each.number, **_terms(each.query), "hits": [hit.as_dict() for hit in each]}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
    return count


def _write_parquet(results: Iterable[Results], path: Path, index: Index) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, count = _schema(index), 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for part in in_batches(results, 256):
            count += len(part)
            rows = [(each, hit) for each in part for hit in each]
            values: dict[str, list[Any]] = {
                "query": [each.number for each, _ in rows],
                "text": [_terms(each.query)["text"] for each, _ in rows],
                "image": [_terms(each.query)["image"] for each, _ in rows],
                "audio": [_terms(each.query)["audio"] for each, _ in rows],
                "rank": [hit.rank for _, hit in rows],
                "score": [hit.score for _, hit in rows],
                **{name: [getattr(hit, name) for _, hit in rows] for name in COLUMNS},
            }
            for name, column in _names(index, schema).items():
                written = schema.field(name).metadata == {b"json": b"1"}
                kept = [hit.kept[column] for _, hit in rows]
                values[name] = [json.dumps(value) if written and value is not None else value for value in kept]
            writer.write_table(pa.table(values, schema=schema))
    return count


def _schema(index: Index) -> Any:
    """The columns of hits: those of the query, of the item, and the kept ones as the index stores them."""
    import pyarrow as pa

    words = [pa.field(name, pa.string()) for name in ("text", "image", "audio")]
    fields = [pa.field("query", pa.int64()), *words, pa.field("rank", pa.int64()), pa.field("score", pa.float64())]
    fields += [index.table.schema.field(name) for name in COLUMNS]
    taken = {field.name for field in fields}
    for field in index.table.schema:
        name = field.name.partition(":")[2]
        if name:
            written = None if field.name.startswith(KEPT) else {"json": "1"}
            fields.append(pa.field(f"kept:{name}" if name in taken else name, field.type, metadata=written))
    return pa.schema(fields)


def _names(index: Index, schema: Any) -> dict[str, str]:
    """The kept columns by their names in the file."""
    return dict(zip(schema.names[len(schema.names) - len(index.columns) :], index.columns, strict=True))


def _terms(query: Query) -> dict[str, str | None]:
    """The query's text, and its picture and sound where they are files."""
    media = {"image": query.image, "audio": query.audio}
    return {"text": query.text, **{name: str(it) if isinstance(it, str | Path) else None for name, it in media.items()}}


WRITERS: dict[str, Callable[[Iterable[Results], Path, Index], int]] = {
    ".jsonl": _write_lines,
    ".parquet": _write_parquet,
}
