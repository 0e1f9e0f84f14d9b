"""Settings of a recipe that are changed from outside: `section.setting=value`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from nearfar import lookup
from nearfar.errors import UserError
from nearfar.training.config import TrainConfig
from nearfar.training.recipe.reading import parse
from nearfar.training.recipe.recipe_file import SECTIONS
from nearfar.training.recipe.sections import CREATE

OF_ANY_MAKER = ("vocab_size", "clean_captions")
"""Settings of a recipe's model that stay where another maker takes the place of the recipe's."""


def pairs_of(overrides: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Settings and their values, the model's maker first: the others may be its own."""
    if isinstance(overrides, Mapping):
        return _maker_first(list(overrides.items()))
    pairs = []
    for line in overrides:
        key, equals, value = line.partition("=")
        if not equals:
            raise UserError(f"{line!r} is no setting: write section.setting=value.")
        pairs.append((key.strip(), parse(value, line).value))
    return _maker_first(pairs)


def _maker_first(pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return sorted(pairs, key=lambda pair: not f".{pair[0]}".endswith(".model.make"))


def override(values: dict[str, dict[str, Any]], key: str, value: Any) -> None:
    """Put a value in its place among a recipe's sections; a name without a section is one of `training`."""
    section, *path = key.split(".")
    if not all([section, *path]):
        raise UserError(f"{key!r} is no setting: write section.setting=value.")
    if not path:
        known = [field.name for field in fields(TrainConfig)]
        if section not in known:
            close = lookup.near(section, known)
            raise UserError(f"{key!r}: name the section too ({', '.join(SECTIONS)}), as in data.{key}=...{close}")
        section, path = "training", [section]
    place: Any = values.setdefault(section, {})
    if (section, path) == ("model", ["load"]) and value is not None and place.get("load") is None:
        # A model to go on from takes the place of the one that the recipe makes.
        values["model"] = place = {name: place[name] for name in ("freeze", "lora") if name in place}
    if (section, path) == ("model", ["make"]) and value != place.get("make", CREATE):
        # Another maker has settings of its own.
        values["model"] = place = {name: place[name] for name in OF_ANY_MAKER if name in place}
    for name in path[:-1]:
        if isinstance(place.get(name), str) and section in ("data", "evaluation"):
            place[name] = {"spec": place[name]}  # `data.train.split=val` where `train` was a plain name
        inner = place.setdefault(name, {})
        if not isinstance(inner, dict):
            raise UserError(f"{key!r}: {name} is {inner!r}, which holds no settings such as {path[-1]!r}.")
        place = inner
    place[path[-1]] = value


def modules_of(key: str, value: Any) -> list[str]:
    """Modules of code that an override names: whoever wrote it means them."""
    if isinstance(value, Mapping):
        return [module for name, inner in value.items() for module in modules_of(f"{key}.{name}", inner)]
    names_code = key == "model.make" or (key.startswith("method.") and key.endswith(".name"))
    return [value.partition(":")[0]] if names_code and isinstance(value, str) and ":" in value else []
