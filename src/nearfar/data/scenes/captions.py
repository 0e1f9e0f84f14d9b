"""What is said of a scene: true captions, and for some of them a false one that differs in one swap."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from nearfar.data.scenes.draw import SeededDraw
from nearfar.data.scenes.layout import INVERSE, SceneObject

PHRASES = {
    "left of": ("left of", "to the left of", "on the left side of"),
    "right of": ("right of", "to the right of", "on the right side of"),
    "above": ("above", "higher than", "over"),
    "below": ("below", "lower than", "under"),
    "inside": ("inside", "in the middle of", "surrounded by"),
    "around": ("around", "surrounding", "all around"),
    "bigger than": ("bigger than", "larger than"),
    "smaller than": ("smaller than", "tinier than"),
}
_FRAMES = (
    "{a} {r} {b}",
    "there is {a} {r} {b}",
    "a picture of {a} {r} {b}",
    "{a} is {r} {b}",
)
_SOUND_AS_CONSONANT = ("uni", "ewe", "eu", "one-")


class Caption(NamedTuple):
    """A true caption, and the false one that swaps one thing in it, with the kind of the swap ("" where there is
    none)."""

    true: str
    false: str = ""
    kind: str = ""


def describe(things: list[SceneObject], relation: str | None, draw: SeededDraw) -> list[Caption]:
    """The captions of a scene, the fullest first."""
    if relation is None:
        return _alone(things, draw)
    first, second, *others = things
    frame, phrase, back = draw.one(_FRAMES), draw.one(PHRASES[relation]), draw.one(PHRASES[INVERSE[relation]])
    rest = f", with {' and '.join(indefinite(thing) for thing in others)}" if others else ""

    def full(a: SceneObject, b: SceneObject) -> str:
        return frame.format(a=indefinite(a), r=phrase, b=indefinite(b)) + rest

    def related(a: SceneObject, b: SceneObject) -> str:
        return f"the {a.name} is {phrase} the {b.name}"

    def both(a: SceneObject, b: SceneObject) -> str:
        return f"the {_named(a)} and the {_named(b)}"

    def turned_round(a: SceneObject, b: SceneObject) -> str:
        return f"{indefinite(b)} {back} {indefinite(a)}"

    swapped = _swap_adjectives(first, second)
    pairs = [
        Caption(full(first, second), full(*swapped), "attribution"),
        Caption(related(first, second), related(second, first), "relation"),
        Caption(both(first, second), both(*swapped), "attribution"),
        Caption(turned_round(first, second), turned_round(second, first), "relation"),
    ]
    # Things without attributes of their own have none to swap.
    return [pair if pair.true != pair.false else Caption(pair.true) for pair in pairs]


def _alone(things: list[SceneObject], draw: SeededDraw) -> list[Caption]:
    (thing,) = things
    frame = draw.one(("{a}", "a picture of {a}", "there is {a}"))
    return [Caption(frame.format(a=indefinite(thing))), Caption(f"the {_named(thing)}")]


def _swap_adjectives(one: SceneObject, other: SceneObject) -> tuple[SceneObject, SceneObject]:
    def with_attributes_of(thing: SceneObject, described: SceneObject) -> SceneObject:
        return replace(thing, colour=described.colour, size=described.size, turned=described.turned)

    return with_attributes_of(one, other), with_attributes_of(other, one)


def _named(thing: SceneObject) -> str:
    return " ".join(word for word in (thing.size, thing.turned, thing.colour, thing.name) if word)


def indefinite(thing: SceneObject) -> str:
    """The thing and its attributes with "a" or "an".

    >>> indefinite(SceneObject("cat", colour="orange")), indefinite(SceneObject("unicorn"))
    ('an orange cat', 'a unicorn')
    """
    words = _named(thing)
    vowel = words[0].lower() in "aeiou" and not words.lower().startswith(_SOUND_AS_CONSONANT)
    return f"{'an' if vowel or words.lower().startswith('hour') else 'a'} {words}"
