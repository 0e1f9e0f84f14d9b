"""Many queries at once: embedded and searched in batches, each with the hits that it has alone."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from nearfar.data.sources.skipped import Skipped
from nearfar.errors import UserError, at_least
from nearfar.search.index.stored_index import Index
from nearfar.search.querying.matching_items import matching_rows
from nearfar.search.querying.query import Query, Results, embed_queries

T = TypeVar("T")


def search_many(
    index: Index,
    encoder: Any,
    queries: Iterable[Query | str],
    *,
    top: int = 10,
    where: str | None = None,
    batch_size: int = 256,
    skipped: Skipped | None = None,
) -> Iterator[Results]:
    """Search an index by many queries; their results come in their order, a batch at a time, so that there may be any
    number of them.

    Args:
        index: an opened index, made by this encoder.
        encoder: anything with `encode_image`, `encode_text`, `preprocess` and `tokenize`; of sounds `encode_audio`
            and `preprocess_audio`.
        queries: texts, or `Query`s of texts, pictures and sounds.
        top: how many hits each.
        where: a filter for all of them, as in `nearfar.search.query`.
        batch_size: queries at a time.
        skipped: collects queries that cannot be used (an empty text, a broken picture), which then have no results.
            None: they raise.

    Yields:
        `Results`, `results.number` the query's place from 0; `seconds` are the batch's, by the number of its queries.

    Raises:
        UserError: a query cannot be used (its number is named), the filter cannot be read, the index is empty.

    >>> import tempfile
    >>> from nearfar.search.index.writer import IndexWriter
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     IndexWriter.create(folder, model="m", dim=2, probe=[]).close()
    ...     list(search_many(Index(folder), None, []))
    []
    """
    at_least(1, top=top, batch_size=batch_size)
    among = None if where is None else matching_rows(index.table, where)
    whole = (each if isinstance(each, Query) else Query(text=each) for each in queries)
    for batch in in_batches(enumerate(whole), batch_size):
        started = time.perf_counter()
        numbers, usable, vectors = usable_of(batch, encoder, skipped)
        if not usable:
            continue
        embedded = time.perf_counter()
        scores, rows = index.search(vectors, top, among=among)
        hits = [index.hits(*best) for best in zip(scores, rows, strict=True)]
        ended, count = time.perf_counter(), len(usable)
        seconds = {"embed": (embedded - started) / count, "search": (ended - embedded) / count}
        matching = None if among is None else len(among)
        for number, each, own in zip(numbers, usable, hits, strict=True):
            yield Results(query=each, hits=own, seconds=seconds, matching=matching, number=number)


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items, `size` at a time.

    >>> list(in_batches("abc", 2))
    [['a', 'b'], ['c']]
    """
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def usable_of(
    batch: list[tuple[int, Query]], encoder: Any, skipped: Skipped | None
) -> tuple[list[int], list[Query], np.ndarray]:
    """The numbers, queries and vectors of those of a batch that can be used; together where all can, one by one where
    some cannot."""
    numbers, queries = [number for number, _ in batch], [each for _, each in batch]
    try:
        return numbers, queries, embed_queries(queries, encoder)
    except UserError:
        pass
    good, vectors = [], []
    for number, each in zip(numbers, queries, strict=True):
        try:
            vectors.append(each.embed(encoder))
            good.append((number, each))
        except UserError as error:
            if skipped is None:
                raise UserError(f"query {number}: {error}") from None
            skipped.add(f"query {number}", str(error))
    return [number for number, _ in good], [each for _, each in good], np.array(vectors)
