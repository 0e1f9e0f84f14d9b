"""The method of a recipe, and whether it fits the model and the data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from nearfar import methods
from nearfar import trust as trusted
from nearfar.errors import UserError
from nearfar.methods.base import Method
from nearfar.training.loop.setting_checks import check_evaluation, check_method
from nearfar.training.recipe.sections import named

if TYPE_CHECKING:
    from nearfar.training.recipe.recipe_data import OpenedData
    from nearfar.training.recipe.recipe_file import Recipe


def chosen(settings: Mapping[str, Any], trust: Collection[str]) -> tuple[type[Method], dict[str, Any]]:
    """A method's class and settings; an ensemble gets its members' class, too."""
    others = {name: value for name, value in settings.items() if name != "name"}
    if isinstance(of := others.get("of"), Mapping) and "name" in of:
        others["of"] = {**of, "name": methods.find(of["name"], trust)}
    return methods.find(settings["name"], trust), others


def build_method(
    recipe: Recipe, kind: type[Method], settings: Mapping[str, Any], parts: list[Any], opened: OpenedData
) -> Method:
    """The method of a recipe around its model (`parts` is empty where it takes none), and whether they fit."""
    for model in parts:
        check_made(model, kind)
    with named("method"):
        method = kind(*parts, **settings)
    check_method(recipe.training, method)
    check_evaluation(recipe.evaluation, data=opened.held_out, validation=opened.validated_on, model=method.encoder)
    return method


def check_made(model: Any, kind: type[Method]) -> None:
    """A maker of the user's own must have made a model: one that encodes, unless the method is the user's own, too."""
    encodes = hasattr(model, "lm") or any(name.startswith("encode_") for name in dir(model))
    if not isinstance(model, nn.Module):
        raise UserError(f"recipe, model.make gave a {type(model).__name__}: it must return a model (a torch module).")
    if not encodes and trusted.is_within(kind.__module__, ["nearfar"]):
        raise UserError(
            f"recipe, model.make gave a {type(model).__name__}, which encodes nothing: {kind.__name__} needs a model "
            "with encode_image, encode_text or the like."
        )
