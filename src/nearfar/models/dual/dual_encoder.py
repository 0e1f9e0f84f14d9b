"""The dual encoder: an image tower and a text tower with one embedding space."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar import files
from nearfar.errors import UserError
from nearfar.models import model_folder as checkpoint
from nearfar.models.dual import lora
from nearfar.models.dual.projection import Kind, ProjectionHeads, projection
from nearfar.models.folder_checks import PARTS, check_adapters
from nearfar.models.hub import push_to_hub
from nearfar.models.mixed_inputs import encode
from nearfar.models.towers.pixels import Pixels, PreparesPictures
from nearfar.models.towers.tokens import Tokens, check_tokenizer, tokenize, with_padding
from nearfar.models.towers.tower import ImageTower, TextTower
from nearfar.models.weight_files import load_part, write_weights
from nearfar.modes import Freezable

ADAPTERS = "adapters.json"


class DualEncoder(PreparesPictures, Freezable):
    """Two towers and their projections into one space of `embed_dim` numbers. `nearfar.models.create` makes one.

    Embeddings are as the projections give them unless `normalize=True`: losses normalise for themselves.

    Attributes:
        image_size, mean, std: what `preprocess` makes of pictures.
        tokenizer, max_length: what `tokenize` makes of texts.
        embed_dim: width of the shared space.
        temperature, bias: the divisor of similarities, and the offset added after, that a checkpoint was trained
            with; None where there is none. A method starts from them and gives back what it learned.
        matryoshka: the widths that its embeddings may be cut to, as the method `matryoshka` trained them; else empty.
    """

    encode = encode
    push_to_hub = push_to_hub

    FREEZABLE: ClassVar[tuple[str, ...]] = PARTS

    def __init__(
        self,
        image: ImageTower,
        text: TextTower,
        *,
        tokenizer: Any,
        pixels: Pixels,
        embed_dim: int = 256,
        image_projection: Kind = "linear",
        text_projection: Kind = "linear",
        projection_dropout: float = 0.0,
        image_heads: int = 1,
        max_length: int | None = None,
        temperature: float | None = None,
        bias: float | None = None,
        matryoshka: Sequence[int] = (),
    ) -> None:
        super().__init__()
        check_tokenizer(with_padding(tokenizer), text)
        self.image, self.text = image, text
        self._projections: dict[str, Any] = {
            "image_projection": image_projection,
            "text_projection": text_projection,
            "projection_dropout": projection_dropout,
            "image_heads": image_heads,
        }
        self.image_projection = self._image_projection(image.width, embed_dim)
        drop = projection_dropout
        self.text_projection = projection(text_projection, text.width, embed_dim, side="text", dropout=drop)
        self.tokenizer = tokenizer
        self.pixels = pixels
        self.embed_dim = embed_dim
        self.max_length = min(max_length or text.longest, text.longest)
        self.temperature, self.bias = temperature, bias
        self.matryoshka = tuple(matryoshka)
        self.frozen: tuple[str, ...] = ()
        self.adapters: dict[str, dict[str, Any]] = {}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def cut_texts(self, max_length: int) -> Self:
        """Cut texts at so many tokens from now on, at most what the text tower can take."""
        self.max_length = min(max_length, self.text.longest)
        # A tokenizer learnt for shorter texts would cut them still.
        self.tokenizer.model_max_length = max(self.tokenizer.model_max_length, self.max_length)
        return self

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """`input_ids` and `attention_mask` `[B, L]` long, cut at `max_length`, padded to the longest text."""
        return tokenize(self.tokenizer, texts, self.max_length)

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """The summaries of pixels `[B, 3, H, W]` float32, then of each its P patches, before the projection: `[B, 1 +
        P, W]`, in the weights' dtype. Tokens that the tower gave before (`nearfar.training.precompute`) are handed on.

        Raises:
            UserError: pixels of another shape than the image tower takes.
        """
        if pixels.ndim == 3 and pixels.shape[-1] == self.image.width:
            return pixels.to(self.device)
        self.image.check_pixels(pixels)
        return self.image(pixels.to(self.device))

    def text_tokens(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Hidden states `[B, L, W]` of tokens `[B, L]` int64, in the weights' dtype and in step with `input_ids`, the
        text's summary in place of the first.

        Raises:
            UserError: texts longer than the text tower takes.
        """
        device = self.device
        return self.text({name: value.to(device) for name, value in tokens.items()})

    def image_summary(self, pixels: Tensor) -> Tensor:
        """What the image tower makes of pixels `[B, 3, H, W]` float32 as a whole: `[B, W]`, before the projection, in
        the weights' dtype. Summaries that it gave before (`nearfar.training.precompute`) are handed on."""
        return pixels.to(self.device) if pixels.ndim == 2 else self.image_tokens(pixels)[:, 0]

    def text_summary(self, tokens: Mapping[str, Tensor] | Tensor) -> Tensor:
        """What the text tower makes of tokens `[B, L]` int64 as a whole: `[B, W]`, in the weights' dtype; summaries are
        handed on."""
        return tokens.to(self.device) if isinstance(tokens, Tensor) else self.text_tokens(tokens)[:, 0]

    def encode_image(self, pixels: Tensor, normalize: bool = False, *, head: int | None = None) -> Tensor:
        """Embeddings `[B, embed_dim]` of pixels `[B, 3, H, W]` float32, or of the image tower's summaries `[B, W]`; of
        unit length with `normalize=True`. `head` returns one of several `image_heads` alone.

        Raises:
            UserError: pixels of another shape than the image tower takes.
        """
        project = self.image_projection if head is None else self.image_projection[head]  # type: ignore[index]
        embedding = project(self.image_summary(pixels))
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def encode_image_map(self, pixels: Tensor, normalize: bool = False, *, head: int | None = None) -> Tensor:
        """Embeddings `[B, embed_dim, H, W]` of the cells of pixels `[B, 3, S, S]` float32, in the weights' dtype: cell
        (i, j) of the image tower's grid, H rows by W columns, without class and register tokens. Of unit length along
        dimension 1 with `normalize=True`; `head` as in `encode_image`.

        A cell's embedding is the image projection of what the tower's pooling makes of that cell alone: of the cell as
        it is with pooling `"cls"` and `"mean"`, after the tower's own norm or attention with `"tower"` (MaskCLIP,
        arXiv 2112.01071). Where pooling is `"mean"` and the projection one linear layer, the mean over cells is
        `encode_image`. Training compares whole pictures with texts, not cells: measure how well cells match texts.

        Raises:
            UserError: pixels of another shape than the image tower takes; a tower without a grid; a pooling that takes
                the whole grid at once.

        >>> from nearfar.data import train_tokenizer
        >>> from nearfar.models import create
        >>> model = create("tiny", tokenizer=train_tokenizer(["a red fox"], 300)).eval()
        >>> cells = model.encode_image_map(torch.rand(2, 3, 64, 64), normalize=True)
        >>> text = model.encode_text(model.tokenize(["a red fox"]), normalize=True)
        >>> cells.shape, torch.einsum("bdhw,td->bthw", cells, text).shape
        (torch.Size([2, 128, 2, 2]), torch.Size([2, 1, 2, 2]))
        """
        self.image.check_pixels(pixels)
        project = self.image_projection if head is None else self.image_projection[head]  # type: ignore[index]
        cells = project(self.image.summary_map(pixels.to(self.device)).movedim(1, -1)).movedim(-1, 1)
        return F.normalize(cells, dim=1) if normalize else cells

    def encode_text(self, tokens: Mapping[str, Tensor] | Tensor, normalize: bool = False) -> Tensor:
        """Embeddings `[B, embed_dim]` of a dict of tokens `[B, L]` int64, or of the text tower's summaries `[B, W]`; of
        unit length with `normalize=True`."""
        embedding = self.text_projection(self.text_summary(tokens))
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def forward(self, pixels: Tensor, tokens: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Both embeddings, `[B, embed_dim]` each, of unit length."""
        return self.encode_image(pixels, normalize=True), self.encode_text(tokens, normalize=True)

    def resize_images(self, image_size: int) -> Self:
        """Take pictures of another size from here on, as in fine-tuning at 384 what was trained at 256. `preprocess`
        changes with it; see `ImageTower.resize` for position embeddings and errors."""
        self.image.resize(image_size)
        self.pixels = self.pixels.resized(image_size)
        return self

    def add_lora(
        self,
        *towers: str,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        targets: Sequence[str] | None = None,
    ) -> Self:
        """Freeze the named towers (default both) and put low-rank adapters beside their linear layers, or beside
        those whose names end in one of `targets`. The adapters are saved and loaded with the model."""
        for tower in towers or ("image", "text"):
            if tower not in ("image", "text"):
                raise UserError(f"add_lora({tower!r}): a tower is 'image' or 'text'")
            if tower in self.adapters:
                raise UserError(f"the {tower} tower has adapters already: merge_lora() first")
            settings: dict[str, Any] = {
                "rank": rank,
                "alpha": alpha,
                "dropout": dropout,
                "targets": targets and list(targets),
            }
            lora.add(getattr(self, tower), **settings)
            self.adapters[tower] = settings
            self.frozen = tuple(p for p in self.frozen if p != tower)
        return self.train(self.training)

    def merge_lora(self) -> Self:
        """Fold the adapters into the weights they stand beside: the same outputs, no extra parameters. The towers
        stay frozen until `unfreeze`."""
        for tower in self.adapters:
            lora.merge(getattr(self, tower))
        merged, self.adapters = tuple(self.adapters), {}
        return self.freeze(*merged)

    def _image_projection(self, width: int, embed_dim: int) -> nn.Module:
        made_of = self._projections
        kind, drop, count = made_of["image_projection"], made_of["projection_dropout"], made_of["image_heads"]
        if count < 1 or (count > 1 and kind == "none"):
            raise UserError(f"image_heads={count} with image_projection={kind!r}: heads are one or more projections")
        heads = [projection(kind, width, embed_dim, side="image", dropout=drop) for _ in range(count)]
        return heads[0] if count == 1 else ProjectionHeads(heads)

    def config(self) -> dict[str, Any]:
        """Everything but weights and tokenizer, as plain data: what `from_config` builds the model from. Adapters that
        `peft.get_peft_model` put into the towers are among it."""
        self._note_adapters()
        return {
            "image": {
                "spec": self.image.spec,
                "image_size": self.image.image_size,
                "pooling": self.image.pooling,
            },
            "text": {"spec": self.text.spec, "pooling": self.text.pooling},
            "pixels": {**vars(self.pixels), "mean": list(self.mean), "std": list(self.std)},
            "embed_dim": self.embed_dim,
            **self._projections,
            "max_length": self.max_length,
            "temperature": self.temperature,
            "bias": self.bias,
            "adapters": self.adapters,
            "frozen": list(self.frozen),
            **({"matryoshka": list(self.matryoshka)} if self.matryoshka else {}),
        }

    def _note_adapters(self) -> None:
        for tower in ("image", "text"):
            if tower not in self.adapters and (settings := lora.settings_of(getattr(self, tower))):
                self.adapters[tower] = settings
                # peft trains nothing but adapters
                still = [part for part in PARTS if not any(p.requires_grad for p in self._part(part).parameters())]
                self.frozen = tuple(part for part in still if any(True for _ in self._part(part).parameters()))
        for head in ("image_projection", "text_projection"):
            if lora.is_adapted(getattr(self, head)):
                raise UserError(f"{head} has adapters, which only towers can keep: merge_and_unload() first")

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tokenizer: Any) -> Self:
        """A model of this shape with fresh weights, adapters in place and frozen parts frozen."""
        from nearfar.models.towers.backbones import rebuild

        fields = dict(config)
        image, text, adapters, frozen = (fields.pop(key) for key in ("image", "text", "adapters", "frozen"))
        pictures = ImageTower(rebuild(image["spec"]), **image)
        model = cls(
            pictures,
            cls._text_tower(text, pictures),
            tokenizer=tokenizer,
            pixels=Pixels(**fields.pop("pixels")),
            **fields,
        )
        for tower, settings in adapters.items():
            model.add_lora(tower, **settings)
        return model.freeze(*frozen)

    @classmethod
    def _text_tower(cls, text: Mapping[str, Any], image: ImageTower) -> Any:
        from nearfar.models.towers.backbones import rebuild

        return TextTower(rebuild(text["spec"]), **text)

    def save_pretrained(self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None) -> Path:
        """Write `config.json`, `model.safetensors`, tokenizer and card to `folder`, each file whole or not at all.

        `state_dict` gives the weights where the module does not hold them all (sharded training).
        """
        return checkpoint.write(folder, self, state_dict or self.state_dict())

    def save_adapters(self, folder: str | Path) -> Path:
        """Write the adapters alone: `adapters.json`, their settings, and `adapters.safetensors`, a few MB beside the
        model's hundreds. `load_adapters` puts them on the same model again."""
        self._note_adapters()
        if not self.adapters:
            raise UserError("this model has no adapters: add_lora() first")
        folder = files.folder(Path(folder))
        files.write(folder / ADAPTERS, json.dumps(self.adapters, indent=2) + "\n")
        write_weights(folder / "adapters.safetensors", lora.weights(self))
        return folder

    def load_adapters(self, folder: str | Path) -> Self:
        """Put on the adapters that `save_adapters` wrote. The model must be the one that they were trained on.

        Raises:
            UserError: a file is missing or damaged, or does not fit this model.
        """
        for tower, options in check_adapters(Path(folder) / ADAPTERS).items():
            self.add_lora(tower, **options)
        load_part(self, Path(folder) / "adapters.safetensors", lora.weights(self))
        return self

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """The model saved in `folder`, in evaluation mode: bit-equal weights, adapters and frozen parts included."""
        model = checkpoint.read(folder)
        if not isinstance(model, cls):
            raise UserError(f"{folder} holds a {type(model).__name__}: open it with nearfar.models.load")
        return model
