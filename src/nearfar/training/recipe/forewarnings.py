"""What to know before a run begins: that it starts from nothing with few pairs, or trains large towers on a CPU."""

from __future__ import annotations

import time
from collections.abc import Mapping
from shlex import quote
from typing import TYPE_CHECKING, Any

from PIL import Image

from nearfar.embedding.embed_source import evaluating
from nearfar.methods.base import Method
from nearfar.training.own_data import is_own

if TYPE_CHECKING:
    from nearfar.training.recipe.recipe_file import Recipe

FEW_PAIRS, FEW_STEPS = 10_000, 1_000
"""Below these a model that starts from nothing is not expected to learn much."""

PROBE = 8
"""Pictures whose way through the tower is timed."""

BACKWARD = 2.0
"""What a backward pass costs, in forward passes."""

LONG = 600.0
"""Seconds that need no word."""


def from_nothing(recipe: Recipe, records: int | None, steps: int | None) -> str | None:
    """What to know before a model is trained from scratch on few pairs of one's own; None where it is not so."""
    if records is None or records >= FEW_PAIRS or not is_own(recipe.data.train) or not is_from_scratch(recipe.model):
        return None
    spec = recipe.data.train if isinstance(recipe.data.train, str) else recipe.data.train["spec"]
    length = "" if steps is None else f" in {steps:,} steps" + (", which are few" if steps < FEW_STEPS else "")
    return (
        f"the model is trained from scratch on {records:,} pairs{length}: so few teach little. "
        f"`nearfar adapt {quote(spec)}` starts from trained towers, takes about a minute, and gives the figure to beat"
    )


def is_from_scratch(model: Mapping[str, Any]) -> bool:
    """Whether a recipe's model has no pretrained tower.

    >>> is_from_scratch({"preset": "tiny"}), is_from_scratch({"preset": "towers"}), is_from_scratch({"load": "a/model"})
    (True, False, False)
    """
    if model.get("load") is not None or "make" in model:
        return False
    from nearfar.models import PRESETS

    preset = PRESETS.get(str(model.get("preset")), {})
    towers = [model.get(side, preset.get(side)) for side in ("image", "text")]
    named = [tower for tower in towers if isinstance(tower, str)]
    return not named or model.get("pretrained") is False


def tower_cost(method: Method, batch_size: int, chunk: int | None, steps: int) -> str | None:
    """About how long the image tower of a method's model takes on a CPU, by the way of a few grey pictures through it;
    None where that is short, where the tower is frozen, or elsewhere than on a CPU. The model stays as it is."""
    model: Any = method.encoder
    tower = getattr(model, "image", None)
    if tower is None or not hasattr(model, "freeze") or not hasattr(model, "encode_image"):
        return None
    trained = sum(p.numel() for p in tower.parameters() if p.requires_grad)
    size = getattr(model, "image_size", None)
    if not trained or not isinstance(size, int) or model.device.type != "cpu":
        return None
    pixels = model.preprocess([Image.new("RGB", (size, size), "grey")] * PROBE)
    with evaluating(model):
        model.encode_image(pixels)  # the first call sets up what later ones use
        began = time.perf_counter()
        model.encode_image(pixels)
        each = (time.perf_counter() - began) / PROBE
    again = 1 if chunk and chunk < batch_size else 0  # gradient caching embeds a batch twice
    step = each * batch_size * (1 + again + BACKWARD)
    if step * steps < LONG:
        return None
    return (
        f"the image tower is trained, too ({trained / 1e6:.1f} million weights), on a CPU: about {step:,.0f} s a step "
        f"and {duration(step * steps)} for {steps:,} steps. model.freeze=[image,text] with data.precompute=[none] "
        "trains the heads alone, in minutes"
    )


def duration(seconds: float) -> str:
    """A length of time in words.

    >>> duration(9000), duration(600), duration(20)
    ('2.5 hours', '10 minutes', '20 seconds')
    """
    hours = seconds / 3600
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{hours:,.1f} hours" if hours >= 1 else f"{seconds / 60:.0f} minutes"
