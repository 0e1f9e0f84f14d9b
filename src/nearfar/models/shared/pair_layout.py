"""A dual encoder on the towers and heads of a pair that transformers has, CLIP or SigLIP say, as that pair: pictures
and texts in one folder, which AutoModel opens, too."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch

from nearfar.errors import UserError
from nearfar.files import why
from nearfar.models.shared.folder_layout import BIAS, SCALE, Layout, pair_places, plain_config
from nearfar.models.tokenizer_files import TEXTS, check_class
from nearfar.models.towers.pixels import FILTERS, Pixels
from nearfar.models.towers.processors import from_processor


@dataclass(frozen=True)
class Pair:
    """A family of transformers: the names of its classes without "Model" and "Config", its heads (image and text), the
    poolings of its towers, and whether it adds an offset to similarities."""

    name: str
    heads: tuple[str, str] = ("linear-no-bias", "linear-no-bias")
    pooling: tuple[str, str] = ("tower", "tower")
    offset: bool = False
    processor: str = "CLIPProcessor"


PAIRS = {
    ("clip_vision_model", "clip_text_model"): Pair("CLIP"),
    ("metaclip_2_vision_model", "metaclip_2_text_model"): Pair("MetaClip2"),
    ("siglip_vision_model", "siglip_text_model"): Pair(
        "Siglip", ("none", "none"), offset=True, processor="SiglipProcessor"
    ),
    ("siglip2_vision_model", "siglip2_text_model"): Pair(
        "Siglip2", ("none", "none"), offset=True, processor="Siglip2Processor"
    ),
}
"""By the model types of the image and the text tower."""


def pair_layout(model: Any) -> Layout:
    """The files of a CLIP, SigLIP or another of `PAIRS` with the numbers of a `DualEncoder` without adapters.

    Raises:
        UserError: towers, heads, pixels, pooling or tokens that no such pair has, by name.
    """
    towers: list[Any] = [getattr(getattr(model, side, None), "backbone", None) for side in ("image", "text")]
    image, text = (str(getattr(getattr(each, "config", None), "model_type", type(each).__name__)) for each in towers)
    pair = PAIRS.get((image, text))
    if pair is None:
        raise UserError(f"its towers are {image} and {text}, which are no pair of transformers (CLIP, SigLIP)")
    made_of = model.config()
    heads = tuple(made_of[f"{side}_projection"] for side in ("image", "text"))
    if heads != pair.heads or made_of["image_heads"] > 1:
        raise UserError(f"its heads are {heads[0]} and {heads[1]}, where {pair.name} has {pair.heads[0]} on both sides")
    if (model.image.pooling, model.text.pooling) != pair.pooling:
        raise UserError(f"it pools its towers otherwise than {pair.name} does")
    if model.image._extra:
        raise UserError(f"its pictures have {model.image.image_size} pixels, and its {image} was made for another size")
    scale = math.log(1 / (model.temperature or 0.07))
    config = _config(pair, model, towers, scale)
    more = {SCALE: torch.tensor(scale)} | ({BIAS: torch.tensor(model.bias or 0.0)} if pair.offset else {})
    if pair.offset:
        more = {name: value.reshape(1) for name, value in more.items()}
    _check_shapes(model, pair, config, set(more))
    whole = pair.name == "CLIP"  # the one that sentence-transformers has a module for
    return Layout(
        kind="clip" if whole else "pair",
        embeds="texts and pictures",
        configs={"config.json": plain_config(config, f"{pair.name}Model", next(model.parameters()).dtype)},
        modules=[("", "CLIPModel" if whole else "Transformer")],
        small={
            "preprocessor_config.json": {**processor_settings(model.pixels), "processor_class": pair.processor},
            **({} if whole else {"sentence_bert_config.json": _reading(model)}),
        },
        tokenizer=_tokenizer(model, config.model_type),
        places=pair_places(model),
        more=more,
    )


def _config(pair: Pair, model: Any, towers: list[Any], scale: float) -> Any:
    import transformers

    vision, text = (each.config.to_dict() for each in towers)
    options = {} if pair.offset else {"projection_dim": model.embed_dim, "logit_scale_init_value": scale}
    return getattr(transformers, f"{pair.name}Config")(text_config=text, vision_config=vision, **options)


def _check_shapes(model: Any, pair: Pair, config: Any, beside: set[str]) -> None:
    """Whether such a pair of this config has these tensors, of these shapes, and those `beside` alone."""
    import transformers

    try:
        with torch.device("meta"):
            made = getattr(transformers, f"{pair.name}Model")(config)
            theirs = {name: value.shape for name, value in made.state_dict().items()}
    except Exception as error:  # transformers refuses settings with every kind of error
        raise UserError(
            f"transformers makes no {pair.name} of its settings ({why(error, 'they contradict one another')})"
        ) from error
    places = pair_places(model)
    ours = {places[name][1]: value.shape for name, value in model.state_dict().items()}
    for name in sorted({*ours, *theirs} - beside):
        if ours.get(name) != theirs.get(name):
            raise UserError(f"its weights are not those of a {pair.name} ({name})")


def _reading(model: Any) -> dict[str, Any]:
    """How sentence-transformers reads texts and pictures with it. SigLIP's texts are padded to their full length, and
    the padding is read."""
    features = {
        kind: {"method": f"get_{kind}_features", "method_output_name": "pooler_output"} for kind in ("text", "image")
    }
    said: dict[str, Any] = {"modality_config": features, "module_output_name": "sentence_embedding"}
    said["processing_kwargs"] = {}
    if length := model.text.fixed_length:
        if model.max_length < length:
            raise UserError(f"its texts are cut at {model.max_length} tokens and padded to {length}")
        padded = {"padding": "max_length", "max_length": length, "return_attention_mask": False}
        said["processing_kwargs"]["text"] = padded
    if model.pixels.fit == "naflex":  # else the processor takes 256 patches of 16, whatever its own file says
        patches = {"patch_size": model.pixels.patch, "max_num_patches": model.pixels.patches}
        said["processing_kwargs"]["image"] = patches
    return said


def _tokenizer(model: Any, model_type: str) -> Any:
    check_class(model.tokenizer, model_type)
    tokenizer = deepcopy(model.tokenizer)
    tokenizer.padding_side, tokenizer.model_max_length = "right", model.max_length
    plain = tokenizer(list(TEXTS), padding=True, truncation=True, return_tensors="pt")
    if not torch.equal(plain["input_ids"], model.tokenize(list(TEXTS))["input_ids"]):
        raise UserError("its tokenizer alone gives other ids than the model does")
    return tokenizer


def processor_settings(pixels: Pixels) -> dict[str, Any]:
    """The settings of a picture processor of transformers for these pixels.

    Raises:
        UserError: pictures are prepared as none of them does.
    """
    colours = {
        "do_resize": True,
        "resample": FILTERS.index(pixels.resample),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(pixels.mean),
        "image_std": list(pixels.std),
        "do_convert_rgb": True,
    }
    if pixels.fit == "naflex":
        patches = {"patch_size": pixels.patch, "max_num_patches": pixels.patches}
        return {"image_processor_type": "Siglip2ImageProcessor", **colours, **patches}
    if pixels.fit not in ("crop", "squash"):
        raise UserError(f"its pictures are prepared by {pixels.fit!r}, where CLIP crops or squashes them")
    side = pixels.resize or pixels.size
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        **colours,
        "size": {"shortest_edge": side} if pixels.fit == "crop" else {"height": side, "width": side},
        "do_center_crop": True,
        "crop_size": {"height": pixels.size, "width": pixels.size},
    }
    if from_processor(settings, pixels.size) != replace(pixels, resize=side):
        raise UserError(f"CLIP's picture processor does not do what this model's does ({pixels})")
    return settings
