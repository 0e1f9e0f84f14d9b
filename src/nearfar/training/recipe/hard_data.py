"""What a recipe's `data.hard_captions` and `data.hard_images` do to the data (NegCLIP, arXiv 2210.01936)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nearfar import distributed as processes
from nearfar.errors import UserError


def with_captions(source: Any, *, drop: bool = False) -> tuple[Any, str]:
    """The source with hard negative captions, and a line that says how many there are. `drop` leaves out records
    without."""
    from nearfar.data import CaptionSwapper, with_hard_captions

    swapper = CaptionSwapper()
    made = with_hard_captions(source, swapper, drop=drop)
    return made, f"hard captions of {source.name}: {swapper.report}"


def mined_images(source: Any, model: Any, k: int) -> Tensor:
    """The `k` nearest pictures `[N, k]` of each record, as the model sees them before training. Every process mines the
    same.

    Raises:
        UserError: a stream, a model without pictures, or records whose picture cannot be read.
    """
    from nearfar.data import mine_hard_images
    from nearfar.evaluation import embed

    if not hasattr(source, "select"):
        raise UserError(f"data.hard_images is for data that can be read by number; {source.name} is a stream.")
    if not hasattr(model, "encode_image"):
        raise UserError(f"data.hard_images needs a model with encode_image; this one is a {type(model).__name__}.")
    embeddings = embed(model, source, captions=0, max_skipped=0, progress=processes.is_main())
    return mine_hard_images(embeddings.image, k=k, group=embeddings.group)
