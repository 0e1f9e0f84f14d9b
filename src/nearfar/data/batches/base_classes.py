"""Data of some classes alone, the base, where a model is to name others, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nearfar import lookup
from nearfar.data.sources.source import Record, Source
from nearfar.errors import UserError


def base_classes(source: Any, base: float | Sequence[str]) -> Source:
    """The records of some classes, with labels from 0 on; `other_classes` of what comes back names the others.

    Args:
        source: data whose records have a `label`, and which names its classes.
        base: the names of the classes; or the share of the classes, from the first one on (in the papers on learned
            prompts half of them).

    Raises:
        UserError: a stream, data without names of classes, no such class, no record of these, or none of others.

    >>> from nearfar.data import Records
    >>> pets = Records([{"text": t, "label": i} for i, t in enumerate("abc")], classes=["cat", "dog", "bird"])
    >>> some = base_classes(pets, ["bird", "cat"])
    >>> [(record["text"], record["label"]) for record in some], some.classes, some.other_classes
    ([('a', 1), ('c', 0)], ['bird', 'cat'], ['dog'])
    """
    if not isinstance(source, Source):
        raise UserError(f"{source.name} is a stream, which cannot be parted into classes: take other data")
    names = list(source.classes or ())
    if not names:
        raise UserError(f"{source.name} names no classes: use class folders, or name the column with label=NAME")
    if isinstance(base, int | float):
        chosen = names[: max(1, round(base * len(names)))]
    else:
        chosen = list(dict.fromkeys(base))
        lookup.check("class", chosen, names, where=f"{source.name}: ")
    others = [name for name in names if name not in set(chosen)]
    number = {names.index(name): i for i, name in enumerate(chosen)}
    places = [place for place, label in enumerate(source.column("label")) if label in number]
    if not places or not others:
        held = "no record of these classes" if not places else "no other class"
        raise UserError(f"{source.name} holds {held}: {', '.join(chosen[:9])}")

    def renumbered(record: Record) -> Record:
        return {**record, "label": number[record["label"]]}

    made = source.select(places, name=f"{source.name} ({len(chosen)} classes)").map(renumbered)
    made.classes, made.other_classes = chosen, others
    return made
