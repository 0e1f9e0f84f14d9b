"""Which emojis are one concept, which split a concept falls in, and whether a text names a concept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

SALT = "nearfar-144"
"""Chosen once, so that 319 concepts are tested, in every category, and flags and clock faces are trained on. Changing
it changes every split."""

TEST, VAL = 0.20, 0.10

GENDER = {"man", "woman", "person", "men", "women", "people"}
COLOURS = {"red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white", "grey", "pink"}
LOOKS = {"large", "small", "medium", "medium-small", "hollow"}
FAMILIES = {
    "boy": "child",
    "girl": "child",
    "old": "older",
    "Mrs. Claus": "Santa Claus",
    "Mx Claus": "Santa Claus",
    "princess": "prince",
    "with crown": "prince",
}


def split_of(base: str) -> str:
    """The split of a base concept: the hash decides, so it never depends on what else is in the world."""
    share = int.from_bytes(hashlib.sha256(f"{SALT}:{base}".encode()).digest()[:8]) / 2**64
    return "test" if share < TEST else "val" if share < TEST + VAL else "train"


def base_concepts(emojis: Iterable[Mapping], alike: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The base concept of each emoji, by its hexcode. Emojis share one, and with it a split, when they differ in
    gender, skin, hair, colour, size or direction, when one is the other's face, when they are all clock faces, keycaps
    or flags, or when any style draws them the same (`alike`, pairs of hexcodes)."""
    emojis = list(emojis)
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    def join(a: str, b: str) -> None:
        a, b = sorted((root(a), root(b)))
        parent[b] = a

    for emoji in emojis:
        join(f"name:{base_name(emoji)}", f"code:{_base_code(emoji['hexcode'])}")
    for one, other in alike:
        join(f"code:{_base_code(one)}", f"code:{_base_code(other)}")
    members: dict[str, list[str]] = {}
    for emoji in emojis:
        members.setdefault(root(f"name:{base_name(emoji)}"), []).append(base_name(emoji))
    shortest = {key: min(names, key=lambda name: (len(name), name)) for key, names in members.items()}
    return {emoji["hexcode"]: shortest[root(f"name:{base_name(emoji)}")] for emoji in emojis}


def base_name(emoji: Mapping) -> str:
    """`woman cook` -> `cook`, `large blue diamond` -> `diamond`, `dog face` -> `dog`, `flag: Chad` -> `flag`."""
    name = emoji["label"]
    if emoji["group"] == 9:
        return "flag"
    if re.search("o.clock|-thirty", name):
        return "clock face"
    name = name.partition(":")[0].replace("light blue", "blue")
    if emoji["group"] not in (0, 1):
        name = name.removesuffix(" face")
    drop = (GENDER if emoji["group"] == 1 else set()) | COLOURS | LOOKS
    words = [word for word in name.split() if word not in drop]
    if words[:1] == ["and"]:  # "woman and man holding hands"
        words = words[1:]
    kept = " ".join(words)
    return FAMILIES.get(kept, kept) or ("person" if emoji["group"] == 1 else name)


def _base_code(hexcode: str) -> str:
    """The code points without variation selectors, skin tones, gender signs and directions; one code for man, woman
    and person."""
    head, *rest = hexcode.upper().split("-")
    rest = [c for c in rest if c not in ("FE0F", "2640", "2642", "27A1") and not re.fullmatch("1F3F[B-F]", c)]
    code = [head, *rest]
    code = ["1F9D1" if c in ("1F468", "1F469") else c for c in code]
    return "-".join(c for i, c in enumerate(code) if c != "200D" or i + 1 < len(code))


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text in lower case and singular, so that `Red-Apples` names `red apple`."""
    return tuple(_singular(word) for word in re.findall(r"[^\W\d_]+|\d+", text.lower()))


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("shes", "ches", "xes", "sses", "oes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


class Naming:
    """Finds which phrases occur in a text, as whole words next to one another.

    `phrases` maps each phrase to whatever it names.
    """

    def __init__(self, phrases: Iterable[tuple[str, str]]) -> None:
        self.named: dict[tuple[str, ...], set[str]] = {}
        for phrase, what in phrases:
            words = words_of(phrase)
            if words and max(map(len, words)) > 2:
                self.named.setdefault(words, set()).add(what)
        self.longest = max(map(len, self.named))

    def find(self, text: str) -> set[str]:
        words = words_of(text)
        spans = (words[i : i + n] for i in range(len(words)) for n in range(1, self.longest + 1))
        return set().union(*(self.named.get(span, set()) for span in spans))
