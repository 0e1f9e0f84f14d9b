"""The files of a model that transformers and sentence-transformers open, and where in them each tensor is.

Beside them lies `nearfar.json`, which neither library writes: what they save anew is read as theirs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from nearfar import files
from nearfar.models.towers.backbones import quiet
from nearfar.models.weight_files import sum_of, write_weights

WEIGHTS = "model.safetensors"
TYPES = "sentence_transformers.models."
MODULES = "modules.json"
SCALE = "logit_scale"

Place = tuple[str, str]
"""A file of weights, and a tensor's name in it."""


@dataclass(frozen=True)
class Layout:
    """How others hold a model.

    Attributes:
        kind: "clip" or "texts".
        embeds: what sentence-transformers embeds with it, in words.
        config: what transformers makes the model from.
        modules: the modules of sentence-transformers: folder and class.
        small: other small files by name, as plain data.
        tokenizer: set as those libraries use it.
        places: where each tensor of the model is, by our names.
        more: tensors that only they have, by their names.
    """

    kind: str
    embeds: str
    config: dict[str, Any]
    modules: list[Place]
    small: dict[str, Any]
    tokenizer: Any
    places: dict[str, Place]
    more: dict[str, Tensor] = field(default_factory=dict)

    def write(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """Write all files; the weights come last. `state` holds the model's tensors by our names."""
        with files.filled(folder) as scratch, quiet():
            self.tokenizer.save_pretrained(scratch)
        self.describe(folder)
        _write(folder / "config.json", self.config)
        parts: dict[str, dict[str, Tensor]] = {}
        for name, (file, theirs) in self.places.items():
            parts.setdefault(file, {})[theirs] = state[name]
        whole = parts.pop(WEIGHTS) | self.more
        for file, part in parts.items():
            write_weights(folder / file, part)
        write_weights(folder / WEIGHTS, whole, **({"others": others_sum(parts)} if parts else {}))

    def describe(self, folder: Path) -> None:
        """Write what makes modules of sentence-transformers of files that transformers opens."""
        named = enumerate(self.modules)
        modules = [{"idx": i, "name": str(i), "path": path, "type": TYPES + kind} for i, (path, kind) in named]
        for path, kind in self.modules:
            if kind == "Normalize":
                files.folder(folder / path)
        for name, content in {MODULES: modules, "config_sentence_transformers.json": SETTINGS, **self.small}.items():
            _write(folder / name, content)


SETTINGS = {"similarity_fn_name": "cosine", "prompts": {}}


def others_sum(parts: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The checksum of the tensors in other files, by file, that the head of the main one has: a save that was stopped
    between them does not pass for a whole one."""
    return sum_of({f"{file}:{name}": value for file, part in parts.items() for name, value in part.items()})


def clip_places(names: Iterable[str]) -> dict[str, Place]:
    """Where a `CLIPModel` of transformers has a dual encoder's tensors."""
    heads = {"image_projection.": "visual_projection.", "text_projection.": "text_projection."}
    towers = {"image.backbone.": "vision_model.", "text.backbone.": "text_model."}
    places = {}
    for name in names:
        theirs = name
        for ours, prefix in (heads | towers).items():
            if name.startswith(ours):
                theirs = prefix + name.removeprefix(ours).removeprefix(prefix)
        places[name] = (WEIGHTS, theirs)
    return places


def text_places(names: Iterable[str]) -> dict[str, Place]:
    """Where sentence-transformers has a text encoder's tensors: the tower's in the main file, those of each dense layer
    in a folder of its own."""
    places = {}
    for name in names:
        if name.startswith("layers."):
            _, number, rest = name.split(".", 2)
            places[name] = (f"{dense_folder(int(number))}/{WEIGHTS}", rest)
        else:
            places[name] = (WEIGHTS, name.removeprefix("text.backbone."))
    return places


def dense_folder(number: int) -> str:
    """The folder of a dense layer, by its place after the pooling."""
    return f"{number + 2}_Dense"


PLACES = {"clip": clip_places, "texts": text_places}


def plain_config(config: Any, architecture: str, dtype: Any) -> dict[str, Any]:
    """A config of transformers as its file has it; where a checkpoint lay stays at home."""
    config = deepcopy(config)
    config.architectures, config.dtype = [architecture], dtype
    plain: dict[str, Any] = config.to_dict()
    for part in (plain, *(value for value in plain.values() if isinstance(value, dict))):
        part.pop("_name_or_path", None)
    return plain


def _write(file: Path, content: Any) -> None:
    files.write(file, json.dumps(content, indent=2, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    """JSON for what configs hold beside plain data: dtypes, enums, paths."""
    return str(value).removeprefix("torch.")
