"""One door to every encoder: our folders, CLIP-like checkpoints of transformers, open_clip models, presets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from nearfar.errors import UserError
from nearfar.models import model_folder as checkpoint
from nearfar.models.dual.dual_encoder import DualEncoder
from nearfar.models.folder_checks import first_line
from nearfar.models.presets import PRESETS, create
from nearfar.models.tokenizer_files import read_tokenizer
from nearfar.models.towers import backbones, pixels
from nearfar.models.towers.tower import ImageTower, TextTower


def load(model: Any, *, tokenizer: Any = None, preprocess: Any = None) -> Any:
    """An encoder: `encode_image`, `encode_text`, `preprocess`, `tokenize`, `image_size`, `mean`, `std`, `embed_dim`.

    Args:
        model: a folder that nearfar saved, or a run's folder; a folder, hub name or instance of a transformers
            CLIPModel, SiglipModel or AlignModel; an open_clip model; the name of a pretrained preset (`"towers"`); or
            an encoder already.
        tokenizer: needed beside an instance; a transformers or open_clip tokenizer.
        preprocess: needed beside an open_clip model: its evaluation transform.

    Returns:
        A `DualEncoder`, whose parts can be frozen, adapted and saved, except for open_clip models, which stay as they
        are behind an `OpenClipEncoder`. In evaluation mode if it came by name or folder.

    Raises:
        UserError: nothing of that name, a folder that holds no such model, a damaged file, a missing tokenizer.

    >>> import nearfar
    >>> encoder = nearfar.load("towers")
    >>> encoder.embed_dim, encoder.image_size
    (256, 112)
    """
    if isinstance(model, (str, Path)):
        return _named(model, tokenizer)
    if all(hasattr(model, name) for name in ("encode_image", "encode_text", "preprocess", "tokenize")):
        return model
    if all(hasattr(model, name) for name in ("vision_model", "text_model", "config")):
        return from_transformers(model, tokenizer)
    if hasattr(model, "encode_image") and hasattr(model, "encode_text"):
        from nearfar.models.dual.open_clip import OpenClipEncoder

        return OpenClipEncoder(model, tokenizer=tokenizer, preprocess=preprocess)
    raise UserError(
        f"cannot make an encoder of a {type(model).__name__}: pass a model with encode_image and encode_text, a "
        "CLIP-like transformers model, or the folder or name of one"
    )


def from_transformers(model: Any, tokenizer: Any, *, prepare: pixels.Pixels | None = None) -> DualEncoder:
    """A `DualEncoder` around the towers and projections of a CLIP-like transformers model; it shares their weights.

    CLIP projects both sides without bias, SigLIP neither, ALIGN only the text; CLIP and SigLIP multiply by
    `exp(logit_scale)` where ALIGN divides by its temperature.
    """
    config = model.config
    vision, text = model.vision_model, model.text_model
    kind = str(vision.config.model_type)
    size = getattr(vision.config, "image_size", 224)
    ours = DualEncoder(
        ImageTower(vision, _spec(vision), image_size=size),
        TextTower(text, _spec(text)),
        tokenizer=tokenizer,
        pixels=prepare or backbones.family_pixels(kind, size),
        embed_dim=getattr(config, "projection_dim", None) or text.config.hidden_size,
        image_projection=_kind(getattr(model, "visual_projection", None)),
        text_projection=_kind(getattr(model, "text_projection", None)),
        temperature=_temperature(model),
        bias=model.logit_bias.item() if getattr(model, "logit_bias", None) is not None else None,
    )
    for side, head in (("image", "visual_projection"), ("text", "text_projection")):
        if hasattr(model, head):
            setattr(ours, f"{side}_projection", getattr(model, head))
    return ours.train(model.training)


def _named(name: str | Path, tokenizer: Any) -> Any:
    folder = Path(name)
    if (folder / "model" / checkpoint.CONFIG).is_file():
        folder = folder / "model"  # a run's folder
    if folder.is_dir():
        config = checkpoint.read_config(folder)
        if "nearfar" in config:
            return checkpoint.read(folder)
    elif str(name) in PRESETS:
        if PRESETS[str(name)]["image"] != backbones.LITE:
            raise UserError(f"{name!r} starts from scratch: train it, or make it with nearfar.models.create({name!r})")
        return create(str(name)).eval()
    return _checkpoint(name, tokenizer)


def _checkpoint(name: str | Path, tokenizer: Any) -> DualEncoder:
    from transformers import AutoModel, ImageProcessingMixin

    try:
        with backbones.quiet():
            model = AutoModel.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # a folder's files are refused with every kind of error
        raise UserError(f"no model {str(name)!r} here or on the hub: {first_line(error)}") from error
    tokenizer = tokenizer if tokenizer is not None else read_tokenizer(name)
    if not (hasattr(model, "vision_model") and hasattr(model, "text_model")):
        raise UserError(
            f"{name} holds a {type(model).__name__}, one tower only: give it to nearfar.models.create as image=... or "
            "text=..."
        )
    try:
        processor, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        return from_transformers(model, tokenizer)
    size = pixels.output_size(processor, getattr(model.config.vision_config, "image_size", 224))
    return from_transformers(model, tokenizer, prepare=pixels.from_processor(processor, size))


def _spec(tower: nn.Module) -> dict[str, Any]:
    config: Any = tower.config
    return {"library": "transformers", "architecture": type(tower).__name__, "config": config.to_dict()}


def _kind(head: Any) -> str:
    if head is None:
        return "none"
    return "linear" if head.bias is not None else "linear-no-bias"


def _temperature(model: Any) -> float | None:
    """What similarities are divided by."""
    if getattr(model, "temperature", None) is not None:
        return model.temperature.item()
    return (-model.logit_scale).exp().item() if getattr(model, "logit_scale", None) is not None else None
