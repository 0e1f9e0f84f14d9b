"""Embeddings cut to their first numbers: what a model trained by Matryoshka's losses is made for (arXiv 2205.13147)."""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError


class Shortened(nn.Module):
    """An encoder that keeps the first `dim` numbers of another's embeddings; in all else it is the other.

    Args:
        encoder: any encoder.
        dim: how many numbers to keep.
    """

    def __init__(self, encoder: Any, dim: int) -> None:
        super().__init__()
        self.encoder, self.embed_dim = encoder, dim

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.encoder)})  # by which `embeds` finds its sides

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or name == "encoder":  # a copy needs these before it has anything
                raise
        value = getattr(self._modules.get("encoder"), name)
        if name == "encode":  # it embeds by this model's own `encode_text` and `encode_image`, which cut
            return MethodType(value.__func__, self)
        if not name.startswith("encode_") or name == "encode_image_map":
            return value

        def cut(inputs: Any, normalize: bool = False, **options: Any) -> Tensor:
            embeddings = value(inputs, **options)[..., : self.embed_dim]
            return F.normalize(embeddings, dim=-1) if normalize else embeddings

        return cut


def shortened(encoder: Any, dim: int | None) -> Any:
    """The encoder, its embeddings cut to `dim` numbers: what evaluates, embeds and searches takes it as any other.

    Args:
        encoder: a module with `embed_dim`.
        dim: how many numbers to keep; None or all of them return the encoder itself.

    Raises:
        UserError: `dim` is below 1 or more than the encoder's embeddings have.

    >>> import nearfar
    >>> model = shortened(nearfar.load("towers"), 64)
    >>> model.encode_text(model.tokenize(["a red car"]), normalize=True).shape
    torch.Size([1, 64])
    """
    if dim is None or dim == (width := getattr(encoder, "embed_dim", None)):
        return encoder
    if not isinstance(width, int):
        raise UserError(f"a {type(encoder).__name__} does not say how wide its embeddings are: give it embed_dim")
    if not 1 <= dim <= width:
        raise UserError(f"dim={dim}: this model's embeddings have {width} numbers, so name 1 to {width}")
    return Shortened(encoder, dim)


def as_stored(encoder: Any, dim: int) -> Any:
    """The encoder, cut to the `dim` numbers that stored embeddings have; itself where it has no more than these."""
    return shortened(encoder, dim) if dim < getattr(encoder, "embed_dim", 0) else encoder


def doubt_of(encoder: Any, dim: int | None) -> str | None:
    """Why embeddings that are cut to `dim` numbers may be much worse than whole ones: the model's training did not
    arrange them for that. None where it did.

    >>> from types import SimpleNamespace
    >>> doubt_of(SimpleNamespace(embed_dim=256, matryoshka=(64, 256)), 32)
    'embeddings of 256 numbers are cut to 32, and training arranged them for 64, 256: measure what is lost'
    """
    trained = getattr(encoder, "matryoshka", None) or ()
    if dim is None or dim == encoder.embed_dim or dim in trained:
        return None
    made = f"training arranged them for {', '.join(map(str, trained))}" if trained else "training did not arrange them"
    return f"embeddings of {encoder.embed_dim} numbers are cut to {dim}, and {made}: measure what is lost"
