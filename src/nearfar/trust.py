"""Which code a data file may name: what nearfar lists itself, and modules that the user trusts by name.

A recipe and a run folder's `config.yaml` are data, and come from others. A name `module:object` in them runs code, so
it counts only where the user named that module: `--trust my_module` on the command line, `trust=["my_module"]` in
Python.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from importlib import import_module
from typing import Any

from nearfar import lookup
from nearfar.errors import UserError
from nearfar.files import why


def find(setting: str, name: Any, known: Mapping[str, str], trust: Collection[str] = ()) -> Any:
    """The object that a setting names: one of `known`, or `module:object` of a trusted module.

    Args:
        setting: the setting, for messages: `recipe, method.name`.
        name: what it says.
        known: nearfar's own by name, each as `module:object`; either spelling finds it.
        trust: modules that the user named; a package stands for its modules too.

    Raises:
        UserError: no such name, a module that is not trusted, nothing of that name in it.

    >>> find("maker", "json:loads", {}, trust=["json"]).__name__
    'loads'
    """
    if not isinstance(name, str):
        raise UserError(f"{setting} must be a name, not {name!r}; there are: {', '.join(known)}")
    if name in known or name in known.values():
        module, _, item = known.get(name, name).partition(":")
        return getattr(import_module(module), item)
    if ":" not in name:
        like = lookup.near(name, known)
        raise UserError(f"no {setting} {name!r}.{like} There are: {', '.join(known)} (or your own, as module:name)")
    module, _, item = name.partition(":")
    if not (is_module(module) and item.isidentifier()):
        raise UserError(f"{setting}: no {name!r} (write module:name)")
    if is_within(module, ["nearfar"]):
        raise UserError(f"{setting}: {name!r} is none of nearfar's own; there are: {', '.join(known)}")
    if not is_within(module, trust):
        raise UserError(
            f"{setting}: {name!r} is code outside nearfar, which runs only where you name its module yourself: add "
            f'--trust {module} (in Python, trust=["{module}"]), once you have read that code'
        )
    return _imported(setting, name, module, item, trust)


def names(values: Collection[str]) -> tuple[str, ...]:
    """The modules that a user trusts, checked.

    >>> names(["my_module", "a.b"])
    ('my_module', 'a.b')
    """
    for value in (values,) if isinstance(values, str) else values:
        if not (isinstance(value, str) and is_module(value) and not value.endswith(".py")):
            near = str(value).partition(":")[0].removesuffix(".py")
            hint = f"; here, {near}" if is_module(near) else ""
            raise UserError(f"trust: {value!r} is no module's name: write it as in `import my_module`{hint}")
    return tuple(dict.fromkeys((values,) if isinstance(values, str) else values))


def is_module(name: str) -> bool:
    """Whether it reads as the dotted name of a module."""
    return all(part.isidentifier() for part in name.split("."))


def is_within(module: str, packages: Collection[str]) -> bool:
    """Whether a module is one of `packages`, or in one of them.

    >>> is_within("nearfar.ops", ["nearfar"]), is_within("nearfarther", ["nearfar"])
    (True, False)
    """
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _imported(setting: str, name: str, module: str, item: str, trust: Collection[str]) -> Any:
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # the command itself does not search there; last, so that no file hides a package
    try:
        imported = getattr(import_module(module), item)
    except (ImportError, AttributeError) as error:
        fault = why(error, f"{module} cannot be imported, or has no {item!r}")
        raise UserError(f"{setting}: no {name!r} (write module:name): {fault}") from error
    # A module's own imports are no part of it: `my_module:run` must not reach what it took from `subprocess`.
    home = getattr(imported, "__module__", None)
    if not (callable(imported) and isinstance(home, str) and is_within(home, trust)):
        raise UserError(f"{setting}: {name!r} is no class or function that {module} defines itself")
    return imported
