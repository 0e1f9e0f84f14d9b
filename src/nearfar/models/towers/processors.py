"""The picture processors of transformers as `Pixels`, which give the same numbers, or a refusal.

A processor's settings are translated; where the processor itself can be made, two pictures go through both, and a
difference is an error: there are more processors than anyone has read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nearfar.errors import UserError
from nearfar.files import why
from nearfar.models.towers.pixels import FILTERS, HALF, Pixels

REMEDY = "give the encoder a preprocess of your own: a class with encode_image, preprocess, encode_text and tokenize"
CLOSE = 1e-4
"""How far pixels may lie apart: float32 arithmetic in another order, not another filter."""


def read_processor(name: str | Path, size: int | None = None, *, default: int = 224) -> Pixels | None:
    """The processor saved in a folder (or of a name on the hub), for pictures of `size` (None: its own); None where
    there is none.

    Raises:
        UserError: it does what `Pixels` does not do, or cannot be made.
    """
    from transformers import AutoImageProcessor, ImageProcessingMixin

    try:
        ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        return None
    try:
        processor: Any = AutoImageProcessor.from_pretrained(name, backend="pil", trust_remote_code=False)
    except Exception as error:  # a missing package, an unknown class, settings that contradict one another
        raise UserError(
            f"{name}: its picture processor cannot be made ({why(error, 'its settings do not go together')}): {REMEDY}"
        ) from error
    return as_pixels(processor, size, default=default)


def as_pixels(processor: Any, size: int | None = None, *, default: int = 224) -> Pixels:
    """A processor of transformers as `Pixels` for pictures of `size` (None: its own), compared with it on two pictures.
    One that works through torchvision, whose resizing has other last digits, is compared by its twin of Pillow.

    Raises:
        UserError: it does what `Pixels` does not do.
    """
    settings = processor.to_dict()
    settings.setdefault("image_processor_type", type(processor).__name__)
    own = output_size(settings, default)
    _compare(_of_pillow(processor, settings), from_processor(settings, own))
    return from_processor(settings, size or own)


def _of_pillow(processor: Any, settings: Mapping[str, Any]) -> Any:
    """The class of the same settings that works through Pillow; the processor itself where there is none."""
    import transformers

    if not any(kind.__name__ == "TorchvisionBackend" for kind in type(processor).__mro__):
        return processor
    twin = getattr(transformers, type(processor).__name__.removesuffix("Fast") + "Pil", None)
    return processor if twin is None else twin.from_dict(dict(settings))


def from_processor(settings: Mapping[str, Any], size: int) -> Pixels:
    """What a processor of these settings does, for pictures of `size`; one made for another size keeps its shares.

    Raises:
        UserError: a setting that gives pictures of no fixed square size.
    """
    mean, std = _normalisation(settings)
    index = settings.get("resample")
    resample = FILTERS[3 if index is None else int(index)]
    if settings.get("max_num_patches"):
        patch = int(settings.get("patch_size") or 16)
        most = int(settings["max_num_patches"]) if size == output_size(settings, size) else (size // patch) ** 2
        return Pixels(size, mean, std, "naflex", None, resample, patch=patch, patches=most)
    fit, resize, own = _geometry(settings, size)
    return Pixels(size, mean, std, fit, round(resize * size / own), resample)


def output_size(settings: Mapping[str, Any], default: int) -> int:
    """The side of the pictures that a processor of these settings gives; of patches, that of the largest square."""
    if most := settings.get("max_num_patches"):
        return int(most**0.5) * int(settings.get("patch_size") or 16)
    return _edge(settings.get("crop_size") if settings.get("do_center_crop") else settings.get("size"), default)


def _normalisation(settings: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of colours from 0 to 1 that do all at once: `rescale_factor` and `rescale_offset`, then mean
    and deviation, then (`include_top`, in EfficientNet's classifiers) the deviation once more."""
    factor = settings.get("rescale_factor")
    rescaled = settings.get("do_rescale") is not False
    whole = 255 * (1 / 255 if factor is None else float(factor)) if rescaled else 255.0
    whole = 1.0 if abs(whole - 1) < 1e-9 else whole
    offset = 1.0 if rescaled and settings.get("rescale_offset") else 0.0
    mean_and_std = [_channels(settings.get(name), HALF[0]) for name in ("image_mean", "image_std")]
    mean, std = mean_and_std if settings.get("do_normalize") is not False else ((0.0,) * 3, (1.0,) * 3)
    again = mean_and_std[1] if settings.get("include_top") else (1.0,) * 3
    return (
        tuple((value + offset) / whole for value in mean),
        tuple(value * more / whole for value, more in zip(std, again, strict=True)),
    )


def _geometry(settings: Mapping[str, Any], default: int) -> tuple[str, int, int]:
    """How a picture is fitted, the size before the crop, and the size after it."""
    name, size, crop = settings.get("image_processor_type", "the processor"), settings.get("size"), None
    if settings.get("do_resize") is False:
        raise UserError(f"{name} resizes nothing (do_resize=false), so its pictures have no one size: {REMEDY}")
    if settings.get("do_pad"):
        raise UserError(f"{name} pads pictures (do_pad=true), which is not done here: {REMEDY}")
    if settings.get("do_center_crop"):
        crop = _edge(settings.get("crop_size"), default)
    if not isinstance(size, Mapping):
        edge = _edge(size, default)
        return ("squash", edge, edge) if crop is None else ("crop", edge, crop)
    if {key for key, value in size.items() if value} == {"shortest_edge"}:
        edge = int(size["shortest_edge"])
        if str(name).startswith("Levit"):  # the share that ImageNet's usual crop keeps
            edge = int(256 / 224 * edge)
        if settings.get("crop_pct") is not None and crop is None:  # ConvNeXt: no crop from 384 pixels on
            return ("crop", int(edge / settings["crop_pct"]), edge) if edge < 384 else ("squash", edge, edge)
        if crop is not None:
            return "crop", edge, crop
    elif size.get("height") and size.get("height") == size.get("width"):
        return "squash", int(size["height"]), crop or int(size["height"])
    raise UserError(f"{name} gives pictures that are no squares of one size (size={dict(size)}): {REMEDY}")


def _compare(processor: Any, pixels: Pixels) -> None:
    from PIL import Image

    name = type(processor).__name__
    noise = np.random.default_rng(0)
    shapes = [(41, 67), (90, 40)]
    pictures = [Image.fromarray(noise.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in shapes]
    ours = pixels(pictures)
    try:
        made = [processor(picture, return_tensors="np") for picture in pictures]
        theirs = torch.cat([_as_ours(each, pixels) for each in made])
    except Exception as error:  # processors refuse settings with every kind of error
        raise UserError(
            f"{name} fails on a plain picture ({why(error, 'its settings do not go together')}): {REMEDY}"
        ) from error
    scale = max(1.0, float(theirs.abs().max())) if theirs.numel() else 1.0
    if theirs.shape != ours.shape or float((theirs - ours).abs().max()) > CLOSE * scale:
        raise UserError(f"{name} makes other pixels of a picture than nearfar would with its settings: {REMEDY}")


def _as_ours(made: Any, pixels: Pixels) -> torch.Tensor:
    values = torch.as_tensor(np.asarray(made["pixel_values"])).float()
    values = values[:, 0] if values.ndim == 5 else values  # to a processor of videos a picture is one of one frame
    if pixels.fit != "naflex":
        return values
    shapes = torch.as_tensor(np.asarray(made["spatial_shapes"])).float()
    mask = torch.as_tensor(np.asarray(made["pixel_attention_mask"])).float()
    return torch.cat([values, shapes[:, None] * mask[..., None]], dim=-1)


def _channels(value: Any, default: tuple[float, ...]) -> tuple[float, ...]:
    if value is None:
        return default
    return tuple(float(v) for v in value) if isinstance(value, (list, tuple)) else (float(value),) * 3


def _edge(size: Any, default: int) -> int:
    """The side that a processor's `size` or `crop_size` states, in any of the forms it has had."""
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or size.get("height")
    return int(size or default)
