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

POOLING = {"mean": "mean", "cls": "cls", "lasttoken": "eos"}
"""The poolings of sentence-transformers that a `TextTower` has, and what it calls them."""
_FLAGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "lasttoken"}


@dataclass(frozen=True)
class SentenceFolder:
    """A sentence encoder's folder. `weights` is what transformers opens; the rest is None where nothing is stated, as
    for any model that is no sentence encoder."""

    weights: Any
    pooling: str | None = None
    max_length: int | None = None
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
        settings = _json(name, f"{below}/sentence_bert_config.json".lstrip("/")) or {}
        most = settings.get("max_seq_length")
        return cls(
            Path(name) / below if below else name,
            pooling=_pooling(name, modules[1]) if kinds[1:2] == ["Pooling"] else None,
            max_length=most if isinstance(most, int) and most > 0 else None,
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
    chosen = [mode for flag, mode in _FLAGS.items() if stated.get(flag)]
    others = [key for key, value in stated.items() if key.startswith("pooling_mode_") and value and key not in _FLAGS]
    chosen = [stated["pooling_mode"]] if isinstance(stated.get("pooling_mode"), str) else chosen
    if len(chosen) != 1 or others or chosen[0] not in POOLING:
        called = ", ".join([*chosen, *(other.removeprefix("pooling_mode_") for other in others)]) or "nothing"
        raise UserError(f"{name} pools by {called}, which is not done here: name one of ours with pooling=...")
    return POOLING[chosen[0]]


def _is_plain(module: Any) -> bool:
    """Whether an entry of modules.json names a folder below its own, and no other place."""
    path = module.get("path", "") if isinstance(module, dict) else None
    return isinstance(path, str) and (not path or path.replace("_", "a").isalnum())


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
