"""Finding a thing by its name, and the one sentence for a name that is not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from nearfar.errors import UserError

T = TypeVar("T")


def find(kind: str, name: str, known: Mapping[str, T]) -> T:
    """`known[name]`.

    Raises:
        UserError: it is not there; the message lists what is.

    >>> find("template", "shrot", {"short": 7, "full": 80})
    Traceback (most recent call last):
    nearfar.errors.UserError: no template 'shrot'. Did you mean 'short'? There are: short, full
    """
    check(kind, [name], known)
    return known[name]


def check(kind: str, names: Iterable[str], known: Iterable[str], *, where: str = "") -> None:
    """Raise a `UserError` for the first of `names` that is not `known`.

    Args:
        kind: the kind of thing: "protocol".
        names: as the user wrote them.
        known: as they are called.
        where: what the message begins with: "recipe, section data: ".
    """
    known = list(known)
    for name in names:
        if name not in known:
            raise UserError(f"{where}no {kind} {name!r}.{near(name, known)} There are: {', '.join(known) or 'none'}")


def near(name: object, known: Iterable[str]) -> str:
    """The question whether the known name that is most like it was meant; "" where none is like it.

    >>> near("shrot", ["short", "full"]), near("x", ["short"])
    (" Did you mean 'short'?", '')
    """
    like = get_close_matches(str(name), list(known), 1)
    return f" Did you mean {like[0]!r}?" if like else ""
