"""RITUAL+ (arXiv 2405.17821, second version): the model, and not chance, chooses the transform of a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from nearfar.decoding.conditions.condition_runs import ConditionRun
from nearfar.modes import evaluating

Selector = Callable[[Any, Image.Image, str, Mapping[str, Image.Image]], str]
"""`selector(model, picture, question, transformed)`: the name of one of the transformed pictures."""


def most_certain(model: Any, picture: Image.Image, question: str, transformed: Mapping[str, Image.Image]) -> str:
    """The transform under which the model doubts least how its answer begins: by the entropy of the next token. How
    the paper's model rates transforms was not readable to those who wrote this; this asks for no words, so that a
    model that follows no instructions can do it, too.

    Args:
        model: a `nearfar.models.VisionLanguageModel`.
        picture: the picture itself, which is not looked at.
        question: what the answer goes on from.
        transformed: the picture under each transform.

    Returns:
        Its name; the first of equal ones.
    """
    with evaluating(model):
        pixels = model.preprocess(list(transformed.values()))
        inputs, mask = model.beginning(pixels, question)
        entropies = entropy(ConditionRun(model.lm, {"inputs_embeds": inputs, "attention_mask": mask}).next_logits())
    return list(transformed)[int(entropies.argmin())]


def entropy(logits: Tensor) -> Tensor:
    """The entropy `[...]`, in nats, float32 or wider, of the next token under logits `[..., V]`, floating point.

    >>> entropy(torch.zeros(2, 4)).exp()
    tensor([4., 4.])
    """
    log_shares = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return -(log_shares.exp() * log_shares).nan_to_num(0.0).sum(-1)
