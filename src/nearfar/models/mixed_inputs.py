"""`model.encode`: texts, pictures and paths in one list, vectors out, as users of sentence-transformers know it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar import console
from nearfar.data.pictures.images import EXTENSIONS, BadImage, load_image, reading_size
from nearfar.errors import UserError, at_least
from nearfar.models.shorter import doubt_of, shortened
from nearfar.modes import device_of, evaluating

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDES = ("image", "text")
FILES = (bytes, bytearray, memoryview, PathLike)
"""A picture's file as it is, or its path."""


def encode(
    self: Any,
    inputs: Any,
    batch_size: int = 32,
    show_progress_bar: bool | None = None,
    *,
    convert_to_tensor: bool = False,
    normalize_embeddings: bool = False,
    dim: int | None = None,
    side: str | None = None,
) -> NDArray[Any] | Tensor:
    """Embeddings of texts, pictures, or both in one list, in its order. The model runs in evaluation mode without
    gradients, on the device it is on; texts of like length share a batch.

    Args:
        inputs: a list, or one of what it may hold: a text; a picture, as a `PIL.Image`, a `Path`, the bytes of a file
            or a uint8 array `[H, W, 3]`. Other iterables are taken as lists, uint8 `[N, H, W, 3]` too. A `str` that
            ends as names of pictures do (`"cat.png"`) is a path, unless it has spaces and there is no such file.
        batch_size: texts, and pictures, at a time.
        show_progress_bar: True shows it; None as the command around it says.
        convert_to_tensor: return a tensor on the model's device instead of a NumPy array.
        normalize_embeddings: scale each to unit length, after it is cut.
        dim: keep only so many numbers of each, from the first; for models trained by `losses.Matryoshka`
            (arXiv 2205.13147). Another model is warned about.
        side: "text" takes every `str` as a text, "image" as a path; None as said above.

    Returns:
        `[N, D]` float32, or `[D]` for one input that is not in a list.

    Raises:
        UserError: a picture that cannot be read, a set or dict, an input of another kind, or pictures for a model of
            texts alone; the message has its place in the list.

    >>> import nearfar
    >>> from PIL import Image
    >>> model = nearfar.load("towers")
    >>> model.encode(["a red square", Image.new("RGB", (8, 8), "red")], normalize_embeddings=True).shape
    (2, 256)
    >>> model.encode("a red square", dim=64, convert_to_tensor=True).shape
    torch.Size([64])
    """
    at_least(1, batch_size=batch_size)
    if side not in (None, *SIDES):
        raise UserError(f"side={side!r}: choose 'text' or 'image', or leave it out")
    if isinstance(inputs, (Mapping, Set)):
        raise UserError(f"a {type(inputs).__name__} has no order of inputs: pass encode a list")
    one = not isinstance(inputs, (list, tuple)) and not _is_column(inputs)
    items = [inputs] if one else list(inputs)
    sides = [_side(self, item, place, side) for place, item in enumerate(items)]
    model = shortened(self, dim)
    if doubt := doubt_of(self, dim):
        warnings.warn(doubt, stacklevel=2)
    by_place: dict[int, Tensor] = {}
    with evaluating(self), console.progress("embedding", len(items), show_progress_bar) as step:
        for which, run in zip(SIDES, (_pictures, _texts), strict=True):
            places = [place for place, own in enumerate(sides) if own == which]
            for batch, vectors in run(model, items, places, batch_size):
                by_place |= zip(batch, vectors.float(), strict=True)
                step(len(batch))
    device = device_of(self)
    rows = [by_place[place] for place in range(len(items))]
    embeddings = torch.stack(rows) if rows else torch.zeros(0, model.embed_dim, device=device)
    if not embeddings.isfinite().all():
        raise UserError("the model gives embeddings that are NaN or infinite: its training diverged")
    embeddings = F.normalize(embeddings, dim=-1) if normalize_embeddings else embeddings
    embeddings = embeddings[0] if one else embeddings
    return embeddings if convert_to_tensor else embeddings.cpu().numpy()


def _is_column(inputs: Any) -> bool:
    """Whether something that is no list holds several inputs all the same: an array of texts or of pictures
    `[N, H, W, 3]`, a table's column."""
    kind = getattr(getattr(inputs, "dtype", None), "kind", "")
    if isinstance(inputs, (str, *FILES)) or hasattr(inputs, "convert") or not hasattr(inputs, "__iter__"):
        return False
    return kind in ("", "O", "U", "T") or getattr(inputs, "ndim", 0) == 4


def _side(model: Any, item: Any, place: int, side: str | None) -> str:
    reads_pictures, reads_texts = hasattr(model, "encode_image"), hasattr(model, "encode_text")
    if isinstance(item, str):
        if reads_pictures and not reads_texts:
            if side != "image" and not item.lower().endswith(EXTENSIONS):
                raise UserError(f"input {place} is a text, and a {type(model).__name__} reads pictures alone")
            return "image"
        if not reads_pictures or side == "text":
            return "text"
        named = item.lower().endswith(EXTENSIONS) and (not any(map(str.isspace, item)) or Path(item).is_file())
        return "image" if side == "image" or named else "text"
    if not (isinstance(item, FILES) or hasattr(item, "convert") or hasattr(item, "__array_interface__")):
        raise UserError(
            f"input {place} is a {type(item).__name__}: encode takes texts, and pictures as PIL images, paths, bytes "
            "or uint8 arrays"
        )
    if not reads_pictures:
        raise UserError(f"input {place} is a picture, and a {type(model).__name__} reads texts alone")
    if side == "text":
        raise UserError(f"input {place} is a {type(item).__name__}, and side='text' takes texts alone")
    return "image"


def _texts(model: Any, items: Sequence[Any], places: list[int], size: int) -> Iterator[tuple[list[int], Tensor]]:
    device = device_of(model)

    def run(batch: list[int]) -> Tensor:
        return model.encode_text(model.tokenize([items[place] for place in batch]).to(device))

    return _by_batch(sorted(places, key=lambda place: len(items[place])), size, run)


def _pictures(model: Any, items: Sequence[Any], places: list[int], size: int) -> Iterator[tuple[list[int], Tensor]]:
    near = reading_size(model)

    def run(batch: list[int]) -> Tensor:
        return model.encode_image(model.preprocess([_read(items[place], place, near) for place in batch]))

    return _by_batch(places, size, run)


def _by_batch(places: list[int], size: int, run: Callable[[list[int]], Tensor]) -> Iterator[tuple[list[int], Tensor]]:
    for start in range(0, len(places), size):
        batch = places[start : start + size]
        yield batch, run(batch)


def _read(item: Any, place: int, near: int | None) -> Any:
    try:
        return load_image(item, near=near)
    except BadImage as error:
        hint = ": is it a text? write encode(..., side='text')" if isinstance(item, str) else ""
        raise UserError(f"input {place}: {error}{hint}") from None
