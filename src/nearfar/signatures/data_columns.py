"""The columns of the data that a command reads: one definition and one help for all commands."""

from __future__ import annotations

from argparse import Namespace
from typing import Any, Literal, TypedDict


class Columns(TypedDict, total=False):
    """Options of `nearfar.data.open_source` that say what the columns of a table or dataset hold, or the endings of a
    shard's members. Those not named are guessed by their usual names.

    Args:
        image: the column of pictures, where it has another name.
        text: the column of captions, where it has another name; a field inside it is COLUMN.FIELD.
        label: the column of classes, where it has another name.
        answers: the column of answers to the question in `text`, where it has another name.
        group: the column that is equal for records that match, where it has another name.
        domain: the column of domains (drawing styles, say), where it has another name.
        captions: none reads pictures alone; of a folder txt, class or name say where captions come from, where the
            guess is wrong.
        unit: of running text (text:FILE) what a record is: passages (the default), lines or sentences.
    """

    image: str | None
    text: str | None
    label: str | None
    answers: str | None
    group: str | None
    domain: str | None
    captions: Literal["txt", "class", "name", "none"] | None
    unit: Literal["passages", "lines", "sentences"] | None


CAPTIONS = ("txt", "class", "name", "none")
"""What `captions` may be."""

NAMES = tuple(Columns.__annotations__)


def of(args: Namespace | dict[str, Any]) -> dict[str, Any]:
    """The columns that were named."""
    values = args if isinstance(args, dict) else vars(args)
    return {name: values[name] for name in NAMES if values.get(name) is not None}
