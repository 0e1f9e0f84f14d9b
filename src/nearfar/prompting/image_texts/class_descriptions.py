"""Descriptions of classes, with the shortened form of each where there is one (GIST, arXiv 2307.11315)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearfar import lookup
from nearfar.errors import UserError
from nearfar.prompting.text_files import checked_texts, read_mapping

Texts = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class ClassDescriptions:
    """What a picture of each class may look like, in sentences: a model compares pictures with `texts`, and pairs are
    made with `short`, where only what can be seen is left and a tokenizer reads to the end.

    Args:
        names: C classes.
        texts: of each class its descriptions; a class may have none.
        short: of each class the shortened form of each, in the same order.

    Raises:
        UserError: no class has a description, or a class has other numbers of texts and short forms.

    >>> cats = ClassDescriptions.of({"tabby": ["It has stripes on its back."]}, {"tabby": ["striped back"]})
    >>> cats.captions(0)
    ('tabby: striped back',)
    """

    names: tuple[str, ...]
    texts: Texts
    short: Texts

    def __post_init__(self) -> None:
        if not any(self.texts):
            raise UserError("no class has a description: give at least one")
        for name, own, short in zip(self.names, self.texts, self.short, strict=True):
            if len(own) != len(short):
                raise UserError(
                    f"the class {name!r} has {len(own)} descriptions and {len(short)} short ones: write one short form "
                    "of each, in the same order"
                )

    @classmethod
    def of(
        cls, texts: Mapping[str, Any], short: Mapping[str, Any] | None = None, *, where: str = "", where_short: str = ""
    ) -> ClassDescriptions:
        """Of mappings from names to a text or a list of texts; a class without short forms keeps its texts. The same
        description of a class counts once.

        Args:
            texts: by class.
            short: by class, as many as `texts`, in the same order; None: there are none.
            where, where_short: what messages on either begin with.
        """
        own, forms = _by_name(texts, where), _by_name(short or {}, where_short)
        if strange := [name for name in forms if name not in own]:
            near = lookup.near(strange[0], own)
            raise UserError(f"{where_short}short forms of {strange[0]!r}, which has no descriptions.{near}")
        pairs: list[tuple[str, dict[str, str]]] = []
        for name, listed in own.items():
            reduced = forms.get(name, listed)
            if len(reduced) != len(listed):
                cls((name,), (listed,), (reduced,))  # says so
            kept: dict[str, str] = {}
            for text, form in zip(listed, reduced, strict=True):
                kept.setdefault(text, form)
            pairs.append((name, kept))
        return cls(
            tuple(name for name, _ in pairs),
            tuple(tuple(each) for _, each in pairs),
            tuple(tuple(each.values()) for _, each in pairs),
        )

    @classmethod
    def load(cls, path: str | Path, short: str | Path | None = None) -> ClassDescriptions:
        """The descriptions of a JSON or YAML file that maps classes to texts, as CuPL's and GIST's are published, and
        their shortened forms of another file of that kind.

        Raises:
            UserError: a file cannot be read or holds something else, or the two do not fit together.
        """
        forms = None if short is None else read_mapping(short)
        return cls.of(read_mapping(path), forms, where=f"{path}, ", where_short=f"{short}, ")

    @classmethod
    def generated(cls, names: Sequence[str], describe: Callable[[str], Sequence[str]]) -> ClassDescriptions:
        """What a function, a language model of yours say, writes of each class.

        >>> ClassDescriptions.generated(["tabby"], lambda name: [f"a {name} with stripes"]).texts
        (('a tabby with stripes',),)
        """
        return cls.of({name: list(describe(name)) for name in names})

    def for_names(
        self, names: Sequence[str], *, needed: Collection[str] | None = None, where: str = ""
    ) -> ClassDescriptions:
        """These classes, in this order. A name is found as it is, or where it is written otherwise: in another case,
        with `_` or `-` for blanks, with a number and a dot before it, as CUB's `001.Black_footed_Albatross`.

        Args:
            names: the classes of the data.
            needed: those that must have descriptions; by default all.
            where: what the message begins with.

        Raises:
            UserError: one of `needed` has no descriptions, or its name fits two that are written alike.
        """
        places = {name: place for place, name in enumerate(self.names)}
        alike: dict[str, list[int]] = {}
        for name, place in places.items():
            alike.setdefault(name_key(name), []).append(place)
        chosen = []
        for name in names:
            fits = [places[name.strip()]] if name.strip() in places else alike.get(name_key(name), [])
            if len(fits) > 1:
                first, second = (self.names[place] for place in fits[:2])
                raise UserError(f"{where}the class {name!r} may be {first!r} or {second!r}: write it as the data does")
            chosen.append(fits[0] if fits else None)
        there = {name for name, place in zip(names, chosen, strict=True) if place is not None and self.texts[place]}
        if missing := [name for name in (names if needed is None else needed) if name not in there]:
            others = f" and {len(missing) - 1} more classes" if len(missing) > 1 else ""
            near = lookup.near(missing[0], self.names)
            raise UserError(f"{where}no descriptions of the class {missing[0]!r}{others}.{near} Add what is missing")
        return ClassDescriptions(
            tuple(names),
            tuple(() if place is None else self.texts[place] for place in chosen),
            tuple(() if place is None else self.short[place] for place in chosen),
        )

    def captions(self, number: int) -> tuple[str, ...]:
        """What pictures of a class are trained with: its name in words, a colon, and the short form of each text."""
        name = plain_name(self.names[number])
        return tuple(f"{name}: {text}" for text in self.short[number])


def plain_name(name: str) -> str:
    """The name of a class in words.

    >>> plain_name("001.Black_footed_Albatross"), plain_name("707-320 "), plain_name("3.5 inch disk")
    ('Black footed Albatross', '707-320', '3.5 inch disk')
    """
    return " ".join(re.sub(r"^\s*\d+\.(?=[^\W\d])", "", name).replace("_", " ").split())


def name_key(name: str) -> str:
    """What two spellings of one name have in common."""
    return plain_name(plain_name(name).replace("-", " ")).casefold()


def _by_name(texts: Mapping[str, Any], where: str) -> dict[str, tuple[str, ...]]:
    """Texts by names without blanks around them, each as often as it stands there."""
    own: dict[str, tuple[str, ...]] = {}
    for written, each in texts.items():
        name = written.strip()
        if name in own:
            raise UserError(f"{where}the name {name!r} stands there twice: put its texts in one list")
        checked_texts(each, f"{where}{name!r}")
        own[name] = tuple(text.strip() for text in ([each] if isinstance(each, str) else each))
    return own
