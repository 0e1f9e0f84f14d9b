"""What protocols share that give a model picture after picture: reading them, and halves of the data for baselines."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from nearfar import console
from nearfar.data.pictures.images import BadImage, load_image
from nearfar.data.sources.skipped import Skipped
from nearfar.errors import UserError


def read_pictures(
    source: Any, rows: Sequence[int], *, near: int | None, batch_size: int, skipped: Skipped, max_skipped: float
) -> Iterator[tuple[list[int], list[Any]]]:
    """The pictures of some records in batches, with their places in `rows` (ascending).

    Args:
        source: a source, or a stream, which is read no further than needed.
        near: the size that is wanted, for formats that can be read smaller.
        skipped: where broken pictures are noted, which are left out.
        max_skipped: the share of them above which this stops.

    Raises:
        UserError: too many broken pictures, or no other.
    """
    name, place_of = getattr(source, "name", "the data"), {row: place for place, row in enumerate(rows)}
    places: list[int] = []
    pictures: list[Any] = []
    records = console.track(islice(source, rows[-1] + 1), f"{name}: pictures", total=rows[-1] + 1)
    for row, record in enumerate(records):
        if row not in place_of:
            continue
        try:
            pictures.append(load_image(record.get("image"), near=near))
            places.append(place_of[row])
        except BadImage as error:
            skipped.add(f"{name}, record {row}", str(error))
        if len(pictures) == batch_size:
            yield places, pictures
            places, pictures = [], []
    if pictures:
        yield places, pictures
    skipped.check(len(rows), limit=max_skipped, name=name, total=len(rows))
    if skipped.count == len(rows):
        raise UserError(f"{name} holds no picture that can be read\n{skipped.reasons(5)}")


def halves(groups: Sequence[Hashable]) -> list[int]:
    """0 or 1 for each row, the groups in turn and each kept whole: a baseline fitted on one half is tried on the other.

    >>> halves(["cat", "dog", "cat", "owl"])
    [0, 1, 0, 0]
    """
    order = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    return [order[group] % 2 for group in groups]


def as_source(data: Any) -> Any:
    """A source; a recipe names it by its word, or by a mapping with `spec`."""
    from nearfar.data import open_source

    if isinstance(data, Mapping):
        return open_source(**data)
    return open_source(data) if isinstance(data, str | Path) else data
