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


BROKEN = {"torchvision": "nms", "torchaudio": "load"}
"""Packages that are often of another build than torch, and a word of the error that they then end in."""

NO_NETWORK = {"ConnectionError", "ConnectError", "ConnectTimeout", "LocalEntryNotFoundError", "OfflineModeIsEnabled"}
NO_SUCH_NAME = {
    *("RepositoryNotFoundError", "DatasetNotFoundError", "HFValidationError", "EntryNotFoundError"),
    *("RevisionNotFoundError", "GatedRepoError"),
}
"""Kinds of errors of the hub's client, by name, so that nothing is imported to tell them."""


def why(error: BaseException, otherwise: str) -> str:
    """What an error of another library means, in words of our own: its text may speak of things that the user never
    named. Raise `from` the error, so that a traceback still shows it.

    Args:
        error: what was raised; what caused it is looked at, too.
        otherwise: what to say where its kind says nothing.

    >>> why(ModuleNotFoundError("No module named 'tiktoken'", name="tiktoken"), "it is damaged")
    "the package 'tiktoken' is missing: install it"
    >>> why(RuntimeError("header too large"), "it is damaged")
    'it is damaged'
    """
    from json import JSONDecodeError

    from nearfar.files import json_fault, remedy

    if isinstance(error, UserError):
        return str(error)
    for package, sign in BROKEN.items():
        if package in str(error) and sign in str(error):
            return (
                f"the {package} that is installed does not fit torch and breaks transformers: install the one that "
                f"does, or pip uninstall {package}, which nearfar does not need"
            )
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"the package {error.name.partition('.')[0]!r} is missing: install it"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "it does not fit into the memory: free some, or take a smaller one"
    if isinstance(error, (JSONDecodeError, UnicodeDecodeError, RecursionError)):
        return json_fault(error)
    chain, each = list[BaseException](), error
    while each is not None and each not in chain:
        chain.append(each)
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)  # type: ignore[assignment]
    kinds = {kind.__name__ for each in chain for kind in type(each).__mro__}
    if kinds & NO_NETWORK:
        return "the hub cannot be reached, and nothing of this name is kept here: check the network, or name a folder"
    if kinds & NO_SUCH_NAME:
        return "there is no such folder here, nor such a name on the hub that you may read: check how it is written"
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{error.filename} is missing"
    return remedy(error) or otherwise


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
