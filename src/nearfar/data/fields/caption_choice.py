"""Which of a record's captions training sees."""

from __future__ import annotations

from nearfar.data.batches.order import mix
from nearfar.errors import UserError

Caption = str | float
"""`"first"`, `"random"`, `"turn"`, each once in as many epochs as there are, or the share of draws that take the first;
the rest of the draws are random among all."""

_PREFER = 1  # the stream of chance that says whether the first is taken


def check_caption(caption: Caption) -> Caption:
    """`caption` itself if it is one of these, or a share from 0 to 1; else a `UserError` that says so."""
    if caption in ("first", "random", "turn") or (isinstance(caption, int | float) and 0 <= caption <= 1):
        return caption
    raise UserError(
        f"caption {caption!r}: choose 'first', 'random', 'turn', or a share from 0 to 1 of the draws that take the "
        "first"
    )


def choose_caption(caption: Caption, count: int, *place: int) -> int:
    """The number of the caption to take of `count`. It depends on the numbers `place` (seed, epoch, record) alone.

    >>> choose_caption("first", 5, 0, 1, 2), choose_caption(1.0, 5, 0, 1, 2)
    (0, 0)
    >>> choose_caption("random", 5, 0, 1, 2) == choose_caption(0.0, 5, 0, 1, 2)
    True
    >>> sorted(choose_caption("turn", 3, 0, epoch, 2) for epoch in (7, 8, 9))
    [0, 1, 2]
    """
    if caption == "first":
        return 0
    if caption == "turn":
        seed, epoch, *record = place
        return (epoch + mix(seed, *record)) % count
    if caption != "random" and mix(*place, _PREFER) < float(caption) * 2**63:
        return 0
    return mix(*place) % count
