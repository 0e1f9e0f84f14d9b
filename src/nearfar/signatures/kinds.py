"""The kinds of values that settings take, by their annotations, and the sentence for a value of another kind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from nearfar.errors import UserError

WORDS: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    tuple: "a list",
    dict: "settings (name: value)",
    NoneType: "null",
}

LISTS = (Sequence, Collection, Iterable)
"""Kinds for which a list is written, where they are no text."""


def of(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function's arguments; none where they name something unknown."""
    try:
        return get_type_hints(getattr(function, "__init__", None) if isinstance(function, type) else function)
    except (NameError, TypeError):
        return {}


def check(section: str, annotated: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Raise a `UserError` for the first value that is not of the kind of its setting.

    >>> check("model", {"embed_dim": int | None}, {"embed_dim": "wide"})
    Traceback (most recent call last):
    nearfar.errors.UserError: recipe, section model: embed_dim must be a whole number or null, not 'wide'.
    """
    for name, value in values.items():
        if name in annotated:
            fitted(section, name, annotated[name], value)


def fitted(section: str, name: str, annotation: Any, value: Any) -> Any:
    """The value of a recipe's setting as its annotation wants it.

    Raises:
        UserError: a value of another kind, with the words of what it must be.
    """
    try:
        return convert(value, annotation)
    except Unfit as unfit:
        raise UserError(f"recipe, section {section}: {name}{unfit}.") from None


class Unfit(ValueError):
    """A value that does not fit its annotation: "[1] must be a number, not 'x'", to be read after the name."""


def convert(value: Any, annotation: Any) -> Any:
    """A value as its annotation wants it: whole numbers become floats, words that spell a number that number, lists
    tuples. What fits as it is stays as it is.

    Raises:
        Unfit: it does not fit.

    >>> convert("10", int | None), convert(3, float), convert([1, "2"], tuple[float, float]), convert("3", str | float)
    (10, 3.0, (1.0, 2.0), '3')
    """
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    for change in (False, True):
        for kind in kinds:
            with suppress(Unfit):
                return _as(value, kind, change=change)
    inner = [kind for kind in kinds if isinstance(value, _container(kind))]
    if len(inner) == 1:
        return _as(value, inner[0], change=True)  # says what is wrong inside
    raise _unfit(value, annotation)


def _as(value: Any, kind: Any, *, change: bool) -> Any:
    """The value as one kind; with `change` also what has to be changed to it."""
    origin = get_origin(kind) or kind
    arguments = get_args(kind)
    if origin in (Union, UnionType):
        return convert(value, kind)
    if origin is Literal:
        if value in arguments and not isinstance(value, bool):
            return value
    elif origin is NoneType:
        if value is None:
            return None
    elif origin in (int, float):
        if (number := _number(value, origin, change=change)) is not None:
            return number
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            inner = arguments[1] if len(arguments) == 2 else Any
            return {key: _inside(f".{key}", each, inner) for key, each in value.items()}
    elif origin in (list, tuple):
        if isinstance(value, list | tuple):
            return _listed(value, origin, arguments, kind)
    elif origin is Any or not isinstance(origin, type) or isinstance(value, origin):
        return value
    elif change and isinstance(value, str) and (read := _from_word(value, origin)) is not None:
        return read
    raise _unfit(value, kind)


def _number(value: Any, kind: type, *, change: bool) -> Any:
    if isinstance(value, bool):
        return None
    if isinstance(value, kind):
        return value
    if kind is float and isinstance(value, int):
        return float(value)
    if not change or not isinstance(value, float | str):
        return None
    with suppress(ValueError, OverflowError):
        if isinstance(value, str) and kind is int:
            return int(value)
        number = float(value)
        return number if kind is float else int(number) if number.is_integer() else None
    return None


def _listed(value: Sequence[Any], origin: type, arguments: tuple[Any, ...], kind: Any) -> Any:
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise _unfit(value, kind)
        each: Sequence[Any] = arguments
    else:
        each = [arguments[0] if arguments else Any] * len(value)
    return origin(_inside(f"[{i}]", item, inner) for i, (item, inner) in enumerate(zip(value, each, strict=True)))


def _inside(place: str, value: Any, annotation: Any) -> Any:
    try:
        return convert(value, annotation)
    except Unfit as unfit:
        raise Unfit(f"{place}{unfit}") from None


def _from_word(value: str, kind: type) -> Any:
    if kind is bool:
        return {"true": True, "false": False}.get(value.lower())
    return Path(value) if issubclass(kind, PurePath | PathLike) else None


def _container(kind: Any) -> type | tuple[type, ...]:
    origin = get_origin(kind) or kind
    if origin in (list, tuple):
        return (list, tuple)
    return Mapping if isinstance(origin, type) and issubclass(origin, Mapping) else ()


def _unfit(value: Any, annotation: Any) -> Unfit:
    return Unfit(f" must be {words(annotation)}, not {shown(value)}")


def words(annotation: Any) -> str:
    """What a value must be, in words.

    >>> words(int | None), words(tuple[float, float])
    ('a whole number or null', 'a list of 2 values')
    """
    return " or ".join(dict.fromkeys(_words(annotation))) or "of another kind"


def shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def refuse_classes(section: str, value: Any) -> None:
    """Raise a `UserError` for a `class_path` anywhere in a section: other tools' configurations name classes to import
    so, and a recipe is data."""
    if isinstance(value, Mapping):
        if "class_path" in value:
            raise UserError(f"recipe, section {section}: class_path names a class, and a recipe brings no code.")
        value = value.values()
    elif isinstance(value, str) and "class_path" in value:
        raise UserError(f"recipe, section {section}: class_path names a class, and a recipe brings no code.")
    elif isinstance(value, str) or not isinstance(value, Iterable):
        return
    for inner in value:
        refuse_classes(section, inner)


def _words(annotation: Any) -> list[str]:
    origin = get_origin(annotation) or annotation
    if origin in (Union, UnionType):
        return [word for kind in get_args(annotation) for word in _words(kind)]
    if origin is Literal:
        return [f"one of {', '.join(map(str, get_args(annotation)))}"]
    if origin is tuple and get_args(annotation) and get_args(annotation)[-1] is not Ellipsis:
        return [f"a list of {len(get_args(annotation))} values"]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        origin = dict
    if origin in LISTS:
        return ["a list"]
    if isinstance(origin, type) and issubclass(origin, PurePath | PathLike):
        return ["a path"]
    return [WORDS[origin]] if origin in WORDS else []
