"""The files of a model that transformers and sentence-transformers open, and where in them each tensor is.

Beside them lies `nearfar.json`, which neither library writes: what they save anew is read as theirs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nearfar import files
from nearfar.models.dual.blended import UnitLinear
from nearfar.models.towers.backbones import quiet
from nearfar.models.weight_files import sum_of, write_parts

WEIGHTS = "model.safetensors"
TYPES = "sentence_transformers.models."
MODULES = "modules.json"
SCALE, BIAS = "logit_scale", "logit_bias"

Place = tuple[str, str]
"""A file of weights, and a tensor's name in it."""


@dataclass(frozen=True)
class Layout:
    """How others hold a model.

    Attributes:
        kind: one of `KINDS`.
        embeds: what sentence-transformers embeds with it, in words.
        configs: what transformers makes models from, by file.
        modules: the modules of sentence-transformers: folder and class.
        small: other small files by name, as plain data.
        tokenizer: set as those libraries use it.
        places: where each tensor of the model is, by our names.
        more: tensors that only they have, by their names, in the main file of weights.
    """

    kind: str
    embeds: str
    configs: dict[str, dict[str, Any]]
    modules: list[Place]
    small: dict[str, Any]
    tokenizer: Any
    places: dict[str, Place]
    more: dict[str, Tensor] = field(default_factory=dict)

    def write(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """Write all files; the weights come last. `state` holds the model's tensors by our names."""
        kind = KINDS[self.kind]
        with files.filled(folder / kind.tokenizer) as scratch, quiet():
            self.tokenizer.save_pretrained(scratch)
        self.describe(folder)
        for name, config in self.configs.items():
            _write(folder / name, config)
        parts: dict[str, dict[str, Tensor]] = {}
        for name, (file, theirs) in self.places.items():
            parts.setdefault(file, {})[theirs] = state[name]
        whole = parts.pop(kind.weights) | self.more
        facts = {"others": others_sum(parts)} if parts else {}
        write_parts(folder / kind.weights, whole, {folder / file: part for file, part in parts.items()}, **facts)

    def describe(self, folder: Path) -> None:
        """Write what makes modules of sentence-transformers of files that transformers opens."""
        for name, content in (described(self.modules) | self.small).items():
            _write(folder / name, content)

    def within(self, folder: str) -> Layout:
        """The same, one folder further down."""
        return replace(
            self,
            configs={f"{folder}/{name}": content for name, content in self.configs.items()},
            modules=[(f"{folder}/{path}".rstrip("/"), kind) for path, kind in self.modules],
            small={f"{folder}/{name}": content for name, content in (described(self.modules) | self.small).items()},
            places={name: (f"{folder}/{file}", theirs) for name, (file, theirs) in self.places.items()},
        )


SETTINGS = {"similarity_fn_name": "cosine", "prompts": {}}


def described(modules: Iterable[Place]) -> dict[str, Any]:
    """The files that list the modules of sentence-transformers, by name."""
    listed = [{"idx": i, "name": str(i), "path": path, "type": TYPES + kind} for i, (path, kind) in enumerate(modules)]
    own: dict[str, Any] = {f"{path}/config.json": {} for path, kind in modules if kind == "Normalize"}
    return {MODULES: listed, "config_sentence_transformers.json": SETTINGS, **own}


def others_sum(parts: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The checksum of the tensors in other files, by file, that the head of the main one has: a save that was stopped
    between them does not pass for a whole one."""
    return sum_of({f"{file}:{name}": value for file, part in parts.items() for name, value in part.items()})


def pair_places(model: nn.Module) -> dict[str, Place]:
    """Where a `CLIPModel` of transformers, a `SiglipModel` and their like have a dual encoder's tensors."""
    heads = {"image_projection.": "visual_projection.", "text_projection.": "text_projection."}
    towers = {"image.backbone.": "vision_model.", "text.backbone.": "text_model."}
    places = {}
    for name in model.state_dict():
        theirs = name
        for ours, prefix in (heads | towers).items():
            if name.startswith(ours):
                theirs = prefix + name.removeprefix(ours).removeprefix(prefix)
        places[name] = (WEIGHTS, theirs)
    return places


def text_places(model: nn.Module) -> dict[str, Place]:
    """Where sentence-transformers has a text encoder's tensors: the tower's in the main file, those of each dense layer
    in a folder of its own."""
    places = {}
    for name in model.state_dict():
        if name.startswith("layers."):
            _, number, rest = name.split(".", 2)
            places[name] = (f"{dense_folder(int(number))}/{WEIGHTS}", rest)
        else:
            places[name] = (WEIGHTS, name.removeprefix("text.backbone."))
    return places


def tower_places(model: nn.Module) -> dict[str, Place]:
    """Where sentence-transformers has the tensors of a dual encoder's two towers and heads: each side in a folder of
    its own, `image` and `text`."""
    places: dict[str, Place] = {}
    for side in ("image", "text"):
        backbone, head = model.get_submodule(f"{side}.backbone"), model.get_submodule(f"{side}_projection")
        places |= {f"{side}.backbone.{name}": (f"{side}/{WEIGHTS}", name) for name in backbone.state_dict()}
        layers = [(name, part) for name, part in head.named_modules() if isinstance(part, nn.Linear)]
        for number, (name, layer) in enumerate(layers, start=isinstance(head, UnitLinear)):
            file, owner = f"{side}/{dense_folder(number)}/{WEIGHTS}", f"{side}_projection.{name}".rstrip(".")
            places |= {f"{owner}.{key}": (file, f"linear.{key}") for key in layer.state_dict()}
    return places


@dataclass(frozen=True)
class Kind:
    """A way to lay a model out: where its tensors are, which file of weights is written last, and in which folder the
    tokenizer lies."""

    places: Callable[[nn.Module], dict[str, Place]]
    weights: str = WEIGHTS
    tokenizer: str = ""


KINDS = {
    "clip": Kind(pair_places),
    "pair": Kind(pair_places),
    "texts": Kind(text_places),
    "towers": Kind(tower_places, f"text/{WEIGHTS}", "text"),
}


def dense_folder(number: int) -> str:
    """The folder of a dense layer, by its place after the pooling."""
    return f"{number + 2}_Dense"


def plain_config(config: Any, architecture: str, dtype: Any) -> dict[str, Any]:
    """A config of transformers as its file has it; where a checkpoint lay stays at home."""
    config = deepcopy(config)
    config.architectures, config.dtype = [architecture], dtype
    plain: dict[str, Any] = config.to_dict()
    for part in (plain, *(value for value in plain.values() if isinstance(value, dict))):
        part.pop("_name_or_path", None)
    return plain


def _write(file: Path, content: Any) -> None:
    files.folder(file.parent)
    files.write(file, json.dumps(content, indent=2, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    """JSON for what configs hold beside plain data: dtypes, enums, paths."""
    return str(value).removeprefix("torch.")
