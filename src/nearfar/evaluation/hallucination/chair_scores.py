"""CHAIR (arXiv 1809.02156): how many of the things that captions name are not in the picture."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nearfar import files
from nearfar.errors import UserError

IRREGULAR = {"people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse", "geese": "goose"}
IRREGULAR |= {"feet": "foot", "teeth": "tooth", "oxen": "ox", "dice": "die"}
"""Plurals that no ending gives away."""


class ObjectNames:
    """The things that are looked for in texts, and what each is called.

    The longest name goes first ("hot dog" is no dog), a plural counts as its singular, case does not matter.

    Args:
        synonyms: each thing and its other names, such as `{"person": ["man", "girl"]}`; its own name is one, too.

    Raises:
        UserError: no thing, or a name of two things.

    >>> names = ObjectNames({"dog": ["puppy"], "hot dog": [], "person": ["man", "girl"]})
    >>> names.mentions("Two puppies, a hot dog and the men's dogs")
    ['dog', 'hot dog', 'person', 'dog']
    """

    def __init__(self, synonyms: Mapping[str, Iterable[str]]) -> None:
        self._thing: dict[tuple[str, ...], str] = {}
        for thing, others in synonyms.items():
            for name in (thing, *others):
                words = tuple(_words(name))
                if not words:
                    raise UserError(f"{thing!r} has a name without a word: leave it out")
                if self._thing.setdefault(words, thing) != thing:
                    raise UserError(f"{name!r} is a name of {self._thing[words]!r} and of {thing!r}: leave one out")
        if not self._thing:
            raise UserError("there is nothing to look for: name at least one thing")
        self._longest = max(map(len, self._thing))

    @classmethod
    def load(cls, path: str | Path) -> ObjectNames:
        """Those of a JSON file that maps each thing to a list of its other names.

        Raises:
            UserError: no such file, or another form.
        """
        try:
            table = json.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}: name a JSON file of things and their other names") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is no JSON file of things and their names: {files.json_fault(error)}") from None
        fits = isinstance(table, dict) and all(
            isinstance(others, list) and all(isinstance(name, str) for name in others) for others in table.values()
        )
        if not fits:
            raise UserError(f"{path}: an object that maps each thing to a list of its other names is needed")
        return cls(table)

    def thing(self, name: str) -> str | None:
        """The thing that a name is of; None where it is of none."""
        return next(iter(self.mentions(name)), None)

    def mentions(self, text: str) -> list[str]:
        """The things that a text names, each as often as it does, in order."""
        words, listed, place = _words(text), list[str](), 0
        while place < len(words):
            length, thing = self._longest_at(words, place)
            listed += [thing] if thing is not None else []
            place += length
        return listed

    def _longest_at(self, words: Sequence[str], place: int) -> tuple[int, str | None]:
        for length in range(min(self._longest, len(words) - place), 0, -1):
            *first, last = words[place : place + length]
            for single in (last, *_singulars(last)):
                if (thing := self._thing.get((*first, single))) is not None:
                    return length, thing
        return 1, None


@dataclass(frozen=True)
class ChairScores:
    """CHAIR's figures of some captions, and the counts of each that they are made of.

    Attributes:
        mentioned: things that each caption names, each as often as it does.
        invented: how many of these are not in the picture.
        present: different things in each picture.
        recalled: how many of these the caption names.
    """

    mentioned: Sequence[int]
    invented: Sequence[int]
    present: Sequence[int]
    recalled: Sequence[int]

    @property
    def chair_s(self) -> float:
        """The share of captions that name a thing that is not there."""
        return sum(count > 0 for count in self.invented) / len(self.invented)

    @property
    def chair_i(self) -> float:
        """The share of all mentions that are of things that are not there; NaN where nothing is mentioned."""
        return _share(self.invented, self.mentioned)

    @property
    def recall(self) -> float:
        """The share of all things that are there that are named; NaN where nothing is there."""
        return _share(self.recalled, self.present)


def chair_scores(texts: Sequence[str], truths: Sequence[Collection[str]], names: ObjectNames) -> ChairScores:
    """CHAIR's figures.

    Args:
        texts: captions.
        truths: the things in each picture, by any of their names.
        names: what is looked for; a truth of another name does not count.

    Raises:
        UserError: no captions, or another number of truths.

    >>> names = ObjectNames({"dog": [], "cat": []})
    >>> scores = chair_scores(["a dog and a cat", "a dog"], [{"dog"}, {"dog"}], names)
    >>> scores.chair_s, round(scores.chair_i, 4), scores.recall
    (0.5, 0.3333, 1.0)
    """
    if not len(texts) or len(texts) != len(truths):
        raise UserError(f"there are {len(texts)} captions for {len(truths)} pictures: give one for each, one at least")
    there = [{thing for name in truth if (thing := names.thing(name)) is not None} for truth in truths]
    named = [names.mentions(text) for text in texts]
    return ChairScores(
        mentioned=[len(each) for each in named],
        invented=[sum(thing not in own for thing in each) for each, own in zip(named, there, strict=True)],
        present=[len(own) for own in there],
        recalled=[len(own & set(each)) for each, own in zip(named, there, strict=True)],
    )


def _words(text: str) -> list[str]:
    """Words in lower case; a genitive is its noun."""
    return [re.sub(r"['\u2019]s?$", "", word) for word in re.findall(r"[\w'\u2019]+", text.lower().replace("_", " "))]


def _singulars(word: str) -> Iterable[str]:
    """What a word may be the plural of."""
    if word in IRREGULAR:
        yield IRREGULAR[word]
    for ending, single in (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", "")):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            yield word.removesuffix(ending) + single


def _share(part: Sequence[int], whole: Sequence[int]) -> float:
    return sum(part) / sum(whole) if sum(whole) else math.nan
