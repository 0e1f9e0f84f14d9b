"""What the items of an index are: pictures, videos, sounds or texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from nearfar.search.index.items import MOVING, moves, sounds

if TYPE_CHECKING:
    import pyarrow as pa


COLUMNS = ("path", "length", "offset", "source")
"""What is read of the items to count them."""


def counts(table: pa.Table, pictures: np.ndarray) -> dict[str, int]:
    """How many pictures, videos, sounds and texts there are, without those of which there are none.

    Args:
        table: these `COLUMNS` of the items.
        pictures: the bytes of the index's picture file, uint8 `[B]`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    file, kept = pc.is_valid(table["path"]), table["length"].cast(pa.bool_())  # `> 0` would import pandas
    texts = total(pc.invert(pc.or_(file, kept)))
    heard = of_kind(table.filter(kept), pictures, sounds)
    videos = of_kind(table.filter(kept), pictures, moves)
    kinds = {"picture": len(table) - texts - videos - heard, "video": videos, "sound": heard, "text": texts}
    return {kind: n for kind, n in kinds.items() if n}


def in_words(counts: dict[str, int]) -> str:
    """Counts as words.

    >>> in_words({"picture": 3}), in_words({"video": 1, "text": 2000}), in_words({})
    ('3 pictures', '1 video and 2,000 texts', '0 pictures')
    """
    parts = [f"{n:,} {kind}{'' if n == 1 else 's'}" for kind, n in counts.items()]
    return ", ".join([*parts[:-2], " and ".join(parts[-2:])]) or "0 pictures"


def total(mask: pa.ChunkedArray) -> int:
    """How many values are true."""
    import pyarrow.compute as pc

    return int(pc.sum(mask).as_py() or 0)


def of_kind(table: pa.Table, pictures: np.ndarray, is_kind: Callable[[bytes], bool]) -> int:
    """How many items of which bytes are kept are videos, or sounds. All of a source are, or none, so that one of each
    source is looked at and no more of the file is read."""
    import pyarrow.compute as pc

    if not len(table):
        return 0
    sources = pc.value_counts(table["source"])
    first = pc.index_in(sources.field("values"), value_set=table["source"].combine_chunks())  # `index` imports pandas
    count = 0
    for offset, items in zip(table["offset"].take(first).to_pylist(), sources.field("counts").to_pylist(), strict=True):
        count += items if is_kind(pictures[offset : offset + MOVING].tobytes()) else 0
    return count
