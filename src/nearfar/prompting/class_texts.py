"""Classes as texts: each has a name, and sentences that stand for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearfar import files, lookup
from nearfar.errors import UserError
from nearfar.prompting.prompt_templates import templates as sentences_of
from nearfar.prompting.text_files import read_texts


@dataclass(frozen=True)
class ClassTexts:
    """Class names with their sentences. What a zero-shot classifier is fitted on, and what prompt searches change.

    Args:
        names: C names.
        sentences: for each class one or more sentences; classes may have different numbers of them.

    Raises:
        UserError: no classes, or a class without a sentence.

    >>> ClassTexts.of(["cat", "dog"], "a photo of a {}").sentences
    (('a photo of a cat',), ('a photo of a dog',))
    >>> ClassTexts.from_sentences({"cat": ["it purrs", "it has whiskers"], "dog": ["it barks"]}).names
    ('cat', 'dog')
    """

    names: tuple[str, ...]
    sentences: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise UserError("there are no classes: give at least one name")
        if len(self.names) != len(self.sentences):
            raise UserError(f"{len(self.names)} class names, but sentences for {len(self.sentences)} classes")
        for name, own in zip(self.names, self.sentences, strict=True):
            if not own:
                raise UserError(f"the class {name!r} has no sentence: give it one, its name at least")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        return zip(self.names, self.sentences, strict=True)

    @classmethod
    def of(cls, names: Sequence[str], templates: str | Sequence[str] = "short") -> ClassTexts:
        """Every name put into every template (`nearfar.prompting.prompt_templates`)."""
        if isinstance(names, str):
            raise UserError(f"classes are a list of names, not {names!r}")
        forms = sentences_of(templates)
        return cls(tuple(names), tuple(tuple(form.replace("{}", name) for form in forms) for name in names))

    @classmethod
    def from_sentences(cls, sentences: Mapping[str, Sequence[str]]) -> ClassTexts:
        """Sentences of one's own for each class, as `{"cat": ["it purrs", ...]}`."""
        return cls(
            tuple(sentences), tuple((own,) if isinstance(own, str) else tuple(own) for own in sentences.values())
        )

    @classmethod
    def described(
        cls,
        descriptions: Mapping[str, str | Sequence[str]],
        template: str = "a photo of {name} . {description}",
    ) -> ClassTexts:
        """A sentence a description, with the class's name in it (arXiv 2307.03135). Underscores in names become spaces.

        Args:
            descriptions: one or more descriptions of each class, by its name.
            template: holds `{name}` and `{description}`.

        Raises:
            UserError: a template without one of them, or a class without a description.

        >>> ClassTexts.described({"desk_lamp": "it has a long arm"}).texts
        ['a photo of desk lamp . it has a long arm']
        """
        if missing := [place for place in ("{name}", "{description}") if place not in template]:
            raise UserError(f"the template {template!r} has no {missing[0]}: write where it goes")
        by_class = {name: (own,) if isinstance(own, str) else tuple(own) for name, own in descriptions.items()}
        return cls.from_sentences(
            {
                name: tuple(
                    template.replace("{name}", name.replace("_", " ")).replace("{description}", text) for text in own
                )
                for name, own in by_class.items()
            }
        )

    @classmethod
    def load(cls, path: str | Path) -> ClassTexts:
        """The classes of a JSON or YAML file: names with a text or a list of texts each, as `save` writes them, as
        `nearfar prompts` does, and as descriptions of classes are published (CuPL).

        Raises:
            UserError: the file cannot be read, or holds something else.
        """
        return cls.from_sentences(read_texts(path))

    def save(self, path: str | Path) -> Path:
        """Write a JSON file that people can read and `load` opens again: a class after the other, a line a sentence."""
        return files.write(path, json.dumps(dict(self), ensure_ascii=False, indent=1) + "\n")

    def for_names(self, names: Sequence[str], *, where: str = "") -> ClassTexts:
        """These classes, in this order.

        Raises:
            UserError: a name that is not among the classes; `where` is what the message begins with.

        >>> ClassTexts.of(["cat", "dog"], "a {}").for_names(["dog"]).texts
        ['a dog']
        """
        own: dict[str, Any] = dict(self)
        if missing := [name for name in names if name not in own]:
            others = f" and {len(missing) - 1} more classes" if len(missing) > 1 else ""
            near = lookup.near(missing[0], own)
            raise UserError(f"{where}no texts for the class {missing[0]!r}{others}.{near} Add what is missing")
        return ClassTexts(tuple(names), tuple(own[name] for name in names))

    @property
    def texts(self) -> list[str]:
        """All sentences, class after class."""
        return [sentence for own in self.sentences for sentence in own]
