"""What prompts are made of: templates for all classes, and of each class its names and descriptions (ProAPO, arXiv
2502.19844). Written once, by people, by a language model, or taken from the data's own texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nearfar import lookup
from nearfar.errors import UserError
from nearfar.prompting.template_library import BASE, expand_templates
from nearfar.prompting.text_files import checked_texts, read_mapping

KEYS = ("templates", "types", "labels", "descriptions", "join")
"""What a library's file may hold. A file of anything else holds descriptions by class."""


class Item(NamedTuple):
    """One way to speak of a class: what it is called, and a description, "" for none."""

    label: str
    description: str


@dataclass(frozen=True)
class PromptLibrary:
    """Texts to choose from.

    Args:
        names: the classes, each once, in the order of their numbers.
        templates: sentences with `{}`; the first is the plain one that others are compared with.
        types: words for what the classes are (bird, wildlife), for more templates (`expand_templates`).
        descriptions: sentences on each class, by name. A class may have none, and others than `names` are left out.
        labels: further names of each class, by name.
        join: what stands between a template's sentence, without its full stop where `join` begins with a comma, and a
            description: ", which has " for lists of features.

    Raises:
        UserError: no classes, a name twice, a template without `{}`, or texts of classes none of which is there.

    >>> library = PromptLibrary(("cat", "dog"), ("a photo of a {}.",), descriptions={"cat": ("A cat purrs.",)})
    >>> [library.sentence("a photo of a {}.", item) for item in library.items("cat")]
    ['a photo of a cat.', 'a photo of a cat. A cat purrs.']
    """

    names: tuple[str, ...]
    templates: tuple[str, ...] = BASE
    types: tuple[str, ...] = ()
    descriptions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    join: str = " "

    def __post_init__(self) -> None:
        if isinstance(self.names, str) or not self.names:
            raise UserError(f"a library is of classes: give a list of names, not {self.names!r}")
        if len(set(self.names)) != len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise UserError(f"the class {twice!r} is there twice: texts of a class are known by its name")
        expand_templates(self.templates, self.types)
        for kind, texts in (("descriptions", self.descriptions), ("labels", self.labels)):
            if texts and not set(texts) & set(self.names):
                first = next(iter(texts))
                raise UserError(
                    f"the library's {kind} are of none of the classes: its {first!r} is not among them."
                    f"{lookup.near(first, self.names)} Write the classes as the data does"
                )

    @classmethod
    def load(cls, path: str | Path, names: Sequence[str]) -> PromptLibrary:
        """The library of a JSON or YAML file for these classes.

        The file holds some of `templates` and `types` (lists), `descriptions` and `labels` (a list by class) and
        `join`; or it maps classes to descriptions and nothing else, as such files are published (CuPL).

        Raises:
            UserError: the file cannot be read, or holds something else.
        """
        held = read_mapping(path)
        if not set(held) <= set(KEYS):
            held = {"descriptions": held}
        by_class: dict[str, Any] = {}
        for key in ("descriptions", "labels"):
            own = held.get(key) or {}
            if not isinstance(own, Mapping):
                raise UserError(f"{path}, {key!r}: map each class to its texts, as {{'cat': ['it purrs']}}")
            by_class[key] = {str(name): checked_texts(texts, f"{path}, {name!r}") for name, texts in own.items()}
        templates, types = (
            checked_texts(held[key], f"{path}, {key!r}") if held.get(key) else usual
            for key, usual in (("templates", BASE), ("types", ()))
        )
        if not isinstance(held.get("join", " "), str):
            raise UserError(f"{path}, 'join': write the text between a sentence and a description")
        return cls(tuple(names), templates, types, **by_class, join=held.get("join", " "))

    @classmethod
    def from_captions(cls, names: Sequence[str], captions: Iterable[tuple[str, str]]) -> PromptLibrary:
        """A library whose descriptions are captions of each class's pictures, joined by a comma.

        Args:
            names: the classes.
            captions: pairs of a class's name and a caption.

        >>> captions = [("cat", "Cat"), ("cat", "it purrs"), ("cat", "it purrs")]
        >>> PromptLibrary.from_captions(["cat"], captions).descriptions
        {'cat': ('it purrs',)}
        """
        own: dict[str, dict[str, None]] = {name: {} for name in names}
        for name, caption in captions:
            if caption.strip() and caption.strip().lower() != name.lower():
                own[name][caption.strip()] = None
        return cls(tuple(names), descriptions={name: tuple(texts) for name, texts in own.items() if texts}, join=", ")

    @property
    def all_templates(self) -> tuple[str, ...]:
        """The templates with those of the types, the plain one first."""
        return expand_templates(self.templates, self.types)

    @property
    def described(self) -> int:
        """How many of the classes have descriptions."""
        return sum(bool(self.descriptions.get(name)) for name in self.names)

    def items(self, name: str) -> tuple[Item, ...]:
        """All ways to speak of a class, its name alone first: its names, each without and with each description. A
        description that has the class's name in it gets the other name in its place."""
        forms = dict.fromkeys((name, *self.labels.get(name, ())))
        descriptions = ("", *self.descriptions.get(name, ()))
        made = (Item(form, _renamed(text, name, form)) for form in forms for text in descriptions)
        return tuple(dict.fromkeys(made))

    def sentence(self, template: str, item: Item) -> str:
        """A class's item in a template."""
        said = template.replace("{}", item.label)
        if not item.description:
            return said
        return (said.removesuffix(".") if self.join.startswith(",") else said) + self.join + item.description


def _renamed(text: str, name: str, form: str) -> str:
    if form == name or not text:
        return text
    return re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", lambda _: form, text, flags=re.IGNORECASE)
