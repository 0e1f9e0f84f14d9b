"""Find a recipe and read it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from nearfar import trust as trusted
from nearfar.errors import UserError
from nearfar.recipes import comment_of, shipped
from nearfar.training.own_data import follow
from nearfar.training.recipe.lines import located, sections
from nearfar.training.recipe.overrides import modules_of, override, pairs_of
from nearfar.training.recipe.reading import read
from nearfar.training.recipe.recipe_file import SECTIONS, checked_recipe
from nearfar.training.recipe.staged_recipe import STAGES, check_alone, load_stages


def load(
    path_or_name: str | Path, overrides: Sequence[str] | Mapping[str, Any] = (), *, trust: Collection[str] = ()
) -> Any:
    """Read a recipe and check it: a `Recipe`, or a `StagedRecipe` where it has `stages`. Both have `as_yaml` and `run`.

    Args:
        path_or_name: a YAML file, a run folder, or the name of a shipped recipe (`nearfar recipes` lists them).
        overrides: `section.setting=value` lines, or a mapping of the same; a name without a section is one of
            `training`. In a recipe of stages it is for all of them, `stages.NAME.section.setting=value` for one.
        trust: modules outside nearfar that the recipe may name (`method.name: my_module:Mine`, `model.make`). Those
            that an override names are trusted, too.

    A shipped recipe whose `data.train` is overridden by other data than the world's validates and measures on a tenth
    of them, and its batch and length follow their number, as far as the overrides do not say otherwise.

    Raises:
        UserError: no such recipe, not YAML, an unknown section or setting, a value of the wrong type, code of a module
            that is not trusted.
    """
    path = find(path_or_name)
    text, document = read(path)
    if not isinstance(document.value, dict):
        fault = "is empty" if document.value is None else "is not a recipe"
        raise UserError(f"{path} {fault}: a recipe must hold the sections {', '.join(SECTIONS)}.")
    name = path.parent.name if path.name == "config.yaml" else path.stem
    about, pairs, trust = comment_of(text), pairs_of(overrides), list(trusted.names(trust))
    is_shipped = shipped().get(name) == path
    if STAGES in document.value:
        return load_stages(path, name, about, document, pairs, trust, is_shipped=is_shipped)
    values = sections(str(path), document.value, document.lines)
    for key, value in pairs:
        if key.partition(".")[0] == STAGES:
            raise UserError(f"{key!r}: {path} has no stages.")
        override(values, key, value)
    trust += [module for key, value in pairs for module in modules_of(key, value)]
    follows = follow(values, [key for key, _ in pairs]) if is_shipped else ()
    with located(path, document.lines, pairs):
        recipe = checked_recipe(name, about, values, trust, follows)
        check_alone(recipe)
        return recipe


def find(path_or_name: str | Path) -> Path:
    """The file of a recipe, by path, run folder or name."""
    path, known = Path(path_or_name), shipped()
    if path.is_dir() and (path / "config.yaml").is_file():
        return path / "config.yaml"
    if path.is_file():
        return path
    if str(path_or_name) in known:
        return known[str(path_or_name)]
    if path.is_dir():
        raise UserError(f"{path} is no run folder: it holds no config.yaml. Name a recipe's file, or another folder.")
    if path.exists():
        raise UserError(f"{path} is no regular file: name a recipe's file, or a run folder.")
    raise UserError(
        f"no recipe {str(path_or_name)!r}: there is no such file, and the recipes that come with nearfar are "
        f"{', '.join(known)}."
    )
