"""A text tower, its pooling and what follows as modules of sentence-transformers, the transformer of which AutoModel
opens."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from nearfar.errors import UserError
from nearfar.models.dual.blended import UnitLinear
from nearfar.models.shared.folder_layout import WEIGHTS, Layout, Place, dense_folder, plain_config
from nearfar.models.towers.dense_layers import Dense
from nearfar.models.towers.tokens import PROBE
from nearfar.models.weight_files import tied_names
from nearfar.modes import evaluating

POOLING = {"mean": "mean", "cls": "cls", "eos": "lasttoken", "max": "max"}
POOLING |= {"mean_sqrt_len": "mean_sqrt_len_tokens", "weighted_mean": "weightedmean"}
"""The poolings of a `TextTower`, and what sentence-transformers calls them."""
INSTEAD = "use model.encode, or nearfar export --onnx"

Step = tuple[str, nn.Linear | None, str]
"""What follows the pooling: a module's class, its layer, and that layer's activation."""


def sentence_layout(model: Any) -> Layout:
    """The files for the text side of a `TextEncoder`, a `LanguageModel` or a `DualEncoder` without adapters.

    Raises:
        UserError: a tower or head that neither library can express, with what to use instead.
    """
    with evaluating(model):
        backbone, pooling, steps = _parts(model)
    longest = int(getattr(model, "max_length", None) or model.lm.config.max_position_embeddings)
    width = backbone.config.hidden_size
    # A language model's own tokenizer may pad on the left, for prompts: texts are padded on the right.
    padded = {"tokenizer_args": {"padding_side": "right"}}
    small: dict[str, Any] = {
        "sentence_bert_config.json": {"max_seq_length": longest, "do_lower_case": False, **padded},
        "1_Pooling/config.json": {"word_embedding_dimension": width, "pooling_mode": pooling},
    }
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    owners = {id(module): name for name, module in model.named_modules()}
    places = _tensors(backbone, owners[id(backbone)], WEIGHTS)
    for number, (kind, layer, activation) in enumerate(steps):
        folder = dense_folder(number) if kind == "Dense" else f"{number + 2}_{kind}"
        modules.append((folder, kind))
        if layer is not None:
            settings: dict[str, Any] = {"in_features": layer.in_features, "out_features": layer.out_features}
            settings |= {"bias": layer.bias is not None, "activation_function": activation}
            small[f"{folder}/config.json"] = settings
            places |= _tensors(layer, owners[id(layer)], f"{folder}/{WEIGHTS}", "linear.")
    tokenizer = deepcopy(model.tokenizer)
    tokenizer.padding_side, tokenizer.model_max_length = "right", longest
    config = plain_config(backbone.config, type(backbone).__name__, next(backbone.parameters()).dtype)
    return Layout("texts", "texts", config, modules, small, tokenizer, places)


def _tensors(module: nn.Module, owner: str, file: str, prefix: str = "") -> dict[str, Place]:
    """Where a module's tensors go; those that are another's too only once, as transformers has it."""
    tied = tied_names(module)
    return {f"{owner}.{name}": (file, prefix + name) for name in module.state_dict() if name not in tied}


def _parts(model: Any) -> tuple[Any, str, list[Step]]:
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


def _layer(layer: nn.Module) -> Step:
    """A layer that followed the pooling where the model comes from."""
    if not isinstance(layer, Dense):
        return "Normalize", None, ""
    kind = type(layer.activation)
    return "Dense", layer.linear, f"{kind.__module__}.{kind.__name__}"


def _dense(head: nn.Module) -> list[Step]:
    """A projection as modules of sentence-transformers."""
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
