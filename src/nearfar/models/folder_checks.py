"""A model's folder may be damaged, or come from somebody else: its `config.json` is checked before a model is made.

It is data: it chooses among classes that are here, by name, with settings that a saved model has. It names no module,
no file and no place on the hub.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from nearfar.errors import UserError
from nearfar.files import why
from nearfar.models.dual.projection import is_kind
from nearfar.models.image.projector import is_projector

REMEDY = "copy it from where the model was saved, or save the model anew"

Check = Callable[[Any], bool]


def whole(least: int) -> Check:
    """A whole number from `least` on."""
    return lambda value: type(value) is int and least <= value < 2**31


def between(least: float, most: float) -> Check:
    """A number in an open interval."""
    return lambda value: type(value) in (int, float) and least < value < most


def absent_or(check: Check) -> Check:
    """None too."""
    return lambda value: value is None or check(value)


def texts(value: Any) -> bool:
    """A list of texts."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def text(value: Any) -> bool:
    """A text."""
    return isinstance(value, str)


def flag(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def three(value: Any) -> bool:
    """Three numbers."""
    return isinstance(value, list) and len(value) == 3 and all(map(between(-math.inf, math.inf), value))


def mapping(value: Any) -> bool:
    """An object."""
    return isinstance(value, dict)


def dense(value: Any) -> bool:
    """What describes a dense layer, or a scaling to unit length."""
    if not isinstance(value, dict) or value.keys() - DENSE.keys():
        return False
    return not value or all(key in value and check(value[key]) for key, check in DENSE.items())


DENSE: dict[str, Check] = {"in_features": whole(1), "out_features": whole(1), "bias": flag, "activation": text}
TOWER = {"spec": mapping, "image_size": whole(1), "pooling": text, "text_layers": whole(1), "image_width": whole(1)}
PIXELS = {"size": whole(1), "mean": three, "std": three, "fit": text, "resize": absent_or(whole(1)), "resample": text}
PIXELS |= {"patch": absent_or(whole(1)), "patches": absent_or(whole(1))}
ADAPTER = {
    "rank": whole(1),
    "alpha": between(0, math.inf),
    "dropout": lambda value: value == 0 or between(0, 1)(value),
    "targets": absent_or(texts),
}
VIDEO: dict[str, Check] = {
    "frames": whole(1),
    "sampling": text,
    "spacing": text,
    "step": whole(1),
    "short": text,
    "messages": lambda value: isinstance(value, bool) or whole(1)(value),
    "integration_layers": whole(0),
    "prompt_layers": whole(0),
    "integration_heads": absent_or(whole(1)),
    "prompt_heads": absent_or(whole(1)),
}
"""How a video encoder reads videos, and what its added parts are made of."""
DETECTOR: dict[str, Check] = {
    "window": absent_or(whole(1)),
    "shift": absent_or(whole(0)),
    "positions": lambda value: value in ("after", "before"),
    "levels": lambda value: isinstance(value, list) and 0 < len(value) < 5 and all(map(whole(2), value)),
    "width": lambda value: type(value) is int and 4 <= value <= 2**14,
    "convolutions": lambda value: type(value) is int and 0 <= value < 2**8,
    "hidden": lambda value: type(value) is int and 0 < value <= 2**16,
}
"""How a detector reads pictures, and what its pyramid and head are made of."""
SOUND: dict[str, Check] = {
    **{name: lambda value: type(value) is int and 0 < value <= 2**14 for name in ("mels", "width", "heads")},
    "layers": lambda value: type(value) is int and 0 < value < 2**8,
    "dropout": lambda value: value == 0 or between(0, 1)(value),
}
"""What a tower of sounds is made of."""
DECODER = {name: SOUND[name] for name in ("layers", "heads", "dropout")}
LOG_MEL: dict[str, Check] = {
    **{name: whole(1) for name in ("rate", "mels", "window", "hop")},
    "fft": absent_or(whole(1)),
    "low": lambda value: value == 0 or between(0, math.inf)(value),
    "high": absent_or(between(0, math.inf)),
    **dict.fromkeys(("power", "floor"), between(0, math.inf)),
    **dict.fromkeys(("area", "centred", "last"), flag),
    **dict.fromkeys(("scale", "log", "padding", "normalise"), text),
}
"""How sounds become features."""
RELATIONAL: dict[str, Check] = {
    **dict.fromkeys(("relations", "objects"), texts),
    **dict.fromkeys(("relation_width", "object_hidden", "most_objects", "phrase_length"), whole(1)),
    **dict.fromkeys(("operator_dropout", "object_dropout"), lambda value: value == 0 or between(0, 1)(value)),
    **dict.fromkeys(("operator", "pooling"), text),
    "heads": absent_or(whole(1)),
}
"""What a model of relations is made of beside its pair."""
SEARCH: dict[str, Check] = {
    **dict.fromkeys(("embed_dim", "hidden"), whole(1)),
    "dropout": lambda value: value == 0 or between(0, 1)(value),
}
"""What the heads of a model for search are made of."""
SPACE: dict[str, Check] = {
    "image_projection": is_kind,
    "embed_dim": lambda value: type(value) is int and 0 < value < 2**16,
}
"""What the embeddings are made by that a vision-language model may read."""
VLM: dict[str, Check] = {
    "projector": text,
    "read": lambda value: value in ("cells", "summary", "embedding"),
    "pool": absent_or(lambda value: type(value) is int and 0 < value < 2**8),
    "tokens": lambda value: type(value) is int and 0 < value < 2**8,
    "space": lambda value: _all(value, SPACE) and value.keys() == SPACE.keys(),
    "prompt": text,
}
"""What stands between the image tower and the words of a vision-language model."""
EMBEDDER: dict[str, Check] = {
    "text_prompt": text,
    "base_prompt": text,
    "adapters": absent_or(lambda value: _all(value, ADAPTER)),
}
"""What an embedder has beside its vision-language model."""
PROMPT: dict[str, Check] = {
    "kind": lambda value: value in ("coop", "cocoop", "maple"),
    "context": lambda value: type(value) is int and 0 < value < 2**10,
    "position": lambda value: value in ("end", "middle", "front"),
    "ending": text,
    "class_names": absent_or(texts),
    "hidden": absent_or(lambda value: type(value) is int and 0 < value < 2**14),
    "depth": lambda value: type(value) is int and 0 < value < 2**8,
    "base": absent_or(texts),
}
"""What a learned prompt is made of."""
INTERLEAVED: dict[str, Check] = {
    **dict.fromkeys(("unimodal_layers", "text_layers"), lambda value: type(value) is int and 0 <= value < 2**12),
    **dict.fromkeys(("interval", "compress"), lambda value: type(value) is int and 0 < value < 2**12),
    **dict.fromkeys(
        ("latents", "depth", "heads", "head_width"), lambda value: type(value) is int and 0 < value < 2**12
    ),
    "embed_dim": lambda value: type(value) is int and 0 < value < 2**16,
    "attend": lambda value: value in ("latest", "all"),
    "attend_padding": flag,
    "prompt": text,
}
"""What is added to the language model of an interleaved model."""
LONGEST = ("mels", "window", "hop", "fft")
KEYS: dict[str, Check] = {
    "image": mapping,
    "text": mapping,
    "pixels": mapping,
    "adapters": mapping,
    "frozen": texts,
    "embed_dim": whole(1),
    "image_projection": is_kind,
    "text_projection": is_kind,
    "projection_dropout": lambda value: value == 0 or between(0, 1)(value),
    "image_heads": whole(1),
    "max_length": absent_or(whole(1)),
    "temperature": absent_or(between(0, math.inf)),
    "bias": absent_or(between(-math.inf, math.inf)),
    "bridge": flag,
    "decoder_layers": whole(1),
    "classes": whole(2),
    "projector": is_projector,
    "output": lambda value: value in ("features", "projection", "both", "common", "salient"),
    "common": mapping,
    "pair": mapping,
    "encoder": mapping,
    "language": mapping,
    "vlm": lambda value: _all(value, VLM),
    "embedder": lambda value: _all(value, EMBEDDER),
    "prompt": lambda value: _all(value, PROMPT),
    "interleaved": lambda value: _all(value, INTERLEAVED),
    "hidden": whole(1),
    "video": lambda value: _all(value, VIDEO),
    "detector": lambda value: _all(value, DETECTOR),
    "relational": lambda value: _all(value, RELATIONAL),
    "search": lambda value: _all(value, SEARCH),
    "sound": lambda value: _all(value, SOUND),
    "decoder": lambda value: _all(value, DECODER),
    "log_mel": lambda value: _all(value, LOG_MEL) and max(value.get(key) or 1 for key in LONGEST) <= 2**16,
    "max_seconds": between(0, math.inf),
    "salient": mapping,
    "layers": lambda value: isinstance(value, list) and len(value) < 2**5 and all(map(dense, value)),
    "parts": lambda value: isinstance(value, list) and 0 < len(value) < 2**5 and all(map(mapping, value)),
    "normalize": lambda value: value in ("joint", "each"),
    "weights": absent_or(lambda value: isinstance(value, list) and all(map(between(0, math.inf), value))),
    "position": text,
    **dict.fromkeys(("attention_heads", "attention_hidden"), absent_or(whole(1))),
    "attention_dropout": lambda value: value == 0 or between(0, 1)(value),
    "matryoshka": lambda value: isinstance(value, list) and len(value) < 2**10 and all(map(whole(1), value)),
}
"""What a saved model's config may say; which of these depends on its class."""
PARTS = ("image", "text", "image_projection", "text_projection")
"""Parts of a dual encoder that can be frozen."""
NEEDED = ("image", "text", "pixels", "adapters", "frozen")


def _all(values: Any, checks: Mapping[str, Check]) -> bool:
    """Whether a mapping holds settings that are known, each of its kind."""
    return isinstance(values, dict) and all(key in checks and checks[key](values[key]) for key in values)


def needed_keys(made: type) -> tuple[str, ...]:
    """What the config of a model of class `made` must have: its own `NEEDED`, else that of a dual encoder."""
    return getattr(made, "NEEDED", NEEDED)


def check_config(config: Mapping[str, Any], made: type, file: Path, *, weights: Iterable[Path]) -> None:
    """Check the config of a model of class `made`, whose files of weights are `weights`.

    Raises:
        UserError: a key that is missing or not known, or a value of a wrong type or out of its range.
    """
    needed = needed_keys(made)
    missing = [key for key in needed if key not in config]
    if missing:
        raise UserError(f"{file} has no {missing[0]!r}: {REMEDY}")
    check_values(config, KEYS, file)
    if foreign := [key for key in NEEDED if key in config and key not in needed]:
        raise UserError(f"{file} has {foreign[0]!r}, which a {made.__name__} has not: {REMEDY}")
    sides = [side for side in ("image", "text", "language") if side in needed]
    for side in sides:
        check_values(config[side], TOWER, file, f"{side}.")
    check_values(config.get("pixels", {}), PIXELS, file, "pixels.")
    _check_adapters(config.get("adapters", {}), file)
    parts = getattr(made, "FREEZABLE", PARTS)
    if unknown := [part for part in config.get("frozen", []) if part not in parts]:
        raise UserError(f"{file}: frozen has {_short(unknown[0])}: choose among {', '.join(parts)}")
    for side in sides:
        check_spec(config[side].get("spec"), file, f"{side}.spec.", most_layers=_tensors(weights))
    for part, inner in getattr(made, "MODELS_WITHIN", {}).items():
        check_config(config[part], inner, file, weights=weights)
    if "parts" in config:
        if not hasattr(made, "PARTS_OF"):
            raise UserError(f"{file} has 'parts', which a {made.__name__} has not: {REMEDY}")
        for part in config["parts"]:
            check_config(part, made.PARTS_OF, file, weights=weights)


def check_adapters(file: Path) -> dict[str, Any]:
    """The settings of adapters by tower that a file holds.

    Raises:
        UserError: the file is missing or damaged, or holds something else.
    """
    try:
        adapters = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"no adapters can be read from {file}: {why(error, 'it cannot be read')}") from error
    if not isinstance(adapters, dict) or not adapters:
        raise UserError(f"{file} holds no adapters: {REMEDY}")
    _check_adapters(adapters, file)
    return adapters


def _check_adapters(adapters: Mapping[str, Any], file: Path) -> None:
    for tower, settings in adapters.items():
        if tower not in ("image", "text") or not isinstance(settings, dict):
            raise UserError(f"{file}: adapters has {_short(tower)}: adapters stand in the image or the text tower")
        check_values(settings, ADAPTER, file, f"adapters.{tower}.")


def check_spec(spec: Any, file: Path, where: str, *, most_layers: int | None = None) -> None:
    """Check what a backbone is made from again: a library that is known, and a name that is one of its own."""
    if not isinstance(spec, dict):
        raise UserError(f"{file} has no {where.rstrip('.')!r}: {REMEDY}")
    library = spec.get("library")
    keys: dict[str, dict[str, Check]] = {
        "transformers": {"architecture": text, "config": mapping},
        "timm": {"name": _plain_name, "options": lambda value: mapping(value) and set(value) <= {"img_size"}},
        "efficientnet_lite_pytorch": {"name": _plain_name, "taps": lambda value: isinstance(value, list)},
    }
    if not isinstance(library, str) or library not in keys:
        raise UserError(f"{file}: {where}library is {_short(library)}: choose one of {', '.join(keys)}")
    check_values(spec, {"library": text, **keys[library]}, file, where)
    absent = [key for key in keys[library] if key not in spec and key != "taps"]
    if absent:
        raise UserError(f"{file} has no {where + absent[0]!r}: {REMEDY}")
    for key, value in spec.get("config", {}).items():
        # Numbers of layers are counted off one by one, so a wrong one would take for ever.
        if (
            ("layers" in key or "depth" in key)
            and type(value) is int
            and most_layers is not None
            and value > most_layers
        ):
            raise UserError(f"{file}: {where}config.{key} is {_short(value)}, more than the weights have: {REMEDY}")
        if key == "auto_map" or ("attn_implementation" in key and "/" in str(value)):
            raise UserError(f"{file}: {where}config.{key} names code to be fetched and run: take it out")


def check_values(values: Mapping[str, Any], checks: Mapping[str, Check], file: Path, where: str = "") -> None:
    for key, value in values.items():
        if key not in checks:
            raise UserError(f"{file} has an unknown key {_short(where + key)}: {REMEDY}")
        if not checks[key](value):
            raise UserError(f"{file}: {where}{key} is {_short(value)}, which it cannot be: {REMEDY}")


def _plain_name(value: Any) -> bool:
    return isinstance(value, str) and value.replace("-", "_").replace(".", "_").isidentifier()


def _tensors(weights: Iterable[Path]) -> int | None:
    """How many tensors safetensors files hold; None where one cannot be read, which is said later."""
    from safetensors import SafetensorError, safe_open

    count = 0
    for each in weights:
        try:
            with safe_open(each, "pt") as file:
                count += len(file.keys())
        except (OSError, SafetensorError):
            return None
    return count or None


def _short(value: Any) -> str:
    short = repr(value)
    return short if len(short) <= 60 else f"{short[:57]}..."
