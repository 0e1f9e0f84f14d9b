"""What the folder of a sentence encoder, as sentence-transformers writes it, states beside its weights: how the tokens'
states become one vector, what dense layers follow, and how long a text may be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from safetensors.torch import load_file
from torch import nn

from nearfar.errors import UserError
from nearfar.files import why
from nearfar.models.towers.dense_layers import Dense
from nearfar.models.towers.sentence_settings import read_settings

POOLING = {"mean": "mean", "cls": "cls", "lasttoken": "eos", "max": "max"}
POOLING |= {"mean_sqrt_len_tokens": "mean_sqrt_len", "weightedmean": "weighted_mean"}
"""The poolings of sentence-transformers, and what a `TextTower` calls them."""
_FLAG = "pooling_mode_"
_FLAGS = {f"{_FLAG}{mode}_tokens": mode for mode in ("mean", "max", "weightedmean")}
_FLAGS |= {f"{_FLAG}{mode}": mode for mode in ("mean_sqrt_len_tokens", "lasttoken")} | {f"{_FLAG}cls_token": "cls"}
"""As older versions say it, one flag a mode."""


@dataclass(frozen=True)
class SentenceFolder:
    """A sentence encoder's folder. `weights` is what transformers opens; the rest is None where nothing is stated, as
    for any model that is no sentence encoder."""

    weights: Any
    pooling: str | None = None
    max_length: int | None = None
    lower_case: bool = False
    layers: tuple[dict[str, Any], ...] = ()
    """Dense layers and scalings to unit length after the pooling, as `dense_layers` takes them; none where a scaling
    would stand alone, which `normalize=True` does."""
    places: tuple[str, ...] = ()
    """The folders of the dense layers."""

    @classmethod
    def read(cls, name: Any) -> Self:
        """Read the small files of a folder or hub name; anything else is handed on.

        Raises:
            UserError: the encoder has a part that is not read here, or a damaged file.
        """
        modules = _json(name, "modules.json") if isinstance(name, (str, Path)) else None
        if not isinstance(modules, list):
            return cls(name)
        return cls.of(name, modules)

    @classmethod
    def of(cls, name: Any, modules: list[dict[str, Any]]) -> Self:
        """Read the small files of modules, each with its `path` below `name` and its `type`. Raises as `read`."""
        kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules if _is_plain(module)]
        if kinds == ["CLIPModel"]:  # pictures and texts, whole
            below = modules[0].get("path") or ""
            return cls(Path(name) / below if below else name)
        unknown = sorted({kind for kind in kinds if kind not in ("Transformer", "Pooling", "Dense", "Normalize")})
        after = kinds[2:] if kinds[1:2] == ["Pooling"] else kinds[1:]
        if (
            unknown
            or len(kinds) != len(modules)
            or kinds[:1] != ["Transformer"]
            or {"Transformer", "Pooling"} & {*after}
        ):
            parts = ", ".join(unknown) or "modules.json"
            raise UserError(f"{name} is a sentence encoder with parts that are not read here ({parts}): take another")
        below = modules[0].get("path") or ""
        settings = read_settings(name, lambda file: _json(name, file), below)
        if settings.pair and "Pooling" not in kinds and "Dense" not in kinds:
            return cls(Path(name) / below if below else name)
        if settings.pair or settings.own_pooling == (kinds[1:2] == ["Pooling"]):
            raise UserError(f"{name} is a sentence encoder that pools twice or not at all (modules.json): take another")
        return cls(
            Path(name) / below if below else name,
            pooling="tower" if settings.own_pooling else _pooling(name, modules[1]),
            max_length=settings.max_length,
            lower_case=settings.lower_case,
            **_dense(name, modules[len(modules) - len(after) :], after),
        )

    def load_layers(self, name: Any, layers: nn.Sequential) -> None:
        """Read the weights of the dense layers of the folder or hub name.

        Raises:
            UserError: a file is missing, damaged, or holds other weights.
        """
        dense = [layer for layer in layers if isinstance(layer, Dense)]
        for place, layer in zip(self.places, dense, strict=True):
            path = _path(name, f"{place}/model.safetensors")
            if path is None:
                raise UserError(
                    f"{name}: its dense layer {place} has no model.safetensors: save it anew with safe_serialization"
                )
            try:
                layer.load_state_dict({key: value.float() for key, value in load_file(path).items()})
            except Exception as error:  # a damaged file is refused with every kind of error
                raise UserError(
                    f"{path} does not hold the weights of its dense layer: {why(error, 'copy the folder anew')}"
                ) from error


def _dense(name: Any, modules: list[dict[str, Any]], kinds: list[str]) -> dict[str, Any]:
    """The layers after the pooling, and the folders of the dense ones."""
    if "Dense" not in kinds:
        return {}
    layers: list[dict[str, Any]] = []
    places: list[str] = []
    for module, kind in zip(modules, kinds, strict=True):
        if kind == "Normalize":
            layers.append({})
            continue
        place = module["path"]
        stated = _json(name, f"{place}/config.json") or {}
        sizes = [stated.get(key) for key in ("in_features", "out_features")]
        if stated.get("use_residual"):
            raise UserError(
                f"{name}: {place} adds what goes in to what comes out (use_residual), which is not done here"
            )
        others = [stated.get(f"module_{end}_name") for end in ("input", "output")]
        if not all(type(size) is int and size > 0 for size in sizes) or {*others} - {None, "sentence_embedding"}:
            raise UserError(f"{name}: {place}/config.json does not describe a dense layer of sentence embeddings")
        activation = str(stated.get("activation_function", "Tanh")).rpartition(".")[2]
        layer = {"in_features": sizes[0], "out_features": sizes[1], "bias": stated.get("bias", True) is not False}
        layers.append({**layer, "activation": activation})
        places.append(place)
    return {"layers": tuple(layers), "places": tuple(places)}


def _pooling(name: Any, module: dict[str, Any]) -> str:
    stated = _json(name, f"{module['path']}/config.json") or {}
    modes = stated.get("pooling_mode")
    if modes is None:
        modes = [_FLAGS.get(key, key) for key, value in stated.items() if key.startswith(_FLAG) and value is True]
        modes = modes or (["mean"] if stated else [])  # as sentence-transformers does
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in POOLING:
        called = " and ".join(map(str, modes)) or "nothing"
        raise UserError(f"{name} pools by {called}, which is not done here: name one of ours with pooling=...")
    return POOLING[modes[0]]


def _is_plain(module: Any) -> bool:
    """Whether an entry of modules.json names a folder below its own, and no other place."""
    path = module.get("path", "") if isinstance(module, dict) else None
    return isinstance(path, str) and (not path or all(part.replace("_", "a").isalnum() for part in path.split("/")))


def _json(name: Any, file: str) -> Any:
    """A JSON file of a folder or of a name on the hub; None where there is none."""
    path = _path(name, file)
    if path is None:
        return None
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {why(error, 'it cannot be read')}") from error


def _path(name: Any, file: str) -> Path | None:
    """A file of a folder or of a name on the hub; None where there is none."""
    from transformers.utils import cached_file

    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    try:
        cached = cached_file(str(name), file, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):
        return None  # no such model, which is said where its weights are read
    return None if cached is None else Path(cached)
