"""open_clip models as they are, behind the interface of an encoder. open_clip itself is never imported."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nearfar import files
from nearfar.errors import UserError
from nearfar.models.card import card
from nearfar.models.hub import push_to_hub
from nearfar.models.mixed_inputs import encode
from nearfar.models.towers.tokens import Tokens

if TYPE_CHECKING:
    from PIL.Image import Image


CONFIG = "open_clip_config.json"


class OpenClipEncoder(nn.Module):
    """An open_clip model with its tokenizer and evaluation transform. `.model` is the model itself, trained in place.

    Args:
        model: what `open_clip.create_model_and_transforms` returned first.
        tokenizer: what `open_clip.get_tokenizer` returned.
        preprocess: what `open_clip.create_model_and_transforms` returned last.

    Attributes:
        settings: open_clip's own of a model that came by its name (`nearfar.load("open_clip:NAME:PRETRAINED")`), else
            None: it is saved with the weights.
    """

    model: Any
    encode = encode
    push_to_hub = push_to_hub

    def __init__(self, model: nn.Module, *, tokenizer: Any, preprocess: Callable[[Any], Tensor]) -> None:
        super().__init__()
        if tokenizer is None or preprocess is None:
            raise UserError(
                "an open_clip model needs its tokenizer and its transform: model, _, preprocess = "
                "open_clip.create_model_and_transforms(NAME); load(model, tokenizer=open_clip.get_tokenizer(NAME), "
                "preprocess=preprocess)"
            )
        self.model = model
        self.tokenizer = _Tokenizer(tokenizer)
        self.transform = preprocess
        self.settings: dict[str, Any] | None = None
        visual: Any = model.visual
        size = visual.image_size
        self.image_size = int(size[0] if isinstance(size, (list, tuple)) else size)
        self.mean, self.std = _normalisation(visual, preprocess)
        with torch.no_grad():
            self.embed_dim = int(self.encode_text(self.tokenize(["a"])).shape[-1])

    @property
    def temperature(self) -> float:
        """What similarities are divided by."""
        return (-self.model.logit_scale).exp().item()

    @temperature.setter
    def temperature(self, value: float) -> None:
        with torch.no_grad():
            self.model.logit_scale.fill_(-math.log(value))

    @property
    def bias(self) -> float | None:
        bias: Any = getattr(self.model, "logit_bias", None)
        return None if bias is None else bias.item()

    @bias.setter
    def bias(self, value: float | None) -> None:
        if value is not None and self.bias is not None:
            with torch.no_grad():
                self.model.logit_bias.fill_(value)

    def preprocess(self, pictures: Sequence[Image]) -> Tensor:
        """Pixels `[B, 3, image_size, image_size]` float32 of a list of PIL pictures."""
        return torch.stack([self.transform(picture) for picture in pictures])

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` `[B, L]` int64, L fixed by the model.

        Raises:
            UserError: one text instead of a list.
        """
        if isinstance(texts, str):
            raise UserError("tokenize takes a list of texts, not one text: write [text]")
        return self.tokenizer(list(texts))

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        """Embeddings `[B, embed_dim]` of pixels `[B, 3, image_size, image_size]` float32, in the weights' dtype; of
        unit length with `normalize=True`."""
        visual: Any = self.model.visual
        first = next((m.weight for m in visual.modules() if isinstance(m, nn.Conv2d)), next(visual.parameters()))
        return self.model.encode_image(pixels.to(self._device(), first.dtype), normalize=normalize)

    def encode_text(self, tokens: Mapping[str, Tensor], normalize: bool = False) -> Tensor:
        """Embeddings `[B, embed_dim]` of tokens `[B, L]` int64, in the weights' dtype; of unit length with
        `normalize=True`."""
        return self.model.encode_text(tokens["input_ids"].to(self._device()), normalize=normalize)

    def forward(self, pixels: Tensor, tokens: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Both embeddings, unit length."""
        return self.encode_image(pixels, normalize=True), self.encode_text(tokens, normalize=True)

    def save_pretrained(self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None) -> Path:
        """Write the weights to `open_clip_model.safetensors`, which open_clip opens with `pretrained=FILE`; of a model
        that came by a name of open_clip also `open_clip_config.json`, so that `nearfar.load` and open_clip
        (`local-dir:FOLDER`) open the folder."""
        from nearfar.models.weight_files import write_weights

        prefix = "model."
        state = {name.removeprefix(prefix): value for name, value in (state_dict or self.state_dict()).items()}
        folder = files.folder(folder)
        if self.settings is not None:
            made = {"model_cfg": self.settings, "preprocess_cfg": getattr(self.model.visual, "preprocess_cfg", {})}
            files.write(folder / CONFIG, json.dumps(made, indent=2) + "\n")
        files.write(folder / "README.md", card(self))
        write_weights(folder / "open_clip_model.safetensors", state)
        return folder

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


class _Tokenizer:
    """An open_clip tokenizer called as transformers' are; its length is fixed, so their options change nothing.
    `pad_token` and `model_max_length` are what `nearfar.data` reads of a tokenizer."""

    pad_token = ""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.model_max_length = int(getattr(tokenizer, "context_length", None) or 77)

    def __call__(self, texts: Sequence[str], **_: Any) -> dict[str, Tensor]:
        ids = self.tokenizer(texts)
        pad = getattr(getattr(self.tokenizer, "tokenizer", None), "pad_token_id", None) or 0
        return Tokens(input_ids=ids, attention_mask=(ids != pad).long())


def _normalisation(visual: Any, preprocess: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, from the transform's last step or else from the model."""
    last: Any = (getattr(preprocess, "transforms", None) or [preprocess])[-1]
    mean, std = (last.mean, last.std) if hasattr(last, "mean") else (visual.image_mean, visual.image_std)
    return tuple(float(v) for v in mean), tuple(float(v) for v in std)
