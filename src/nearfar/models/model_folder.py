"""A model as a folder: `config.json`, `model.safetensors`, the tokenizer's files and a model card. Never pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nearfar import files
from nearfar.errors import UserError
from nearfar.models.card import card
from nearfar.models.folder_checks import REMEDY, check_config, first_line
from nearfar.models.tokenizer_files import read_tokenizer, tokenizer_sum

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"

MODELS = {
    "CommonSalientEncoder": "nearfar.models.image.common_salient_encoder",
    "ConcatDualEncoder": "nearfar.models.concat_encoder",
    "ConcatImageEncoder": "nearfar.models.concat_encoder",
    "DualEncoder": "nearfar.models.dual.dual_encoder",
    "FusionAnswerer": "nearfar.models.fusion.fusion_answerer",
    "FusionClassifier": "nearfar.models.fusion.fusion_classifier",
    "FusionModel": "nearfar.models.fusion.fusion_model",
    "ImageEncoder": "nearfar.models.image.image_encoder",
    "TextEncoder": "nearfar.models.language.text_model",
    "VideoEncoder": "nearfar.models.video.video_encoder",
}
"""The classes that can be saved, by name: each has `config()`, `from_config(config, tokenizer)` and, where it reads
texts, `tokenizer`."""


def write(folder: str | Path, model: Any, state: Mapping[str, Tensor]) -> Path:
    """Write `model` to `folder`. Every file appears whole or not at all; the weights come last."""
    import nearfar

    folder = Path(folder)
    files.folder(folder)
    config = {
        "nearfar": nearfar.__version__,
        "model": type(model).__name__,
        **({"tokenizer_sum": tokenizer_sum(model.tokenizer)} if hasattr(model, "tokenizer") else {}),
        **model.config(),
    }
    if hasattr(model, "tokenizer"):
        with files.filled(folder) as scratch:
            model.tokenizer.save_pretrained(scratch)
    files.write(folder / CONFIG, json.dumps(config, indent=2, default=_plain) + "\n")
    files.write(folder / CARD, card(model))
    write_weights(folder / WEIGHTS, state)
    return folder


def write_weights(file: Path, state: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    with files.whole(file) as scratch:
        save_file({name: _own(value) for name, value in state.items()}, scratch, metadata={"format": "pt"})


def read(folder: str | Path) -> Any:
    """The model in `folder`, with its weights, in evaluation mode.

    Raises:
        UserError: a file is missing or damaged, or does not fit the others; it is named, with the remedy.
    """
    folder = Path(folder)
    file, config = folder / CONFIG, read_config(folder)
    name, tokens = config.pop("model", None), config.pop("tokenizer_sum", None)
    if config.pop("nearfar", None) is None or not isinstance(name, str) or name not in MODELS:
        raise UserError(f"{file} is not of a model saved by nearfar: {REMEDY}")
    made = getattr(import_module(MODELS[name]), name)
    check_config(config, made, file, weights=folder / WEIGHTS)
    tokenizer = read_tokenizer(folder, tokens) if hasattr(made, "encode_text") else None
    try:
        model = made.from_config(config, tokenizer)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except Exception as error:  # transformers, timm and torch refuse settings with every kind of error
        raise UserError(f"{file} does not describe a {name} ({first_line(error)}): {REMEDY}") from error
    load_weights(model, folder / WEIGHTS)
    return model.eval()


def read_config(folder: str | Path) -> dict[str, Any]:
    """The folder's `config.json`."""
    file = Path(folder) / CONFIG
    if not file.is_file():
        raise UserError(f"{folder} holds no {CONFIG}: not a saved model")
    try:
        config = json.loads(file.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is not valid JSON (line {error.lineno}): {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid JSON: {first_line(error)}") from None
    if not isinstance(config, dict):
        raise UserError(f"{file} holds a {type(config).__name__}, not an object: {REMEDY}")
    return config


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
    except (RuntimeError, TypeError) as error:
        lines = str(error).splitlines()
        why = " ".join(line.strip() for line in lines[1:3] or lines[:1])
        raise UserError(f"{file} does not fit its {CONFIG}: {why}") from None


def load_part(model: nn.Module, file: Path, part: Mapping[str, Tensor]) -> None:
    """Load a safetensors file that holds exactly the tensors `part` of `model`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read: {first_line(error)}") from None
    mine, theirs = ({name: value.shape for name, value in tensors.items()} for tensors in (part, state))
    if mine != theirs:
        raise UserError(f"{file} does not fit this model: it is of another one")
    model.load_state_dict(state, strict=False)


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
