"""A dual encoder on CLIP's own towers as the model of transformers that it is: pictures and texts in one folder."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nearfar import files
from nearfar.errors import UserError
from nearfar.models.dual.own_features import OwnFeatures, same
from nearfar.models.folder_checks import first_line
from nearfar.models.tokenizer_files import TEXTS
from nearfar.models.towers.backbones import quiet
from nearfar.models.towers.pixels import FILTERS
from nearfar.models.towers.processors import read_processor

KINDS = ("clip_vision_model", "clip_text_model")
PLAIN = ("linear-no-bias", "linear-no-bias")


def as_clip(model: Any) -> Any:
    """A CLIP of transformers with the same numbers.

    Raises:
        UserError: towers, heads, pixels or pooling that CLIP has not, by name.
    """
    import transformers

    towers: list[Any] = [getattr(getattr(model, side, None), "backbone", None) for side in ("image", "text")]
    kinds = tuple(str(getattr(getattr(each, "config", None), "model_type", type(each).__name__)) for each in towers)
    if kinds != KINDS:
        raise UserError(f"its towers are {kinds[0]} and {kinds[1]}, where CLIP has {KINDS[0]} and {KINDS[1]}")
    made_of = model.config()
    heads = tuple(made_of[f"{side}_projection"] for side in ("image", "text"))
    if heads != PLAIN or made_of["image_heads"] > 1:
        raise UserError(f"its heads are {heads[0]} and {heads[1]}, where CLIP has one linear layer without bias a side")
    vision, text = (each.config.to_dict() for each in towers)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=model.embed_dim)
    made: Any = transformers.CLIPModel(config).eval()
    try:
        for part, own in zip((made.vision_model, made.text_model), towers, strict=True):
            part.load_state_dict(getattr(own, "vision_model", getattr(own, "text_model", own)).state_dict())
        made.visual_projection.load_state_dict(model.image_projection.state_dict())
        made.text_projection.load_state_dict(model.text_projection.state_dict())
    except RuntimeError as error:
        raise UserError(f"its weights are not those of a CLIP ({first_line(error)})") from error
    made.logit_scale.data.fill_(math.log(1 / (model.temperature or 0.07)))
    with torch.no_grad():
        probe = OwnFeatures.of(made, model.text, model.tokenizer, model.image_size)
        ours = model.encode_image(probe.pixels), model.encode_text(probe.tokens)
    if not (same(ours[0], probe.image) and same(ours[1], probe.text)):
        raise UserError("it pools its towers otherwise than CLIP does")
    return made


def write_clip(model: Any, made: Any, folder: Path) -> None:
    """Write the model with its tokenizer and picture processor, and read both again.

    Raises:
        UserError: they would prepare texts or pictures otherwise than the model does.
    """
    settings = _processor(model)
    with quiet():
        made.save_pretrained(folder)
        _tokenizer(model).save_pretrained(folder)
        files.write(folder / "preprocessor_config.json", json.dumps(settings, indent=2) + "\n")
        pixels = read_processor(folder)
    if pixels != replace(model.pixels, resize=model.pixels.resize or model.image_size):
        raise UserError(f"CLIP's picture processor does not do what this model's does ({model.pixels})")


def _tokenizer(model: Any) -> Any:
    from copy import deepcopy

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
    return {
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
