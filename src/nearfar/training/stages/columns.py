"""Columns: what a stage computes of each of its records, kept by record id, and read by a later stage as if it stood in
the data.

    keep:                                          # of a stage, after its training
      features: image                              # a vector a record: its picture's embedding
      cluster: {of: image, clusters: 10}           # a number a record: k-means of those vectors
      caption: my_module:describe                  # whatever a function of yours returns
    ...
    data: {columns: {label: previous/cluster}}     # of a later stage

`columns.parquet` has the record ids as `index`, and one column each; `columns-validation.parquet` the same of the
validation data. Clusters of stages (MCL, arXiv 2402.11816) are
those samples that shared a cluster in every stage so far: `within: label` combines the new number with a record's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from nearfar.data.mining.clusters import fit_clusters, nearest_centres
from nearfar.data.sources.source import Source
from nearfar.errors import UserError, need
from nearfar.methods.base import trained_part
from nearfar.training.stages.columns_file import Part, write

PARTS = ("newest", "whole")
SIDES = ("image", "text", "audio", "video")


@dataclass(frozen=True)
class ClusterSettings:
    """Clusters of embeddings by k-means, as a column to keep."""

    of: str
    """The side whose embeddings are clustered: `image`, `text`, `audio` or `video`."""
    clusters: int
    """How many, at least 2."""
    within: str | None = None
    """A number that the records have already, `label` say: the clusters are cut by it."""
    seed: int = 0
    """Of the first centres."""
    part: str = "newest"
    """Whose embeddings, where the model is a concatenation of encoders: `newest`, those of the part that the stage
    trained (MCL), or `whole`, the concatenation."""
    starts: int = 1
    """So many sets of first centres are tried, and the best kept."""
    batch: int | None = None
    """Fit by batches of so many records, for millions of them; by default all at once."""


CLUSTERING = tuple(field.name for field in fields(ClusterSettings))
Column = str | Mapping[str, Any] | Callable[..., Any]
"""A side that the model embeds (`image`; `text`: its first caption; ...), `{of: SIDE, clusters: K, within: KEY,
seed: 0}`, or a function `(model, source) -> one value a record`."""


def check_keep(keep: Any) -> None:
    """Raise a `UserError` for a column to keep that is none.

    >>> check_keep({"cluster": {"of": "image", "clusters": 0}})
    Traceback (most recent call last):
    nearfar.errors.UserError: keep.cluster: clusters must be a whole number of at least 2, not 0.
    """
    if not isinstance(keep, Mapping):
        raise UserError(f"keep must name columns, {{features: image}}, say, not {keep!r}.")
    for name, column in keep.items():
        if not isinstance(name, str) or not name or "/" in name or name == "index":
            raise UserError(f"keep.{name}: a column's name is a word without '/', and not 'index', which is the ids.")
        if isinstance(column, Mapping):
            _check_clusters(name, column)
        elif not callable(column) and column not in SIDES and not (isinstance(column, str) and ":" in column):
            raise UserError(
                f"keep.{name} must be {', '.join(SIDES)}, {{of: image, clusters: 10}}, or module:function, not "
                f"{column!r}."
            )


def _check_clusters(name: str, column: Mapping[str, Any]) -> None:
    for setting in column:
        if setting not in CLUSTERING:
            raise UserError(f"keep.{name}: no setting {setting!r}. There are: {', '.join(CLUSTERING)}.")
    if column.get("of") not in SIDES:
        raise UserError(f"keep.{name}: say what to cluster with 'of': {' or '.join(SIDES)}.")
    for setting, least, default in (("clusters", 2, None), ("seed", 0, 0), ("starts", 1, 1), ("batch", 1, 1)):
        value = column.get(setting, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"keep.{name}: {setting} must be a whole number of at least {least}, not {value!r}.")
    if not isinstance(column.get("within"), str | None):
        raise UserError(f"keep.{name}: within is a key of the records, label, say, not {column['within']!r}.")
    if column.get("part", "newest") not in PARTS:
        raise UserError(f"keep.{name}: part is {column['part']!r}: choose {' or '.join(PARTS)}.")
    need("sklearn", "probes")


def save(
    folder: Path,
    keep: Mapping[str, Column],
    model: Any,
    source: Any,
    validation: Any = None,
    *,
    original: Any = None,
    max_skipped: float = 0.1,
) -> None:
    """Compute the columns `keep` of all records of a source, and write them into `folder`.

    Args:
        folder: of the stage.
        keep: the columns by name.
        model: what computes them.
        source: the training data.
        validation: the validation data, whose columns are computed likewise, with the clusters of the training data;
            None, or what has no stable ids (a stream, plain batches): none are written.
        original: the training data as they were before other columns were joined; by default what `source` says.
        max_skipped: the share of records whose picture may be broken.

    Raises:
        UserError: a stream, an id that comes twice, a function that does not return one value a record.
    """
    if not isinstance(source, Source):
        raise UserError(
            f"keep: {getattr(source, 'name', 'the data')} cannot be counted, so its records have no stable ids: keep "
            "columns of a source that is no stream."
        )
    clusters: dict[str, Any] = {}
    parts: list[tuple[Part, Source, Any]] = [("training", source, original)]
    if isinstance(validation, Source):
        parts.append(("validation", validation, None))
    for part, data, before in parts:
        embedded = _Embedded(model, data, max_skipped)
        values = {name: _values(name, column, embedded, clusters) for name, column in keep.items()}
        write(folder, part, values, data, original=before)


class _Embedded:
    """A source's embeddings by side, each computed when it is first needed. Broken records have none."""

    def __init__(self, model: Any, source: Source, max_skipped: float) -> None:
        self.model, self.source, self.max_skipped = model, source, max_skipped
        self._sides: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}

    def side(self, side: str, part: str = "whole") -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors `[n, D]` float32, of a part of the model or the whole, and the place `[n]` of each in the
        source."""
        if (side, part) not in self._sides:
            from nearfar.embedding.embed_source import embed

            model = trained_part(self.model) if part == "newest" else self.model
            embeddings = embed(model, self.source, [side], captions=1, max_skipped=self.max_skipped)
            vectors, owner = embeddings.sides[side]
            self._sides[side, part] = (vectors.numpy(), embeddings.row[owner].numpy())
        return self._sides[side, part]


def _values(name: str, column: Column, embedded: _Embedded, clusters: dict[str, Any]) -> Any:
    """One value a record, None where there is none. `clusters` are those that were computed already, by column."""
    source = embedded.source
    if callable(column):
        values = column(embedded.model, source)
        if not hasattr(values, "__len__") or len(values) != len(source):
            count = len(values) if hasattr(values, "__len__") else "none"
            raise UserError(f"keep.{name}: the function must return {len(source)} values, one a record, not {count}.")
        return values
    if isinstance(column, str):
        vectors, rows = embedded.side(column)
        return _placed(vectors, rows, len(source))
    settings = ClusterSettings(**column)
    vectors, rows = embedded.side(settings.of, settings.part)
    count = settings.clusters
    if name not in clusters:
        if len(vectors) < count:
            raise UserError(f"keep.{name}: {len(vectors)} records cannot be put into {count} clusters: set fewer.")
        clusters[name] = fit_clusters(vectors, count, seed=settings.seed, starts=settings.starts, batch=settings.batch)
    labels = nearest_centres(clusters[name], vectors)
    if key := settings.within:
        own = source.column(key)
        outer = [own[row] for row in rows]
        if any(value is None for value in outer):
            raise UserError(f"keep.{name}: within is {key!r}, which not every record of {source.name} has.")
        labels += np.array(outer, dtype=np.int64) * count
    return _placed(labels, rows, len(source))


def _placed(values: np.ndarray, rows: np.ndarray, total: int) -> Any:
    """The values at their records' places."""
    if len(rows) == total and (rows == np.arange(total)).all():
        return values
    placed: list[Any] = [None] * total
    for row, value in zip(rows.tolist(), values, strict=True):
        placed[row] = value
    return placed
