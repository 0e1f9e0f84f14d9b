"""A model as a folder: `config.json`, `model.safetensors` and the tokenizer's files. Never pickle."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nearfar import files
from nearfar.errors import UserError

WEIGHTS, CONFIG = "model.safetensors", "config.json"

MODELS = {
    "DualEncoder": "nearfar.models.dual_encoder",
    "FusionAnswerer": "nearfar.models.fusion_answerer",
    "FusionClassifier": "nearfar.models.fusion_classifier",
    "FusionModel": "nearfar.models.fusion_model",
}
"""The classes that can be saved, by name: each has `config()`, `from_config(config, tokenizer)` and `tokenizer`."""


def write(folder: str | Path, model: Any, state: Mapping[str, Tensor]) -> Path:
    """Write `model` to `folder`. Every file appears whole or not at all; the weights come last."""
    import nearfar

    folder = Path(folder)
    files.folder(folder)
    config = {"nearfar": nearfar.__version__, "model": type(model).__name__, **model.config()}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
        model.tokenizer.save_pretrained(scratch)
        for file in Path(scratch).iterdir():
            files.write(folder / file.name, file.read_bytes())
    files.write(folder / CONFIG, json.dumps(config, indent=2, default=_plain) + "\n")
    write_weights(folder / WEIGHTS, state)
    return folder


def write_weights(file: Path, state: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    with files.whole(file) as scratch:
        save_file({name: _own(value) for name, value in state.items()}, scratch, metadata={"format": "pt"})


def read(folder: str | Path) -> Any:
    """The model in `folder`, with its weights, in evaluation mode."""
    from transformers import AutoTokenizer

    folder = Path(folder)
    config = read_config(folder)
    if config.pop("nearfar", None) is None or config.get("model") not in MODELS:
        raise UserError(f"{folder / CONFIG} is not of a model saved by nearfar")
    name = config.pop("model")
    made = getattr(import_module(MODELS[name]), name)
    model = made.from_config(config, AutoTokenizer.from_pretrained(folder))
    load_weights(model, folder / WEIGHTS)
    return model.eval()


def read_config(folder: str | Path) -> dict[str, Any]:
    """The folder's `config.json`."""
    file = Path(folder) / CONFIG
    if not file.is_file():
        raise UserError(f"{folder} holds no {CONFIG}: not a saved model")
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is not valid JSON (line {error.lineno}): {error.msg}") from None


def load_weights(model: nn.Module, file: Path) -> None:
    """Load a safetensors file whose tensors are exactly those of `model`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise UserError(f"{file} is missing: the model's weights")
    try:
        # Assigned, so that precision is kept; cloned, because tensors that lie at odd addresses of the mapped file
        # take other kernels, whose last bits differ.
        state = {name: value.clone() for name, value in load_file(file).items()}
        tied = _tied(model)
        model.load_state_dict(state, assign=True)
        for name, first in tied.items():
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, model.get_parameter(first))
    except SafetensorError as error:
        raise UserError(f"{file} is damaged: {error}") from None
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise UserError(f"{file} does not fit its {CONFIG}: {' '.join(line.strip() for line in lines[1:3])}") from None


def _tied(model: nn.Module) -> dict[str, str]:
    """Names of parameters that are another's too, and that other's: T5's embedding has two."""
    first: dict[nn.Parameter, str] = {}
    return {
        name: first[parameter]
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if first.setdefault(parameter, name) != name
    }


def _own(value: Tensor) -> Tensor:
    """A copy in memory of its own: safetensors refuses tensors that share storage."""
    return value.detach().to("cpu", copy=True).contiguous()


def _plain(value: Any) -> Any:
    """JSON for what configs hold beside plain data: dtypes, enums, paths."""
    return str(value).removeprefix("torch.")
