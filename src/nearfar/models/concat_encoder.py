"""Encoders side by side: the embeddings of several stages as one, MCL's final representation (arXiv 2402.11816)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.models import model_folder
from nearfar.models.dual.dual_encoder import DualEncoder
from nearfar.models.hub import push_to_hub
from nearfar.models.image.image_encoder import ImageEncoder
from nearfar.models.mixed_inputs import encode
from nearfar.models.tokenizer_files import tokenizer_sum

if TYPE_CHECKING:
    from PIL.Image import Image

    from nearfar.models.towers.tokens import Tokens

Normalize = Literal["joint", "each"]
Start = Literal["scratch", "base", "previous"]
STARTS = ("scratch", "base", "previous")


class ConcatImageEncoder(nn.Module):
    """Image encoders whose embeddings stand one behind the other. `concatenated` makes one.

    Only the newest part, the last one, is trained, and methods train through it alone; the others take no gradient and
    stay in evaluation mode. What is evaluated, indexed and searched is the concatenation.

    Args:
        parts: the encoders, of the first stage first; they read pictures alike.
        normalize: "joint" takes each part's embedding as it is, so that a part counts by its length (the released
            code); "each" scales each to unit length first.
        weights: of the parts, above 0: with "each", their shares in the cosine. None: all alike.

    Attributes:
        image_size, mean, std: what `preprocess` makes of pictures.
        embed_dim: width of what `encode_image` returns: the parts' widths together.

    Raises:
        UserError: no part, parts that read pictures differently, weights that are not one above 0 a part.
    """

    encode = encode
    push_to_hub = push_to_hub

    NEEDED: ClassVar[tuple[str, ...]] = ("parts",)
    """What its saved config must have."""

    PARTS_OF: ClassVar[Any] = ImageEncoder
    """What each part is."""

    parts: Any

    def __init__(
        self, parts: Sequence[Any], *, normalize: Normalize = "joint", weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if normalize not in ("joint", "each"):
            raise UserError(f"normalize={normalize!r}: choose joint or each")
        _check_parts(parts, self.PARTS_OF)
        if weights is not None and (len(weights) != len(parts) or not all(weight > 0 for weight in weights)):
            raise UserError(f"weights={list(weights)}: give {len(parts)}, one a part, each above 0")
        self.parts = nn.ModuleList(parts)
        self.normalize, self.weights = normalize, None if weights is None else [float(weight) for weight in weights]
        for part in self.parts[:-1]:
            part.requires_grad_(False)
        self.train(self.newest.training)

    @property
    def newest(self) -> Any:
        """The last part: the one that is trained."""
        return self.parts[-1]

    @property
    def embed_dim(self) -> int:
        return sum(part.embed_dim for part in self.parts)

    @property
    def projected_dim(self) -> int:
        """Width of what `project_image` returns."""
        return self.newest.projected_dim

    @property
    def image_size(self) -> int:
        return self.newest.image_size

    @property
    def mean(self) -> tuple[float, ...]:
        return self.newest.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self.newest.std

    @property
    def device(self) -> torch.device:
        return self.newest.device

    def preprocess(self, pictures: Sequence[Image]) -> Tensor:
        """Pixels `[B, 3, image_size, image_size]` float32 of a list of PIL pictures."""
        return self.newest.preprocess(pictures)

    def project_image(self, pixels: Tensor) -> Tensor:
        """What methods compare in training, of pixels `[B, 3, H, W]` float32: the newest part's projection `[B,
        projected_dim]`."""
        return self.newest.project_image(pixels)

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        """All parts' embeddings `[B, embed_dim]` of pixels `[B, 3, H, W]` float32; of unit length with
        `normalize=True`. Raises UserError for pixels of another shape than the towers take."""
        return self._joined([part.encode_image(pixels) for part in self.parts], normalize)

    def forward(self, pixels: Tensor) -> Tensor:
        """The embeddings, unit length."""
        return self.encode_image(pixels, normalize=True)

    def resize_images(self, image_size: int) -> Self:
        """Take pictures of another size from here on; see `ImageTower.resize` for position embeddings and errors."""
        for part in self.parts:
            part.resize_images(image_size)
        return self

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self.parts[:-1]:
            part.eval()
        return self

    def config(self) -> dict[str, Any]:
        """Everything but weights and tokenizer, as plain data: what `from_config` builds the model from."""
        return {
            "parts": [part.config() for part in self.parts],
            "normalize": self.normalize,
            "weights": self.weights,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tokenizer: Any = None) -> Self:
        """A model of this shape with fresh weights."""
        settings = dict(config)
        return cls([cls.PARTS_OF.from_config(part, tokenizer) for part in settings.pop("parts")], **settings)

    def save_pretrained(self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None) -> Path:
        """Write `config.json`, `model.safetensors`, the card, and the tokenizer where there is one, to `folder`, each
        file whole or not at all.

        `state_dict` gives the weights where the module does not hold them all (sharded training).
        """
        return model_folder.write(folder, self, state_dict or self.state_dict())

    def _joined(self, embeddings: Sequence[Tensor], normalize: bool) -> Tensor:
        if self.normalize == "each":
            embeddings = [F.normalize(each, dim=-1) for each in embeddings]
        if self.weights is not None:
            # A part's weight counts in the product of two embeddings, its root in each of them.
            embeddings = [each * weight**0.5 for each, weight in zip(embeddings, self.weights, strict=True)]
        joined = torch.cat(list(embeddings), dim=-1)
        return F.normalize(joined, dim=-1) if normalize else joined


class ConcatDualEncoder(ConcatImageEncoder):
    """Dual encoders whose embeddings stand one behind the other, of pictures and of texts in the same order: the cosine
    is the parts' mean, weighed by their lengths ("joint") or not ("each").

    Args:
        parts, normalize, weights: as of `ConcatImageEncoder`; the parts have one tokenizer, and cut texts alike.

    Attributes:
        tokenizer, max_length: what `tokenize` makes of texts.
        temperature, bias: the newest part's.

    Raises:
        UserError: beside those of `ConcatImageEncoder`, parts that read texts differently.
    """

    PARTS_OF: ClassVar[Any] = DualEncoder

    def __init__(
        self, parts: Sequence[Any], *, normalize: Normalize = "joint", weights: Sequence[float] | None = None
    ) -> None:
        super().__init__(parts, normalize=normalize, weights=weights)
        for part in parts[:-1]:
            if part.max_length != self.max_length or (
                part.tokenizer is not self.tokenizer and tokenizer_sum(part.tokenizer) != tokenizer_sum(self.tokenizer)
            ):
                raise UserError("the parts read texts differently: they need one tokenizer and one max_length")

    @property
    def tokenizer(self) -> Any:
        return self.newest.tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        for part in self.parts:
            part.tokenizer = tokenizer

    @property
    def max_length(self) -> int:
        return self.newest.max_length

    @property
    def temperature(self) -> float | None:
        return self.newest.temperature

    @temperature.setter
    def temperature(self, temperature: float | None) -> None:
        self.newest.temperature = temperature

    @property
    def bias(self) -> float | None:
        return self.newest.bias

    @bias.setter
    def bias(self, bias: float | None) -> None:
        self.newest.bias = bias

    @property
    def projected_dim(self) -> int:
        return self.newest.embed_dim

    def project_image(self, pixels: Tensor) -> Tensor:
        """What methods on pictures compare in training, of pixels `[B, 3, H, W]` float32: the newest part's embedding
        `[B, D]`."""
        return self.newest.encode_image(pixels)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """`input_ids` and `attention_mask` `[B, L]` long, cut at `max_length`, padded to the longest text."""
        return self.newest.tokenize(texts)

    def cut_texts(self, max_length: int) -> Self:
        """Cut texts at so many tokens from now on, at most what the text towers can take."""
        for part in self.parts:
            part.cut_texts(max_length)
        return self

    def encode_text(self, tokens: Mapping[str, Tensor] | Tensor, normalize: bool = False) -> Tensor:
        """All parts' embeddings `[B, embed_dim]` of a dict of tokens `[B, L]` int64; of unit length with
        `normalize=True`."""
        return self._joined([part.encode_text(tokens) for part in self.parts], normalize)


def concatenated(
    models: Sequence[Any], *, normalize: Normalize = "joint", weights: Sequence[float] | None = None
) -> ConcatImageEncoder:
    """Several encoders as one, whose embedding is all of theirs, one behind the other: of an `ImageEncoder` each, or of
    a `DualEncoder` each. One that is a concatenation itself gives its parts.

    Args:
        models: the encoders, in their order.
        normalize: "joint" or "each"; see `ConcatImageEncoder`.
        weights: one a part, or None.

    Raises:
        UserError: encoders of several kinds, or that read pictures or texts differently.

    >>> from nearfar.models import image_encoder
    >>> both = concatenated([image_encoder("micro-resnet"), image_encoder("micro-resnet")])
    >>> both.encode_image(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 256])
    """
    parts = [part for model in models for part in (model.parts if isinstance(model, ConcatImageEncoder) else [model])]
    kind = ConcatDualEncoder if parts and isinstance(parts[0], DualEncoder) else ConcatImageEncoder
    return kind(parts, normalize=normalize, weights=weights)


def appended(model: Any, start: Start) -> ConcatImageEncoder:
    """`model` with one more part, to be trained, of the same shape.

    Args:
        model: an `ImageEncoder`, a `DualEncoder`, or a concatenation of them.
        start: what the new part starts with: "scratch", fresh weights; "base", those of the first part; "previous",
            those of the last.

    Raises:
        UserError: a model of another kind, a start that is none.
    """
    if start not in STARTS:
        raise UserError(f"append={start!r}: choose {', '.join(STARTS)}")
    whole = model if isinstance(model, ConcatImageEncoder) else concatenated([model])
    pattern = whole.parts[0 if start == "base" else -1]
    fresh = whole.PARTS_OF.from_config(pattern.config(), getattr(pattern, "tokenizer", None))
    if start != "scratch":
        fresh.load_state_dict(pattern.state_dict())
    elif isinstance(fresh, DualEncoder):
        fresh.temperature = fresh.bias = None
    fresh.to(whole.device).train(model.training)
    weights = None if whole.weights is None else [*whole.weights, 1.0]
    return concatenated([*whole.parts, fresh], normalize=whole.normalize, weights=weights)


def _check_parts(parts: Sequence[Any], kind: Any) -> None:
    if not parts:
        raise UserError("a concatenation has at least one part")
    for part in parts:
        if type(part) is not kind:
            raise UserError(
                f"the parts of a concatenation are all ImageEncoder or all DualEncoder, not {type(part).__name__}"
            )
        if part.pixels != parts[0].pixels:
            raise UserError(f"the parts read pictures differently: {parts[0].pixels} and {part.pixels}")
