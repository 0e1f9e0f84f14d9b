"""A model of transformers for pictures and texts as a `DualEncoder`: the same numbers, or a refusal.

Its towers and projections become ours, pooled as its own features say. One picture and two texts go through both; a
model whose features come out otherwise here is refused by name.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.errors import UserError
from nearfar.files import why
from nearfar.models.dual.dual_encoder import DualEncoder
from nearfar.models.dual.own_features import OwnFeatures, same
from nearfar.models.towers import backbones
from nearfar.models.towers.pixels import Pixels
from nearfar.models.towers.processors import as_pixels
from nearfar.models.towers.tokens import check_tokenizer, read_at_the_end, with_padding
from nearfar.models.towers.tower import IMAGE_POOLING, TEXT_POOLING, ImageTower, TextTower
from nearfar.modes import evaluating

REMEDY = (
    "put it into a class of your own with encode_image, preprocess, encode_text and tokenize, which is taken as it is"
)

KINDS = ("image", "text", "video", "audio", "speech", "vision")


def is_pair(model: Any) -> bool:
    """Whether a model of transformers has to do with texts and with something else: pictures, videos or sounds."""
    config = getattr(model, "config", None)
    return config is not None and (hasattr(model, "get_text_features") or hasattr(config, "vision_config"))


def image_size(model: Any) -> int:
    """Side of the pictures that a pair's image tower was made for."""
    return backbones.own_size(model.vision_model) if hasattr(model, "vision_model") else 224


def from_transformers(model: Any, tokenizer: Any, *, preprocess: Any = None, copy: bool = True) -> DualEncoder:
    """A `DualEncoder` in float32 of the towers and projections of a transformers model, in the mode the model is in.

    CLIP projects both sides without bias, SigLIP neither, ALIGN only the text; CLIP and SigLIP multiply by
    `exp(logit_scale)` where ALIGN and TIPS divide by their temperature.

    Args:
        model: a model with `get_image_features` and `get_text_features`.
        tokenizer: its tokenizer.
        preprocess: its image processor, or `Pixels`; by default what its family is known for.
        copy: leave `model` as it is; else it is taken apart.

    Raises:
        UserError: a model that reads something else, projects in a way of its own, or whose features differ.
    """
    name = type(model).__name__
    _check_kind(model, name)
    training = model.training
    model = (deepcopy(model) if copy else model).float()
    try:
        with evaluating(model):
            ours = _taken_apart(model, name, tokenizer, preprocess)
    except UserError:
        raise
    except Exception as error:  # models refuse inputs with every kind of error
        raise UserError(
            f"a {name} cannot be loaded here ({why(error, 'it takes no plain picture or text')}): {REMEDY}"
        ) from error
    return ours.train(training)


def _taken_apart(model: Any, name: str, tokenizer: Any, preprocess: Any) -> DualEncoder:
    vision, text = model.vision_model, model.text_model
    if tokenizer is not None and str(text.config.model_type).startswith("siglip"):
        text.config.pad_token_id = with_padding(tokenizer).pad_token_id  # SigLIP reads its padding
    size = preprocess.size if isinstance(preprocess, Pixels) else image_size(model)
    pixels = _pixels(preprocess, vision, size)
    texts = TextTower(text, backbones.spec_of(text), pooling="tower")
    check_tokenizer(with_padding(tokenizer), texts)
    own = OwnFeatures.of(model, texts, tokenizer, pixels.size)
    image_head, text_head = (_head(model, side, name) for side in ("visual_projection", "text_projection"))
    text_head = _wide_head(texts) or text_head
    images = _image_tower(vision, pixels.size)
    _pool_image(images, image_head, own, name)
    _pool_text(texts, text_head, own, name, tokenizer)
    bias = getattr(model, "logit_bias", None)
    ours = DualEncoder(
        images,
        texts,
        tokenizer=tokenizer,
        pixels=pixels,
        embed_dim=own.image.shape[-1],
        image_projection=_kind(image_head),
        text_projection=_kind(text_head),
        temperature=_temperature(model),
        bias=None if bias is None else bias.item(),
    )
    ours.image_projection, ours.text_projection = image_head, text_head
    if same(*ours.encode_text(own.tokens)) and not torch.equal(*own.tokens["input_ids"]):
        raise UserError(
            f"this {name} gives two different texts one embedding with this tokenizer ({type(tokenizer).__name__}): "
            "give it the tokenizer that it was trained with"
        )
    return ours


def _check_kind(model: Any, name: str) -> None:
    has = [call for kind in KINDS if hasattr(model, call := f"get_{kind}_features")]
    for missing in ("get_image_features", "get_text_features"):
        if missing not in has:
            raise UserError(
                f"a {name} has no {missing} ({', '.join(has) or 'nor other features'}), and nearfar.load takes models "
                f"of pictures and texts: {REMEDY}"
            )
    for tower in ("vision_model", "text_model"):
        if not hasattr(model, tower):
            raise UserError(f"a {name} has no {tower}, so it cannot be taken apart into two towers: {REMEDY}")


def _image_tower(vision: nn.Module, size: int) -> ImageTower:
    try:
        return ImageTower(vision, backbones.spec_of(vision), image_size=size, pooling="tower")
    except UserError:  # it does no pooling, or to another width
        return ImageTower(vision, backbones.spec_of(vision), image_size=size)


def _pool_image(tower: ImageTower, head: nn.Module, own: OwnFeatures, name: str) -> None:
    """Choose the pooling that gives the model's own features."""
    likely = tower.default_pooling()
    for pooling in dict.fromkeys([likely, *IMAGE_POOLING]):
        tower.pooling = pooling
        if (pooling != "cls" or tower.prefix) and _gives(lambda: head(tower(own.pixels)[:, 0]), own.image):
            return tower.pool_by(pooling)
    raise UserError(_differs(name, "image"))


def _pool_text(tower: TextTower, head: nn.Module, own: OwnFeatures, name: str, tokenizer: Any) -> None:
    """Choose the pooling that gives the model's own features. A model that looks for the end of a text by an id which
    this tokenizer does not end texts with is read at the end all the same."""
    if read_at_the_end(tower, tokenizer):
        return None
    likely = tower.default_pooling()
    for pooling in dict.fromkeys([likely, *TEXT_POOLING]):
        tower.pooling = pooling
        if _gives(lambda: head(tower(own.tokens)[:, 0]), own.text):
            return tower.pool_by(pooling)
    if tower.fixed_length and getattr(tokenizer, "padding_side", "right") != "right":
        raise UserError(f"the tokenizer of this {name} pads on the left: set tokenizer.padding_side = 'right'")
    raise UserError(_differs(name, "text"))


def _gives(features: Any, expected: Tensor) -> bool:
    try:
        return same(features(), expected)
    except (UserError, RuntimeError, TypeError):  # it pools not so, to another width, or gives no states between layers
        return False


def _differs(name: str, side: str) -> str:
    return (
        f"a {name} makes its {side} features in a way that is not followed here (no pooling and linear projection "
        f"gives those of get_{side}_features): {REMEDY}"
    )


def _pixels(preprocess: Any, vision: nn.Module, size: int) -> Pixels:
    if isinstance(preprocess, Pixels):
        return preprocess
    return backbones.family_pixels(vision, size) if preprocess is None else as_pixels(preprocess, default=size)


def _head(model: Any, attribute: str, name: str) -> nn.Module:
    head = getattr(model, attribute, None)
    if head is None:
        return nn.Identity()
    if type(head) is not nn.Linear:
        raise UserError(
            f"a {name} projects by a {type(head).__name__}, not by one linear layer ({attribute}): {REMEDY}"
        )
    return head


def _wide_head(texts: TextTower) -> nn.Linear | None:
    """The layer by which a SigLIP's texts become as wide as its pictures, where they are not (SigLIP 2's largest): it
    is taken off the tower, which keeps one that changes nothing."""
    text, head = texts.backbone, getattr(texts.backbone, "head", None)
    if texts.fixed_length is None or not isinstance(head, nn.Linear) or head.out_features == texts.width:
        return None
    text.head = nn.Linear(texts.width, texts.width).to(head.weight)
    with torch.no_grad():
        nn.init.eye_(text.head.weight)
        nn.init.zeros_(text.head.bias)
    text.config.projection_size = texts.width
    texts.spec = backbones.spec_of(text)
    return head


def _kind(head: nn.Module) -> str:
    if not isinstance(head, nn.Linear):
        return "none"
    return "linear" if head.bias is not None else "linear-no-bias"


def _temperature(model: Any) -> float | None:
    """What similarities are divided by."""
    if getattr(model, "temperature", None) is not None:
        return model.temperature.item()
    if getattr(model, "logit_scale", None) is None:
        return None
    most = getattr(model, "max_log_logit_scale", None)  # AIMv2 cuts it off
    scale = model.logit_scale if most is None else model.logit_scale.clamp(0.0, most)
    return (-scale).exp().item()
