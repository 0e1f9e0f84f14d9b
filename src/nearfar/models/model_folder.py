"""A model as a folder: `config.json`, `model.safetensors`, the tokenizer's files and a model card. Never pickle.

A model that other libraries have, too, has their files, and what is ours to say in `nearfar.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nearfar import files
from nearfar.errors import UserError
from nearfar.files import why
from nearfar.models.folder_checks import REMEDY, check_config
from nearfar.models.shared.folder_layout import BIAS, KINDS, MODULES, SCALE, Kind, Layout, others_sum
from nearfar.models.tokenizer_files import read_tokenizer, tokenizer_sum
from nearfar.models.weight_files import read_weights, tied_names, write_weights

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
OURS = "nearfar.json"
"""What `config.json` says else, where that is another library's."""
TOWERS = {"image": "image.onnx", "text": "text.onnx"}
"""Of a model that was exported (`nearfar.models.exported`), by what they read."""
LAYOUTS = {"DualEncoder": ("pair_layout", "towers_layout"), "TextEncoder": ("sentence_layout",)}
"""Of the classes that others may have: the modules in `shared` and the functions in them, needed in saving alone. The
first that has the model is taken."""

MODELS = {
    "CommonSalientEncoder": "nearfar.models.image.common_salient_encoder",
    "ConcatDualEncoder": "nearfar.models.concat_encoder",
    "ConcatImageEncoder": "nearfar.models.concat_encoder",
    "Detector": "nearfar.models.detection.detector",
    "DualEncoder": "nearfar.models.dual.dual_encoder",
    "FusionAnswerer": "nearfar.models.fusion.fusion_answerer",
    "FusionClassifier": "nearfar.models.fusion.fusion_classifier",
    "FusionModel": "nearfar.models.fusion.fusion_model",
    "GroundedEncoder": "nearfar.models.grounded.grounded_encoder",
    "ImageEncoder": "nearfar.models.image.image_encoder",
    "InterleavedModel": "nearfar.models.vlm.interleaved.interleaved_model",
    "LVLMEmbedder": "nearfar.models.vlm.lvlm_embedder",
    "LabelMatcher": "nearfar.models.language.label_matcher",
    "PromptedEncoder": "nearfar.models.prompts.prompted_encoder",
    "RelationEncoder": "nearfar.models.grounded.relation_encoder",
    "SearchEncoder": "nearfar.models.grounded.search_encoder",
    "SoundEncoder": "nearfar.models.sound.sound_encoder",
    "SoundTranscriber": "nearfar.models.sound.sound_transcriber",
    "TextEncoder": "nearfar.models.language.text_model",
    "VideoEncoder": "nearfar.models.video.video_encoder",
    "VisionLanguageModel": "nearfar.models.vlm.vision_language_model",
}
"""The classes that can be saved, by name: each has `config()`, `from_config(config, tokenizer)` and, where it reads
texts, `tokenizer`."""


def write(folder: str | Path, model: Any, state: Mapping[str, Tensor]) -> Path:
    """Write `model` to `folder`. Every file appears whole or not at all; the weights come last."""
    import nearfar
    from nearfar.models.card import card

    folder = files.folder(Path(folder))
    layout = shared_layout(model)
    config = {
        "nearfar": nearfar.__version__,
        "model": type(model).__name__,
        **({"layout": layout.kind} if layout else {}),
        **({"tokenizer_sum": tokenizer_sum(model.tokenizer)} if hasattr(model, "tokenizer") else {}),
        **model.config(),
    }
    files.write(folder / CARD, card(model))
    content = json.dumps(config, indent=2, default=_plain) + "\n"
    if layout is not None:
        files.write(folder / OURS, content)
        layout.write(folder, state)
        if "config.json" not in layout.configs:
            _remove(folder, CONFIG, WEIGHTS)
        return folder
    if hasattr(model, "tokenizer"):
        with files.filled(folder) as scratch:
            model.tokenizer.save_pretrained(scratch)
    files.write(folder / CONFIG, content)
    _remove(folder, OURS, MODULES)
    write_weights(folder / WEIGHTS, state)
    return folder


def _remove(folder: Path, *names: str) -> None:
    """Remove the files of a model that was here before, and that others had, or had otherwise."""
    for name in names:
        (folder / name).unlink(missing_ok=True)


def shared_layout(model: Any) -> Layout | None:
    """The files under which other libraries have the very same model; None where they have none."""
    names = LAYOUTS.get(type(model).__name__)
    if names is None or model.config().get("adapters") or type(model).__module__ != MODELS[type(model).__name__]:
        return None
    for name in names:
        make: Callable[[Any], Layout] = getattr(import_module(f"nearfar.models.shared.{name}"), name)
        with suppress(UserError):
            return make(model)
    return None


def is_ours(folder: str | Path) -> bool:
    """Whether nearfar saved what is in a folder."""
    return (Path(folder) / OURS).is_file() or "nearfar" in read_config(folder)


def is_exported(folder: str | Path) -> bool:
    """Whether a folder holds an exported tower, and no model that is opened otherwise."""
    folder = Path(folder)
    return any((folder / name).is_file() for name in TOWERS.values()) and not (folder / CONFIG).is_file()


def read(folder: str | Path) -> Any:
    """The model in `folder`, with its weights, in evaluation mode.

    Raises:
        UserError: a file is missing or damaged, or does not fit the others; it is named, with the remedy.
    """
    folder = Path(folder)
    file, config = _config_file(folder), read_config(folder)
    name, tokens, layout = (config.pop(key, None) for key in ("model", "tokenizer_sum", "layout"))
    if config.pop("nearfar", None) is None or not isinstance(name, str) or name not in MODELS:
        raise UserError(f"{file} is not of a model saved by nearfar: {REMEDY}")
    if layout is not None and (not isinstance(layout, str) or layout not in KINDS):
        raise UserError(f"{file}: layout is {str(layout)[:60]!r}: choose one of {', '.join(KINDS)}")
    kind = KINDS[layout] if layout else None
    made = getattr(import_module(MODELS[name]), name)
    check_config(config, made, file, weights=sorted(folder.glob(f"*/{WEIGHTS}" if layout == "towers" else WEIGHTS)))
    words = folder / kind.tokenizer if kind else folder
    tokenizer = read_tokenizer(words, tokens) if hasattr(made, "tokenize") else None
    try:
        model = made.from_config(config, tokenizer)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except Exception as error:  # transformers, timm and torch refuse settings with every kind of error
        raise UserError(
            f"{file} does not describe a {name} ({why(error, 'its settings do not go together')}): {REMEDY}"
        ) from error
    _load(model, folder, kind)
    return model.eval()


def read_config(folder: str | Path) -> dict[str, Any]:
    """What the folder's `nearfar.json`, else its `config.json`, says."""
    file = _config_file(Path(folder))
    if not file.is_file():
        raise UserError(f"{folder} holds no {CONFIG}: not a saved model")
    try:
        config = json.loads(file.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is not valid JSON: {why(error, '')}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid JSON: {why(error, 'it cannot be read')}") from error
    if not isinstance(config, dict):
        raise UserError(f"{file} holds a {type(config).__name__}, not an object: {REMEDY}")
    return config


def _config_file(folder: Path) -> Path:
    return folder / OURS if (folder / OURS).is_file() else folder / CONFIG


def _load(model: nn.Module, folder: Path, kind: Kind | None) -> None:
    """Load the folder's weights, which are exactly those of `model`."""
    file, tied = folder / (kind.weights if kind else WEIGHTS), tied_names(model)
    state = read_weights(file)[0] if kind is None else _from_others(model, folder, kind, tied)
    try:
        model.load_state_dict(state, assign=True)  # assigned, so that precision is kept
    except (RuntimeError, TypeError) as error:
        own = model.state_dict()
        other = [name for name in own if name not in state or state[name].shape != own[name].shape]
        first = next(iter(other + [name for name in state if name not in own]), "a tensor")
        raise UserError(
            f"{file} does not fit its {_config_file(folder).name}: {first} is missing in one, or of another shape: "
            f"{REMEDY}"
        ) from error
    for name, first in tied.items():
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, model.get_parameter(first))


def _from_others(model: nn.Module, folder: Path, kind: Kind, tied: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors by our names, of files that have them under others'."""
    places = {name: place for name, place in kind.places(model).items() if name not in tied}
    ours = {place: name for name, place in places.items()}
    held, facts = {}, {}
    for file in sorted({file for file, _ in places.values()}):
        held[file], facts[file] = read_weights(folder / file)
    beside = {file: tensors for file, tensors in held.items() if file != kind.weights}
    if beside and facts[kind.weights].get("others") != others_sum(beside):
        raise UserError(f"{', '.join(map(str, beside))} in {folder} does not go with its {kind.weights}: {REMEDY}")
    state = {ours.get((file, name), name): value for file, tensors in held.items() for name, value in tensors.items()}
    for name in (SCALE, BIAS):  # temperature and offset, which are the config's
        state.pop(name, None)
    return state | {name: state[first] for name, first in tied.items() if first in state}


def _plain(value: Any) -> Any:
    """JSON for what configs hold beside plain data: dtypes, enums, paths."""
    return str(value).removeprefix("torch.")
