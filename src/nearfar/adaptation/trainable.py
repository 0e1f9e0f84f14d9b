"""A copy of a model that trains: with low-rank adapters on its towers, or with all its weights."""

from __future__ import annotations

import copy
from typing import get_args

from nearfar.adaptation.training_plan import Kind, Train
from nearfar.errors import UserError
from nearfar.models.dual.dual_encoder import DualEncoder


def trainable(model: DualEncoder, kind: Kind) -> DualEncoder:
    """A copy whose heads train, and of whose towers the adapters ("lora") or all weights ("towers"). A tower without a
    layer that adapters fit (EfficientNet-Lite's) stays frozen beside the other.

    Raises:
        UserError: adapters fit neither tower, or the package peft is missing.
    """
    made = copy.deepcopy(model)
    if made.adapters:
        made.merge_lora()
    made.unfreeze()
    if kind == "towers":
        return made
    refused = []
    for tower in ("image", "text"):
        try:
            made.add_lora(tower)
        except UserError as error:
            refused.append(error)
            made.freeze(tower)
    if len(refused) == 2:
        raise refused[0]
    return made


def may_train(train: Train, model: DualEncoder) -> bool:
    """Whether training may be tried.

    Raises:
        UserError: no such choice, or the model cannot be trained as it says.
    """
    if train not in get_args(Train):
        raise UserError(f"train={train!r}: choose among {', '.join(get_args(Train))}")
    if train == "auto" or train == "none":
        return train == "auto" and model.device.type != "cpu"
    if why := refusal(model, train):
        raise UserError(f"train={train}: {why}")
    return True


def refusal(model: DualEncoder, kind: Kind) -> str | None:
    """Why a model cannot be trained so; None where it can."""
    try:
        trainable(model, kind)
    except UserError as error:
        return str(error)
    return None
