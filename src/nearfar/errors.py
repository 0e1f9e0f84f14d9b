"""Errors that a user can mend, and the one way to require an optional dependency."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class UserError(ValueError):
    """Something the user can mend: the message names the file, row or argument and the remedy. The command line
    prints it without a traceback. It is a ValueError, too, so that `except ValueError` around a call catches it."""


def need(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    >>> need("json", "search").__name__
    'json'
    >>> need("no_such_module", "search")
    Traceback (most recent call last):
    nearfar.errors.UserError: this needs the package 'no_such_module': pip install "nearfar[search]"
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        package = module.partition(".")[0]
        raise UserError(f'this needs the package {package!r}: pip install "nearfar[{extra}]"') from None


def at_least(least: int, **values: int | None) -> None:
    """Raise `UserError` for the first of `values` that is below `least`; None passes.

    >>> at_least(1, batch_size=64, limit=None)
    >>> at_least(1, batch_size=0)
    Traceback (most recent call last):
    nearfar.errors.UserError: batch_size is 0, but must be 1 or more
    """
    for name, value in values.items():
        if value is not None and value < least:
            raise UserError(f"{name} is {value}, but must be {least} or more")
