"""Vision-language models by name: an image tower, a language model, and what stands between them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from nearfar.errors import UserError, at_least
from nearfar.models import model_folder
from nearfar.models.image.image_presets import IMAGE_PRESETS
from nearfar.models.language.model import SIZES, LanguageModel, language_model
from nearfar.models.towers import backbones
from nearfar.models.towers.pixels import Pixels
from nearfar.models.towers.tower import ImageTower
from nearfar.models.vlm.vision_language_model import Read, VisionLanguageModel


def vision_language_model(
    image: backbones.Source = "tiny",
    language: Any = "tiny",
    *,
    tokenizer: Any = None,
    projector: str = "mlp",
    read: Read = "cells",
    pool: int | None = None,
    prompt: str = "",
    max_length: int = 64,
    image_size: int | None = None,
    pretrained: bool = True,
    seed: int = 0,
) -> VisionLanguageModel:
    """A language model that reads a picture before its words, with a fresh projector.

    Args:
        image: the tower: one of `nearfar.models.image.image_presets.IMAGE_PRESETS`, from scratch; a model with an image
            tower, or the folder of one that nearfar saved; "efficientnet-lite0", a transformers name, folder or config,
            or "timm:NAME". It is copied.
        language: a `LanguageModel`, which is copied, or what `nearfar.models.language.language_model` opens: "smollm2",
            a transformers folder or name; "tiny" or "small", from scratch.
        tokenizer: for a language model from scratch. A recipe learns one from the captions.
        projector: "linear", "linear-no-bias" or "mlp" (LLaVA 1.5, arXiv 2310.03744; the first LLaVA's was linear).
        read: "cells" of the tower's grid, or its "summary" as one token.
        pool: average the grid to `pool` by `pool` cells.
        prompt: stands before each caption.
        max_length: tokens that a caption is cut to.
        image_size: side of the pictures, where the tower's own is not to be taken.
        pretrained: whether a tower given by name or folder comes with its weights.
        seed: of a fresh language model's weights; the projector's are drawn by PyTorch's own state.

    Raises:
        UserError: no such tower or language model, a missing tokenizer, or a setting out of its range.

    >>> from nearfar.data import train_tokenizer
    >>> model = vision_language_model("tiny-vit", tokenizer=train_tokenizer(["a red fox"], 300), pool=4)
    >>> model.picture_length, model.embed_dim
    (16, 128)
    """
    at_least(1, image_size=1 if image_size is None else image_size)
    tower, pixels = _tower(image, image_size, pretrained)
    if isinstance(language, LanguageModel):
        words = deepcopy(language)
    else:
        if tokenizer is not None and language not in SIZES:
            raise UserError(f"{str(language)!r} keeps its own tokenizer: leave tokenizer out")
        words = language_model(language, tokenizer=tokenizer, seed=seed)
    return VisionLanguageModel(
        tower,
        words.lm,
        tokenizer=words.tokenizer,
        pixels=pixels,
        projector=projector,
        read=read,
        pool=pool,
        prompt=prompt,
        max_length=max_length,
    )


def _tower(image: Any, image_size: int | None, pretrained: bool) -> tuple[ImageTower, Pixels]:
    """The tower, and how pictures are prepared for it."""
    if isinstance(image, str) and image in IMAGE_PRESETS:
        preset = IMAGE_PRESETS[image]
        image, image_size = preset["image"], image_size or preset["image_size"]
    elif isinstance(image, (str, Path)) and Path(image).is_dir() and model_folder.is_ours(image):
        image = model_folder.read(image)
    inside: Any = getattr(image, "image", None)
    if isinstance(inside, ImageTower):
        tower, pixels = deepcopy(inside), image.pixels
        if image_size is not None:
            tower.resize(image_size)
            pixels = pixels.resized(image_size)
        return tower, pixels
    if isinstance(image, Mapping) and image_size and image.get("model_type") not in ("convnext", "resnet"):
        image = {"image_size": image_size, **image}
    return backbones.image_tower(image, image_size=image_size, pretrained=pretrained)
