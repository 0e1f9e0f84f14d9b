"""The model of a recipe: made or loaded, then changed as the section `model` says."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from inspect import signature
from itertools import islice
from typing import Any

from nearfar.data.fields.text import clean_caption, cleaning
from nearfar.errors import UserError
from nearfar.methods.base import trained_part
from nearfar.models.exported.onnx_encoder import refuse
from nearfar.training.recipe.sections import MODEL_SETTINGS, OF_A_LOADED_MODEL, check_names, maker, named

AROUND_A_PAIR = ("detector", "grounded_encoder", "prompted_encoder", "relation_encoder", "video_encoder")
"""Makers of models around a dual encoder."""
CORPUS = 200_000
"""Records of a stream that a vocabulary is learnt from."""


def build_model(settings: Mapping[str, Any], source: Any, trust: Collection[str] = ()) -> Any:
    """The model of a recipe's `model` section; a vocabulary is learnt from `source` where one is needed."""
    from nearfar import models

    values = {name: value for name, value in settings.items() if name not in MODEL_SETTINGS}
    if settings.get("load") is not None:
        values = {name: value for name, value in values.items() if name not in OF_A_LOADED_MODEL}
        if values:
            raise UserError(
                f"recipe, section model: {next(iter(values))} does not go with load, which is a whole model."
            )
        model = models.load(settings["load"])
        refuse(model, "train")
    else:
        make = maker(settings, trust)
        if "tokenizer" in signature(make).parameters and "tokenizer" not in values and _needs_vocabulary(settings):
            with named("model"):
                values["tokenizer"] = _vocabulary(source, settings)
        own = getattr(source, "classes", None)
        if own and "classes" in signature(make).parameters and "classes" not in values:
            values["classes"] = len(own)
        with named("model"):
            model = make(**values)
    return change_model(model, settings)


def change_model(model: Any, settings: Mapping[str, Any]) -> Any:
    """Change what a recipe changes of a model: the size of its pictures and the length of its texts, where it was
    loaded; how it cleans captions; one more encoder beside it; adapters, which parts are frozen. A model that was
    loaded keeps its frozen parts, unless `freeze` says which they are now."""
    if settings.get("load") is not None:
        if (size := settings.get("image_size")) is not None:
            if not hasattr(model, "resize_images"):
                raise UserError(f"recipe, section model: a {type(model).__name__} keeps its image_size.")
            model.resize_images(size)
        if (length := settings.get("max_length")) is not None:
            if not hasattr(model, "cut_texts"):
                raise UserError(f"recipe, section model: a {type(model).__name__} keeps its max_length.")
            model.cut_texts(length)
    if settings.get("clean_captions"):
        if getattr(model, "tokenizer", None) is None:
            raise UserError(f"recipe, model.clean_captions: a {type(model).__name__} has no tokenizer to clean with.")
        model.tokenizer = cleaning(model.tokenizer)
    if (start := settings.get("append")) is not None:
        model = _appended(model, start, is_loaded=settings.get("load") is not None)
    whole, model = model, trained_part(model)
    frozen, adapters = settings.get("freeze"), _adapters(settings.get("lora") or {})
    for setting, value, ability in (("freeze", frozen, "freeze"), ("lora", adapters, "add_lora")):
        if value and not hasattr(model, ability):
            raise UserError(
                f"recipe, model.{setting}: a {type(model).__name__} is trained whole; its parts are neither frozen nor "
                f"adapted: leave model.{setting} out, or take a model of two towers (model.preset)."
            )
    if "load" in settings and frozen is not None and (thawed := _thawed(model)):
        model.unfreeze(*thawed)
    for tower, options in adapters.items():
        with named("model.lora"):
            model.add_lora(tower, **options)
    if frozen:
        model.freeze(*([frozen] if isinstance(frozen, str) else frozen))
    return whole


def _appended(model: Any, start: Any, *, is_loaded: bool) -> Any:
    from nearfar.models.concat_encoder import appended

    if not is_loaded:
        raise UserError("recipe, model.append: there is no model to go on from: name one with model.load.")
    with named("model"):
        return appended(model, start)


def _thawed(model: Any) -> list[str]:
    """The frozen parts that can be trained: not the weights below adapters."""
    return [part for part in getattr(model, "frozen", ()) if part not in getattr(model, "adapters", ())]


def _adapters(towers: Any) -> dict[str, dict[str, Any]]:
    """The settings of `lora` by tower, their names checked."""
    if not isinstance(towers, Mapping) or not all(isinstance(options, Mapping | None) for options in towers.values()):
        raise UserError("recipe, section model: lora is a mapping by tower: {image: {rank: 8}, text: {rank: 8}}.")
    for options in towers.values():
        check_names("model.lora", ["rank", "alpha", "dropout", "targets"], options or {})
    return {tower: dict(options or {}) for tower, options in towers.items()}


def _needs_vocabulary(settings: Mapping[str, Any]) -> bool:
    """Whether the text tower starts from a config, and so has no tokenizer of its own."""
    from nearfar.models import MAKERS, PRESETS
    from nearfar.models.language.model import SIZES

    if settings.get("make") in AROUND_A_PAIR:
        pair = settings.get("pair", "tiny-vit")
        while isinstance(pair, Mapping) and "pair" in pair:  # a model around a model around a pair
            pair = pair["pair"]
        # A folder or a name brings its tokenizer.
        return _needs_vocabulary(pair) if isinstance(pair, Mapping) else pair in tuple(PRESETS)
    if settings.get("make") == "sound_encoder":
        return settings.get("text") is None or isinstance(settings["text"], Mapping)
    if settings.get("make") == "sound_transcriber":
        return True
    if settings.get("make") in ("vision_language_model", "interleaved_model"):
        return settings.get("language", "tiny") in SIZES
    if settings.get("make") in MAKERS:
        name = settings.get("name")
        return isinstance(name, Mapping) or name in SIZES
    preset = PRESETS.get(str(settings.get("preset")), {})
    text = settings.get("text", preset.get("text"))
    return isinstance(text, Mapping) or (text is None and not preset)


def _vocabulary(source: Any, settings: Mapping[str, Any]) -> Any:
    from nearfar.data.fields.answers import answer_counts
    from nearfar.data.fields.phrase_field import phrase_of
    from nearfar.data.fields.text import train_tokenizer
    from nearfar.data.sources.record_text import captions

    records = source if hasattr(source, "select") else islice(source, CORPUS)
    texts: Iterator[str] = (
        text for record in records for text in [*captions(record.get("text")), *answer_counts(record.get("answers"))]
    )
    if "text" not in source.columns and "objects" in source.columns:
        texts = (phrase_of(thing) for record in records for thing in record.get("objects") or ())
    elif "text" not in source.columns:
        texts = iter(source.classes or ())
    if settings.get("clean_captions"):
        texts = (clean_caption(text, max_words=None) for text in texts)
    longest = {"max_length": length} if (length := settings.get("max_length")) else {}
    return train_tokenizer(texts, settings.get("vocab_size", 4096), **longest)
