"""Vision-language models by name: an image tower, a language model, and what stands between them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from nearfar.errors import UserError, at_least
from nearfar.models import model_folder
from nearfar.models.dual.around_pair import open_pair
from nearfar.models.dual.dual_encoder import DualEncoder
from nearfar.models.image.image_presets import IMAGE_PRESETS
from nearfar.models.language.model import SIZES, LanguageModel, language_model
from nearfar.models.presets import PRESETS
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
    tokens: int = 1,
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
        read: "cells" of the tower's grid; its "summary", one vector; or its "embedding", where `image` is a trained
            dual encoder, or the folder or name of one: its image side is copied, and frozen (CLOSE, arXiv 2211.09778).
        pool: average the grid to `pool` by `pool` cells.
        tokens: so many are made of a summary, or an embedding (CLOSE: 4).
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
    pair = _dual_encoder(image, image_size) if read == "embedding" else None
    tower, pixels = open_tower(image, image_size, pretrained) if pair is None else (pair.image, pair.pixels)
    words = open_words(language, tokenizer, seed)
    model = VisionLanguageModel(
        tower,
        words.lm,
        tokenizer=words.tokenizer,
        pixels=pixels,
        projector=projector,
        read=read,
        pool=pool,
        tokens=tokens,
        space=None if pair is None else _space(pair),
        prompt=prompt,
        max_length=max_length,
    )
    if pair is None:
        return model
    # Dropout in the encoder's own projection, which has no weights, is left out.
    theirs = [*pair.image_projection.parameters(), *pair.image_projection.buffers()]
    for mine, value in zip([*model.head.parameters(), *model.head.buffers()], theirs, strict=True):
        mine.data.copy_(value.data)
    return model.freeze("image", "head")


def _dual_encoder(image: Any, image_size: int | None) -> DualEncoder:
    """A copy of the dual encoder whose embeddings are read, adapters folded in."""
    if isinstance(image, Mapping) or (isinstance(image, str) and (image in PRESETS or image in IMAGE_PRESETS)):
        raise UserError(f"read='embedding' is of a trained dual encoder, and image={image!r} is none: name its folder")
    pair = open_pair(image, "read='embedding' is of a dual encoder: give one as image", image_size=image_size)
    if "image" in pair.adapters:
        pair.merge_lora()
    return pair


def _space(pair: DualEncoder) -> dict[str, Any]:
    """What the image projection is made of."""
    made_of = pair.config()
    kind, heads = made_of["image_projection"], made_of["image_heads"]
    return {"image_projection": kind if heads == 1 else {"heads": heads, "of": kind}, "embed_dim": pair.embed_dim}


def open_words(language: Any, tokenizer: Any, seed: int) -> LanguageModel:
    """The language model that `language` names, or a copy of the one that it is."""
    if isinstance(language, LanguageModel):
        return deepcopy(language)
    if tokenizer is not None and language not in SIZES:
        raise UserError(f"{str(language)!r} keeps its own tokenizer: leave tokenizer out")
    return language_model(language, tokenizer=tokenizer, seed=seed)


def open_tower(image: Any, image_size: int | None, pretrained: bool) -> tuple[ImageTower, Pixels]:
    """The tower that `image` names or has, copied, and how pictures are prepared for it."""
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
