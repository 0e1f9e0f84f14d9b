"""The kinds of values that settings take, by their annotations, and the sentence for a value of another kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

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
        if name in annotated and not _fits(value, annotated[name]):
            complain(section, name, annotated[name], value)


def complain(section: str, name: str, annotation: Any, value: Any) -> NoReturn:
    """Say what a setting must be."""
    words = " or ".join(dict.fromkeys(_words(annotation))) or "of another kind"
    raise UserError(f"recipe, section {section}: {name} must be {words}, not {value!r}.")


def refuse_classes(section: str, value: Any) -> None:
    """Raise a `UserError` for a `class_path` anywhere in a section: to jsonargparse, which checks the types, it names
    a class to import, and a recipe is data."""
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


def _fits(value: Any, annotation: Any) -> bool:
    origin = get_origin(annotation) or annotation
    if origin in (Union, UnionType):
        return any(_fits(value, kind) for kind in get_args(annotation))
    if origin is Literal:
        return value in get_args(annotation)
    if origin is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is Any or not isinstance(origin, type):
        return True
    return isinstance(value, origin)


def _words(annotation: Any) -> list[str]:
    origin = get_origin(annotation) or annotation
    if origin in (Union, UnionType):
        return [word for kind in get_args(annotation) for word in _words(kind)]
    if origin is Literal:
        return [f"one of {', '.join(map(str, get_args(annotation)))}"]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        origin = dict
    return [WORDS[origin]] if origin in WORDS else []
