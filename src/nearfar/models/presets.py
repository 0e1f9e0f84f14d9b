"""Dual encoders by name: small ones to train from scratch on a CPU, and pretrained towers that come in packages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nearfar.errors import UserError
from nearfar.files import why
from nearfar.models.dual.dual_encoder import DualEncoder
from nearfar.models.towers import backbones
from nearfar.models.towers.backbones import Source
from nearfar.models.towers.tokens import check_tokenizer, fitted, read_at_the_end, with_padding
from nearfar.models.towers.tower import ImageTower, TextTower


def _bert(width: int, layers: int) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "intermediate_size": 4 * width,
        "max_position_embeddings": 128,
    }


def _vit(width: int, layers: int, patch: int) -> dict[str, Any]:
    return {
        "model_type": "vit",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "intermediate_size": 4 * width,
        "patch_size": patch,
        "layer_norm_eps": 1e-6,
    }


def _convnext(widths: list[int], depths: list[int]) -> dict[str, Any]:
    return {"model_type": "convnext", "num_stages": len(widths), "hidden_sizes": widths, "depths": depths}


PRESETS: dict[str, dict[str, Any]] = {
    # Layer norm throughout: rows of a batch stay independent of one another, so gradient caching is exact.
    "tiny": {
        "image": _convnext([40, 80, 160, 320], [1, 1, 2, 1]),
        "text": _bert(128, 2),
        "image_size": 64,
        "embed_dim": 128,
        "max_length": 32,
    },
    "tiny-vit": {
        "image": _vit(128, 4, patch=8),
        "text": _bert(128, 2),
        "image_size": 64,
        "embed_dim": 128,
        "max_length": 32,
    },
    "small": {
        "image": _convnext([64, 128, 256, 512], [2, 2, 4, 2]),
        "text": _bert(256, 4),
        "image_size": 112,
        "embed_dim": 256,
        "max_length": 48,
    },
    "small-vit": {
        "image": _vit(256, 6, patch=16),
        "text": _bert(256, 4),
        "image_size": 112,
        "embed_dim": 256,
        "max_length": 48,
    },
    "tiny-fusion": {
        "image": _vit(128, 4, patch=8),
        "text": _bert(128, 6),
        "text_layers": 3,
        "image_size": 64,
        "embed_dim": 64,
        "max_length": 32,
    },
    "towers": {
        "image": backbones.LITE,
        "text": backbones.MINILM,
        "image_size": 112,
        "embed_dim": 256,
        "max_length": 64,
    },
}
"""What `create` takes by name. `tiny` and `small` come as a ConvNeXt, and as a ViT where patch tokens are wanted;
`tiny-fusion` is a `FusionModel`; `towers` is EfficientNet-Lite0 and MiniLM, pretrained, with fresh projections."""


@backbones.quiet()
def create(
    preset: str | Mapping[str, Any] | None = None,
    *,
    image: Source | None = None,
    text: Source | None = None,
    tokenizer: Any = None,
    embed_dim: int | None = None,
    image_size: int | None = None,
    projection: str = "linear",
    image_projection: str | None = None,
    text_projection: str | None = None,
    projection_dropout: float = 0.0,
    image_heads: int = 1,
    image_pooling: str | None = None,
    text_pooling: str | None = None,
    text_layers: int | None = None,
    bridge: bool = False,
    max_length: int | None = None,
    pretrained: bool = True,
    temperature: float | None = None,
) -> DualEncoder:
    """A dual encoder from a preset, from towers by name or config, or from both: what is given goes before the preset.

    Args:
        preset: one of `PRESETS`, or a mapping of the arguments below, as a recipe holds it.
        image, text: a tower: `"efficientnet-lite0"`, `"efficientnet-lite0-deep"` or `"minilm"` (pretrained, from
            packages; `deep` adds the last blocks' outputs to the last map), a transformers name or folder,
            `"timm:NAME"`, a transformers config (or its dict, with `model_type`), or a module.
        tokenizer: a transformers tokenizer, or the name or folder of one; by default the text tower's own.
        embed_dim: width of the shared space; by default the preset's, else 256; the towers' width without projections.
        image_size: side of the pictures; by default the preset's, else the image tower's own.
        projection: `"linear"`, `"linear-no-bias"`, `"mlp"` or `"none"`, for both sides.
        image_projection, text_projection: the same for one side.
        projection_dropout: acts on what goes into the projections' layers.
        image_heads: so many image projections from different starts, whose unit vectors' mean is the embedding; the
            method `ensemble` trains each of them on a loss of its own.
        image_pooling, text_pooling: see `ImageTower` and `TextTower`; by default what suits the tower.
        text_layers: make a `FusionModel`: the first that many layers of a BERT-like text tower read the text alone, the
            others attend to the picture too.
        bridge: give a `FusionModel` a trained layer between its image tower and all that reads it: for frozen towers.
        max_length: tokens a text may have.
        pretrained: whether towers given by name or folder come with their weights.
        temperature: kept as the model's `temperature`, for losses to start from.

    Raises:
        UserError: no such preset, tower, tokenizer, pooling or projection, a size below 1, or widths that do not fit.

    >>> import nearfar.models
    >>> model = nearfar.models.create("tiny", text="minilm", embed_dim=64)
    >>> model.encode_text(model.tokenize(["a red fox", "a ship at sea"])).shape
    torch.Size([2, 64])
    """
    if isinstance(preset, Mapping):
        return create(**{"preset": None, **preset})
    _check_sizes(embed_dim=embed_dim, image_size=image_size, text_layers=text_layers, max_length=max_length)
    if temperature is not None and not temperature > 0:
        raise UserError(f"temperature={temperature}: similarities are divided by it, so it must be above 0")
    defaults = _preset(preset)
    image, text = (
        setting if setting is not None else defaults.get(key) for key, setting in (("image", image), ("text", text))
    )
    if image is None or text is None:
        raise UserError(f"create needs a preset ({', '.join(PRESETS)}), or both image=... and text=...")
    size = image_size or defaults.get("image_size")
    if isinstance(image, Mapping) and size and image.get("model_type") != "convnext":
        image = {"image_size": size, **image}
    tokenizer = with_padding(_tokenizer(tokenizer))
    if isinstance(text, Mapping) and tokenizer is not None:
        text = fitted(text, tokenizer)
    image_tower, pixels = backbones.image_tower(image, image_size=size, pooling=image_pooling, pretrained=pretrained)
    text_tower, own = backbones.text_tower(text, pooling=text_pooling, pretrained=pretrained)
    if text_tower.stated_layers:
        raise UserError(
            f"{text} has dense layers after its pooling, which a text tower has not: take an encoder without, or "
            "nearfar.load it whole"
        )
    if text_pooling is None and tokenizer is not None:
        check_tokenizer(tokenizer, text_tower)
        read_at_the_end(text_tower, tokenizer)
    split = text_layers or defaults.get("text_layers")
    sides = {"image": image_projection or projection, "text": text_projection or projection}
    settings: dict[str, Any] = {
        "tokenizer": tokenizer if tokenizer is not None else own,
        "pixels": pixels,
        "embed_dim": embed_dim or _width(sides, image_tower.width, text_tower) or defaults.get("embed_dim", 256),
        "image_projection": sides["image"],
        "text_projection": sides["text"],
        "projection_dropout": projection_dropout,
        "image_heads": image_heads,
        "max_length": max_length or defaults.get("max_length") or text_tower.stated_length,
        "temperature": temperature,
    }
    if split is None:
        if bridge:
            raise UserError("a bridge is part of a fusion model: say text_layers=... too")
        return DualEncoder(image_tower, text_tower, **settings)
    return _fusion_model(image_tower, text_tower, split, bridge, settings)


def _fusion_model(
    image: ImageTower, text: TextTower, text_layers: int, bridge: bool, settings: dict[str, Any]
) -> DualEncoder:
    from nearfar.models.fusion.fusion_encoder import FusionEncoder
    from nearfar.models.fusion.fusion_model import FusionModel

    if text.pooling not in ("cls", "mean"):
        raise UserError(f"a fusion encoder's summary is its class token: text pooling {text.pooling!r} does not fit")
    width = text.width if bridge else image.width
    fusion = FusionEncoder(text.backbone, text.spec, image_width=width, text_layers=text_layers)
    return FusionModel(image, fusion, bridge=bridge, **settings)


def _preset(name: str | None) -> Mapping[str, Any]:
    if name is None:
        return {}
    if name not in PRESETS:
        raise UserError(f"no preset {name!r}: choose one of {', '.join(PRESETS)}, or give image=... and text=...")
    return PRESETS[name]


def _check_sizes(**sizes: int | None) -> None:
    for name, size in sizes.items():
        if size is not None and (not isinstance(size, int) or size < 1):
            raise UserError(f"{name}={size!r}: a whole number of at least 1, or leave it out")


def _width(sides: Mapping[str, str], image: int, text: TextTower) -> int | None:
    """The embedding's width where a side has no projection, so that the side decides it."""
    if sides["image"] == "none":
        return image
    return text.width if sides["text"] == "none" else None


def _tokenizer(tokenizer: Any) -> Any:
    if not isinstance(tokenizer, str):
        return tokenizer
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            backbones.minilm_folder() if tokenizer == backbones.MINILM else tokenizer, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"no tokenizer {tokenizer!r}: {why(error, 'name the folder of one, or its name on the hub')}"
        ) from error
