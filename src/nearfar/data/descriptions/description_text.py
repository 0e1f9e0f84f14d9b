"""One text of a description, for a sentence encoder: always the same, and no longer than the encoder reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

from nearfar.data.descriptions.scene_description import ObjectDescription, SceneDescription
from nearfar.errors import UserError

Form = Literal["phrases", "json"]
Join = Literal["scene-first", "halves"]


class DescriptionText(NamedTuple):
    """A text, its tokens, and what the limit cost: words of the scene and objects that are not in it."""

    text: str
    tokens: int
    words_left_out: int = 0
    objects_left_out: int = 0

    @property
    def is_cut(self) -> bool:
        return self.words_left_out + self.objects_left_out > 0


def description_text(
    description: SceneDescription,
    *,
    form: Form = "phrases",
    join: Join = "scene-first",
    tokens: int | None = None,
    count: Callable[[str], int] | None = None,
) -> DescriptionText:
    """The text of a description: the scene, then its objects, as `"{scene} Objects: {phrase}; {phrase}"`.

    Whole words and whole objects are left out, from the end, until it has no more than `tokens`.

    Args:
        description: what is written.
        form: "phrases", or the description's "json", whose brackets and quotes take many tokens.
        join: where there is too much for the limit: "scene-first" (the paper's order) leaves to the objects what the
            scene does not need; "halves" keeps half of the tokens for them, if they need so many.
        tokens: the limit; None for none. The paper's is 256.
        count: the number of tokens of a text, as `token_counter` makes one of an encoder; by default its words.

    Raises:
        UserError: no such form or join, or a limit that not even an empty text keeps.

    >>> scene = SceneDescription("a quiet street", (ObjectDescription("car"), ObjectDescription("dog")))
    >>> description_text(scene).text
    'a quiet street Objects: car; dog'
    >>> description_text(scene, tokens=4), description_text(scene, tokens=4, join="halves").text
    (DescriptionText(text='a quiet street', tokens=3, words_left_out=0, objects_left_out=2), 'a quiet Objects: car')
    """
    for name, value, known in (("form", form, Form), ("join", join, Join)):
        if value not in get_args(known):
            raise UserError(f"{name}={value!r}: choose {' or '.join(get_args(known))}")
    count = _words if count is None else count
    words, objects = description.scene.split(), description.objects
    write = _phrases if form == "phrases" else _json

    def fits(scene: int, of_objects: int, limit: int) -> bool:
        return count(write(words[:scene], objects[:of_objects])) <= limit

    if tokens is not None and not fits(len(words), len(objects), tokens):
        if not fits(0, 0, tokens):
            raise UserError(f"tokens={tokens}: an empty text has {count(write([], ()))} already; allow more")
        kept = 0 if join == "scene-first" else min(count(write([], objects)), tokens // 2)
        in_scene = _most(len(words), lambda number: fits(number, 0, max(tokens - kept, count(write([], ())))))
        in_objects = _most(len(objects), lambda number: fits(in_scene, number, tokens))
    else:
        in_scene, in_objects = len(words), len(objects)
    text = write(words[:in_scene], objects[:in_objects])
    return DescriptionText(text, count(text), len(words) - in_scene, len(objects) - in_objects)


def token_counter(encoder: Any) -> Callable[[str], int]:
    """The number of an encoder's tokens of a text, with those that begin and end it, however long it is.

    Raises:
        UserError: the encoder has no tokenizer of transformers.
    """
    tokenizer = getattr(encoder, "tokenizer", None)
    if not callable(tokenizer):
        raise UserError(f"a {type(encoder).__name__} has no tokenizer to count by: name an encoder of texts")
    return lambda text: len(tokenizer(text, truncation=False, verbose=False)["input_ids"])


def _words(text: str) -> int:
    return len(text.split())


def _phrases(words: Sequence[str], objects: Sequence[ObjectDescription]) -> str:
    listed = "; ".join(each.phrase for each in objects)
    return " ".join([*words, *(["Objects:", listed] if listed else [])])


def _json(words: Sequence[str], objects: Sequence[ObjectDescription]) -> str:
    return SceneDescription(" ".join(words), tuple(objects)).to_json()


def _most(count: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `count` for which it fits, where 0 does and more never fits better."""
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
