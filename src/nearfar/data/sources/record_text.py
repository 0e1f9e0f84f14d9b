"""The texts of a record: its captions as they are used, and values and names as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nearfar.data.sources.record_numbers import UNSEEN
from nearfar.data.sources.skipped import BadRecord


def captions(text: Any) -> list[str]:
    """The captions in a record's `text`, stripped, without the blank ones; of lists in lists all.

    Raises:
        BadRecord: an object (a dict) stands where a caption should, and nobody said which of its fields is one.

    >>> captions([" a cat ", "", None]), captions("a dog"), captions([["a cat"], ["a dog"]]), captions(None)
    (['a cat'], ['a dog'], ['a cat', 'a dog'], [])
    """
    if isinstance(text, Mapping):
        keys = ", ".join(map(str, text)) or "none"
        raise BadRecord(
            f"its text is an object with the fields {keys}: name the one that holds the caption with a dot, "
            f"text=COLUMN.{next(iter(text), 'FIELD')}"
        )
    if isinstance(text, str) or not isinstance(text, Iterable):
        return [stripped] if text is not None and (stripped := readable(text).strip()).strip(UNSEEN) else []
    return [caption for each in text for caption in captions(each)]


def stored_captions(text: Any) -> Any:
    """The captions for a record to hold; what is none stays as it is, for its reader to refuse with its place.

    >>> stored_captions("a cat"), stored_captions({"en": "a cat"})
    (['a cat'], {'en': 'a cat'})
    """
    try:
        return captions(text)
    except BadRecord:
        return text


def field_of(value: Any, path: Sequence[str]) -> Any:
    """What lies at a path of fields inside a value; of a list, what lies there in each.

    >>> field_of({"en": "a cat", "fr": "un chat"}, ["fr"]), field_of([{"raw": "one"}, {"raw": "two"}], ["raw"])
    ('un chat', ['one', 'two'])
    """
    if not path or value is None:
        return value
    if isinstance(value, Mapping):
        return field_of(value.get(path[0]), path[1:])
    return [field_of(each, path) for each in value] if isinstance(value, list | tuple) else None


def readable(value: Any) -> str:
    """A value as text that can be written as UTF-8: half a surrogate pair, which JSON and names of files may hold, is a
    question mark; what is nested too deep to be written down is nothing.

    >>> readable("caf\\udce9"), readable(7)
    ('caf?', '7')
    """
    try:
        return str(value).encode("utf-8", "replace").decode("utf-8")
    except RecursionError:
        return ""


def words(name: str) -> str:
    """The name of a class or a file as its caption.

    >>> words("red_car-2")
    'red car 2'
    """
    return " ".join(name.replace("_", " ").replace("-", " ").split())
