"""A folder that sentence-transformers opens, and AutoModel of transformers: the same embeddings, or a refusal.

A dual encoder on CLIP's towers and with its heads goes out whole, as the CLIP that it is. Of another the text tower
does: the transformer, its pooling, and the projection as dense layers. No code goes with it, and no pictures: its image
tower and heads are none that sentence-transformers has.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nearfar import files
from nearfar.errors import UserError
from nearfar.export.clip_folder import as_clip, write_clip
from nearfar.models.card import card
from nearfar.models.dual.blended import UnitLinear
from nearfar.models.model_folder import write_weights
from nearfar.models.towers.backbones import quiet
from nearfar.models.towers.dense_layers import Dense
from nearfar.models.towers.tokens import PROBE
from nearfar.modes import evaluating

POOLING = {"mean": "mean", "cls": "cls", "eos": "lasttoken"}
"""The poolings of a `TextTower`, and what sentence-transformers calls them."""
INSTEAD = "use model.encode, or nearfar export --onnx"
TYPES = "sentence_transformers.models."


def export_sentence_encoder(model: Any, out: str | Path, *, name: str = "a model") -> str:
    """Write a folder for `SentenceTransformer(out)`, whose `encode` gives what `model.encode` gives (to 1e-5), and for
    `AutoModel.from_pretrained(out)`, which gives the transformer in it.

    Args:
        model: a `TextEncoder`, a `LanguageModel` or a `DualEncoder`.
        out: the folder; what is there is replaced.
        name: what to call the model in the card.

    Returns:
        What is in the folder, in a sentence.

    Raises:
        UserError: a tower or head that neither library can express, with what to use instead.
    """
    if getattr(model, "adapters", None):
        model = deepcopy(model).merge_lora()
    with files.new_folder(Path(out)) as scratch, evaluating(model):
        modules, said = _write(model, scratch)
        layout = [
            {"idx": i, "name": str(i), "path": path, "type": TYPES + kind} for i, (path, kind) in enumerate(modules)
        ]
        _write_json(scratch / "modules.json", layout)
        _write_json(scratch / "config_sentence_transformers.json", {"similarity_fn_name": "cosine", "prompts": {}})
        if modules[0][1] == "Transformer":
            longest = {"max_seq_length": _longest(model), "do_lower_case": False}
            _write_json(scratch / "sentence_bert_config.json", longest)
        about = (
            f'Exported by nearfar for sentence-transformers: it embeds {said}. `SentenceTransformer("this/folder")`.'
        )
        files.write(scratch / "README.md", card(model, title=name, about=about))
    return f"it embeds {said}"


def _write(model: Any, folder: Path) -> tuple[list[tuple[str, str]], str]:
    """Both sides where they are a CLIP's, else the text side: modules by folder, and what is embedded, in words."""
    if not hasattr(model, "encode_image"):
        return _write_texts(model, folder), "texts"
    try:
        write_clip(model, as_clip(model), folder)
    except UserError as why:
        for path in folder.iterdir():  # of a folder begun for both sides
            path.unlink()
        return _write_texts(model, folder), f"texts alone; for pictures {INSTEAD}: {why}"
    return [("", "CLIPModel")], "texts and pictures"


def _write_texts(model: Any, folder: Path) -> list[tuple[str, str]]:
    """The text side: modules by folder."""
    backbone, pooling, head = _parts(model)
    with quiet():
        backbone.save_pretrained(folder)
        tokenizer = deepcopy(model.tokenizer)
        tokenizer.padding_side, tokenizer.model_max_length = "right", _longest(model)
        tokenizer.save_pretrained(folder)
    width = backbone.config.hidden_size
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, "pooling_mode": pooling})
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    for kind, layer, activation in head:
        place = f"{len(modules)}_{kind}"
        modules.append((place, kind))
        files.folder(folder / place)
        if layer is not None:
            settings: dict[str, Any] = {"in_features": layer.in_features, "out_features": layer.out_features}
            settings |= {"bias": layer.bias is not None, "activation_function": activation}
            _write_json(folder / place / "config.json", settings)
            state = {f"linear.{name}": value for name, value in layer.state_dict().items()}
            write_weights(folder / place / "model.safetensors", state)
    return modules


def _parts(model: Any) -> tuple[Any, str, list[tuple[str, nn.Linear | None, str]]]:
    """The transformer of texts, how it is pooled, and what comes after that."""
    if hasattr(model, "lm"):
        return model.lm, "mean", []
    tower: Any = getattr(model, "text", None)
    if not hasattr(tower, "pooling") or not hasattr(tower, "fixed_length"):
        raise UserError(f"the text side of a {type(model).__name__} is no plain text tower: {INSTEAD}")
    if tower.fixed_length:
        raise UserError(
            f"a {type(tower.backbone).__name__} reads its padding, which sentence-transformers leaves out: {INSTEAD}"
        )
    from transformers import MODEL_MAPPING

    if type(tower.backbone.config) not in MODEL_MAPPING:
        raise UserError(f"a {type(tower.backbone).__name__} is none that AutoModel makes: {INSTEAD}")
    layers = getattr(model, "layers", None)
    after = _dense(getattr(model, "text_projection", nn.Identity())) if layers is None else list(map(_layer, layers))
    return tower.backbone, _pooling(model, tower), after


def _pooling(model: Any, tower: Any) -> str:
    """The pooling of sentence-transformers that gives the tower's own summaries: CLIP's, say, is its last token."""
    if tower.pooling in POOLING:
        return POOLING[tower.pooling]
    tokens = model.tokenize(list(PROBE))
    own, as_it_was = tower(tokens)[:, 0], tower.pooling
    try:
        for ours, theirs in POOLING.items():
            tower.pooling = ours
            if torch.allclose(tower(tokens)[:, 0], own, rtol=1e-5, atol=1e-5):
                return theirs
    finally:
        tower.pooling = as_it_was
    raise UserError(
        f"a {type(tower.backbone).__name__} pools by layers of its own, which sentence-transformers has not: {INSTEAD}"
    )


def _layer(layer: nn.Module) -> tuple[str, nn.Linear | None, str]:
    """A layer that followed the pooling where the model comes from."""
    if not isinstance(layer, Dense):
        return "Normalize", None, ""
    kind = type(layer.activation)
    return "Dense", layer.linear, f"{kind.__module__}.{kind.__name__}"


def _dense(head: nn.Module) -> list[tuple[str, nn.Linear | None, str]]:
    """A projection as modules of sentence-transformers: kind, layer, activation."""
    plain, gelu = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.GELU"
    layers = [
        each for each in (head if isinstance(head, nn.Sequential) else [head]) if not isinstance(each, nn.Dropout)
    ]
    match layers:
        case [nn.Identity()]:
            return []
        case [UnitLinear() as layer]:
            return [("Normalize", None, ""), ("Dense", layer, plain)]
        case [nn.Linear() as layer]:
            return [("Dense", layer, plain)]
        case [nn.Linear() as first, nn.GELU(), nn.Linear() as second]:
            return [("Dense", first, gelu), ("Dense", second, plain)]
    raise UserError(
        f"its text head is a {type(head).__name__}, as nearfar.adapt makes it, which sentence-transformers has not: "
        f"{INSTEAD}"
    )


def _longest(model: Any) -> int:
    return int(getattr(model, "max_length", None) or model.lm.config.max_position_embeddings)


def _write_json(file: Path, content: Any) -> None:
    files.write(file, json.dumps(content, indent=2) + "\n")
