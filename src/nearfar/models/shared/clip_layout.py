"""A dual encoder on CLIP's own towers as the CLIP of transformers that it is: pictures and texts in one folder."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch

from nearfar.errors import UserError
from nearfar.files import why
from nearfar.models.shared.folder_layout import SCALE, Layout, clip_places, plain_config
from nearfar.models.tokenizer_files import TEXTS
from nearfar.models.towers.pixels import FILTERS
from nearfar.models.towers.processors import from_processor

KINDS = ("clip_vision_model", "clip_text_model")
PLAIN = ("linear-no-bias", "linear-no-bias")


def clip_layout(model: Any) -> Layout:
    """The files of a CLIP with the numbers of a `DualEncoder` without adapters.

    Raises:
        UserError: towers, heads, pixels, pooling or tokens that CLIP has not, by name.
    """
    towers: list[Any] = [getattr(getattr(model, side, None), "backbone", None) for side in ("image", "text")]
    kinds = tuple(str(getattr(getattr(each, "config", None), "model_type", type(each).__name__)) for each in towers)
    if kinds != KINDS:
        raise UserError(f"its towers are {kinds[0]} and {kinds[1]}, where CLIP has {KINDS[0]} and {KINDS[1]}")
    made_of = model.config()
    heads = tuple(made_of[f"{side}_projection"] for side in ("image", "text"))
    if heads != PLAIN or made_of["image_heads"] > 1:
        raise UserError(f"its heads are {heads[0]} and {heads[1]}, where CLIP has one linear layer without bias a side")
    if (model.image.pooling, model.text.pooling) != ("tower", "tower"):
        raise UserError("it pools its towers otherwise than CLIP does")
    scale = math.log(1 / (model.temperature or 0.07))
    places, config = clip_places(model.state_dict()), _config(model, towers, scale)
    _check_shapes(model, places, config)
    return Layout(
        kind="clip",
        embeds="texts and pictures",
        config=plain_config(config, "CLIPModel", next(model.parameters()).dtype),
        modules=[("", "CLIPModel")],
        small={"preprocessor_config.json": _processor(model)},
        tokenizer=_tokenizer(model),
        places=places,
        more={SCALE: torch.tensor(scale)},
    )


def _config(model: Any, towers: list[Any], scale: float) -> Any:
    import transformers

    vision, text = (each.config.to_dict() for each in towers)
    return transformers.CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=model.embed_dim, logit_scale_init_value=scale
    )


def _check_shapes(model: Any, places: dict[str, tuple[str, str]], config: Any) -> None:
    """Whether a CLIP of this config has these tensors, of these shapes."""
    import transformers

    try:
        with torch.device("meta"):
            theirs = {name: value.shape for name, value in transformers.CLIPModel(config).state_dict().items()}
    except Exception as error:  # transformers refuses settings with every kind of error
        raise UserError(
            f"transformers makes no CLIP of its settings ({why(error, 'they contradict one another')})"
        ) from error
    ours = {places[name][1]: value.shape for name, value in model.state_dict().items()}
    for name in sorted({*ours, *theirs} - {SCALE}):
        if ours.get(name) != theirs.get(name):
            raise UserError(f"its weights are not those of a CLIP ({name})")


def _tokenizer(model: Any) -> Any:
    tokenizer = deepcopy(model.tokenizer)
    tokenizer.padding_side, tokenizer.model_max_length = "right", model.max_length
    plain = tokenizer(list(TEXTS), padding=True, truncation=True, return_tensors="pt")
    if not torch.equal(plain["input_ids"], model.tokenize(list(TEXTS))["input_ids"]):
        raise UserError("its tokenizer alone gives other ids than the model does")
    return tokenizer


def _processor(model: Any) -> dict[str, Any]:
    """The settings of CLIP's picture processor for the model's pixels."""
    pixels = model.pixels
    if pixels.fit not in ("crop", "squash"):
        raise UserError(f"its pictures are prepared by {pixels.fit!r}, where CLIP crops or squashes them")
    side = pixels.resize or pixels.size
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "CLIPProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side} if pixels.fit == "crop" else {"height": side, "width": side},
        "resample": FILTERS.index(pixels.resample),
        "do_center_crop": True,
        "crop_size": {"height": pixels.size, "width": pixels.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(pixels.mean),
        "image_std": list(pixels.std),
        "do_convert_rgb": True,
    }
    if from_processor(settings, pixels.size) != replace(pixels, resize=side):
        raise UserError(f"CLIP's picture processor does not do what this model's does ({pixels})")
    return settings
