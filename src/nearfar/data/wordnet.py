"""WordNet's nouns, read at run time: how far apart the names of classes are.

The Debian package `wordnet-base` holds them (WordNet licence); nothing of it ships with nearfar. Many nouns have
several paths to the root, and many hang on an instance pointer alone ("Paris"), so what is measured is said here: the
fewest steps from one noun to the other, up and down, over hypernyms and instance hypernyms, by the first sense.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from nearfar.errors import UserError

FOLDER = "/usr/share/wordnet"
"""Where the Debian package puts it."""

ENDINGS = {
    "s": "",
    "ses": "s",
    "ves": "f",
    "xes": "x",
    "zes": "z",
    "ches": "ch",
    "shes": "sh",
    "men": "man",
    "ies": "y",
}
"""How plurals are made singular, as WordNet's own look-up does."""


def distances(names: Sequence[str], *, folder: str | Path | None = None) -> Tensor:
    """`[C, C]` int64: the fewest steps between every two nouns; 0 for a noun and itself, 1 for a noun and its hypernym.

    Args:
        names: nouns ("guitar", "traffic light", plurals too), or ImageNet's ids of classes ("n02676566").
        folder: holds WordNet's `index.noun` and `data.noun`; None: where the Debian package puts them.

    Raises:
        UserError: WordNet is not there, the files are others, or a name is not among its nouns.
    """
    nouns = Nouns.of(Path(folder or FOLDER))
    above = [nouns.above(nouns.sense(name)) for name in names]
    missing = [name for name, up in zip(names, above, strict=True) if not up]
    if missing:
        listed = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise UserError(f"WordNet has no noun {listed}: rename these classes, or take another rule for pairs")
    result = torch.zeros(len(names), len(names), dtype=torch.long)
    for i, up in enumerate(above):
        for j in range(i):
            common = up.keys() & above[j].keys()
            if not common:
                raise UserError(f"WordNet has no path from {names[i]} to {names[j]}: are the files whole?")
            result[i, j] = result[j, i] = min(up[node] + above[j][node] for node in common)
    return result


class Nouns:
    """The first sense of each noun, and what stands above each sense.

    Raises:
        UserError: no `index.noun` and `data.noun` in the folder, or files of another form.
    """

    def __init__(self, folder: Path) -> None:
        index, data = folder / "index.noun", folder / "data.noun"
        if not (index.is_file() and data.is_file()):
            raise UserError(
                f"WordNet is not in {folder}: install it (`apt install wordnet-base`), or name the folder that holds "
                "its index.noun and data.noun"
            )
        try:
            self.first = dict(_first_senses(index))
            self.parents = dict(_parents(data))
        except (ValueError, IndexError) as error:
            raise UserError(
                f"{folder}: index.noun and data.noun are not WordNet's: copy them anew from WordNet 3.0 or 3.1"
            ) from error

    @staticmethod
    @lru_cache(maxsize=2)
    def of(folder: Path) -> Nouns:
        """Those of a folder, read once."""
        return Nouns(folder)

    def sense(self, name: str) -> int | None:
        """The number of a noun's first sense, or of ImageNet's id; None where it is not there."""
        if re.fullmatch(r"n\d{8}", name):
            return int(name[1:])
        lemma = re.sub(r"\s+", "_", name.strip().lower())
        singular = [lemma[: -len(end)] + other for end, other in ENDINGS.items() if lemma.endswith(end)]
        return next((self.first[word] for word in (lemma, *singular) if word in self.first), None)

    def above(self, sense: int | None) -> dict[int, int]:
        """What a sense is or is a kind of, each with the fewest steps up to it; nothing for a sense that is none."""
        steps, level = dict[int, int](), 0
        now = {sense} if sense is not None and sense in self.parents else set[int]()
        while now:
            steps |= dict.fromkeys(now, level)
            level += 1
            now = {up for node in now for up in self.parents.get(node, ())} - steps.keys()
        return steps


def _first_senses(index: Path) -> list[tuple[str, int]]:
    """lemma pos synsets pointers [symbol ...] senses tagged offset ...: the first offset is the commonest sense."""
    entries = []
    for line in _lines(index):
        words = line.split()
        entries.append((words[0], int(words[6 + int(words[3])])))
    return entries


def _parents(data: Path) -> list[tuple[int, list[int]]]:
    """offset file type words(hex) [word id ...] pointers [symbol offset pos which ...] | gloss."""
    entries = []
    for line in _lines(data):
        words = line.partition("|")[0].split()
        first = 4 + 2 * int(words[3], 16)
        pointers = words[first + 1 : first + 1 + 4 * int(words[first])]
        up = [int(pointers[i + 1]) for i in range(0, len(pointers), 4) if pointers[i] in ("@", "@i")]
        entries.append((int(words[0]), up))
    return entries


def _lines(file: Path) -> list[str]:
    """Its entries; the licence stands in lines that begin with spaces."""
    return [line for line in file.read_text("latin-1").splitlines() if line and not line.startswith(" ")]
