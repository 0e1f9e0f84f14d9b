"""A text tower, its pooling and what follows as modules of sentence-transformers, the transformer of which AutoModel
opens."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from nearfar.errors import UserError
from nearfar.models.dual.blended import UnitLinear
from nearfar.models.shared.folder_layout import WEIGHTS, Layout, Place, dense_folder, plain_config
from nearfar.models.tokenizer_files import check_class
from nearfar.models.towers.dense_layers import Dense
from nearfar.models.towers.tokens import PROBE
from nearfar.models.weight_files import tied_names
from nearfar.modes import evaluating

POOLING = {"mean": "mean", "cls": "cls", "eos": "lasttoken", "max": "max"}
POOLING |= {"mean_sqrt_len": "mean_sqrt_len_tokens", "weighted_mean": "weightedmean"}
"""The poolings of a `TextTower`, and what sentence-transformers calls them."""
OWN = "own"
"""In place of a pooling: what the transformer pools itself."""
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
    if not hasattr(model, "lm"):  # which lies as transformers has it in any case
        check_class(model.tokenizer, str(backbone.config.model_type))
    longest = int(getattr(model, "max_length", None) or model.lm.config.max_position_embeddings)
    width = backbone.config.hidden_size
    # A language model's own tokenizer may pad on the left, for prompts: texts are padded on the right.
    padded = {"tokenizer_args": {"padding_side": "right"}}
    lengths: dict[str, Any] = {"max_seq_length": longest, "do_lower_case": False, **padded}
    small: dict[str, Any] = {"sentence_bert_config.json": lengths}
    modules = [("", "Transformer")]
    add_pooling(pooling, width, "text", modules, small)
    owners = {id(module): name for name, module in model.named_modules()}
    places = _tensors(backbone, owners[id(backbone)], WEIGHTS)
    for folder, layer in add_steps(steps, modules, small):
        places |= _tensors(layer, owners[id(layer)], f"{folder}/{WEIGHTS}", "linear.")
    tokenizer = deepcopy(model.tokenizer)
    tokenizer.padding_side, tokenizer.model_max_length = "right", longest
    config = plain_config(backbone.config, type(backbone).__name__, next(backbone.parameters()).dtype)
    return Layout("texts", "texts", {"config.json": config}, modules, small, tokenizer, places)


def add_pooling(pooling: str, width: int, reads: str, modules: list[Place], small: dict[str, Any]) -> None:
    """Add a pooling to the modules that a transformer of texts or pictures begins, and to their small files: a module
    of its own, or the transformer's own pooled output."""
    if pooling != OWN:
        modules.append(("1_Pooling", "Pooling"))
        small["1_Pooling/config.json"] = {"word_embedding_dimension": width, "pooling_mode": pooling}
    states, into = (
        ("pooler_output", "sentence_embedding") if pooling == OWN else ("last_hidden_state", "token_embeddings")
    )
    if pooling == OWN or reads != "text":
        reading = {reads: {"method": "forward", "method_output_name": states}}
        small["sentence_bert_config.json"] |= {"modality_config": reading, "module_output_name": into}


def add_steps(steps: Sequence[Step], modules: list[Place], small: dict[str, Any]) -> list[tuple[str, nn.Linear]]:
    """Add what follows the pooling to the modules and their small files; returns the layers and their folders."""
    layers = []
    for number, (kind, layer, activation) in enumerate(steps):
        folder = dense_folder(number) if kind == "Dense" else f"{number + 2}_{kind}"
        modules.append((folder, kind))
        if layer is not None:
            settings: dict[str, Any] = {"in_features": layer.in_features, "out_features": layer.out_features}
            settings |= {"bias": layer.bias is not None, "activation_function": activation}
            small[f"{folder}/config.json"] = settings
            layers.append((folder, layer))
    return layers


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
    after = (
        head_steps(getattr(model, "text_projection", nn.Identity()), "text")
        if layers is None
        else list(map(_layer, layers))
    )
    return tower.backbone, _pooling(model, tower), after


def _pooling(model: Any, tower: Any) -> str:
    """The pooling of sentence-transformers that gives the tower's own summaries: CLIP's, say, is its last token, and
    BERT's its own pooled output."""
    if tower.pooling in POOLING:
        return POOLING[tower.pooling]
    if any(type(parameter).__name__ == "DTensor" for parameter in tower.parameters()):
        raise UserError("its weights are split over processes, so that nothing can be tried on one of them")
    tokens = model.tokenize(list(PROBE))
    own, as_it_was = tower(tokens)[:, 0], tower.pooling
    try:
        for ours, theirs in POOLING.items():
            tower.pooling = ours
            if torch.allclose(tower(tokens)[:, 0], own, rtol=1e-5, atol=1e-5):
                return theirs
    finally:
        tower.pooling = as_it_was
    if tower.pooling == "tower":
        return OWN
    raise UserError(
        f"a {type(tower.backbone).__name__} pools by layers of its own, which sentence-transformers has not: {INSTEAD}"
    )


def _layer(layer: nn.Module) -> Step:
    """A layer that followed the pooling where the model comes from."""
    if not isinstance(layer, Dense):
        return "Normalize", None, ""
    kind = type(layer.activation)
    return "Dense", layer.linear, f"{kind.__module__}.{kind.__name__}"


def head_steps(head: nn.Module, side: str) -> list[Step]:
    """A projection as modules of sentence-transformers; `side` names it in errors."""
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
        f"its {side} head is a {type(head).__name__}, as nearfar.adapt makes it, which sentence-transformers has not: "
        f"{INSTEAD}"
    )
