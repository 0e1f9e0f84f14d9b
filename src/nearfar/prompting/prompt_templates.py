"""Sentences that a class name is put into before it is embedded as a text."""

from __future__ import annotations

from collections.abc import Sequence

from nearfar.errors import UserError

NAME = ("{}",)

SHORT = (
    "a picture of a {}",
    "a drawing of a {}",
    "an icon of a {}",
    "a small {} on a plain background",
    "a colourful {}",
    "a simple {}",
    "{}",
)

_MEDIA = (
    "picture", "photo", "photograph", "snapshot", "close-up", "drawing", "sketch", "line drawing", "pencil drawing",
    "painting", "watercolour", "illustration", "cartoon", "clip art", "icon", "symbol", "sticker", "emoji", "logo",
    "3D rendering", "pixel art picture", "silhouette",
)  # fmt: skip

_STYLES = (
    "small", "big", "bright", "dark", "blurred", "sharp", "simple", "detailed", "colourful", "black and white", "clean",
    "worn", "cropped", "lone", "typical", "strange", "pretty", "plain", "hidden", "funny",
)  # fmt: skip

_SCENES = (
    "a {} seen from close by", "a {} seen from far away", "a {} seen from above", "a {} seen from the side",
    "a {} on a white background", "a {} on a dark background", "a {} in the open air", "a {} indoors",
    "a {} in the middle of the picture", "a {} at the edge of the picture", "part of a {}", "several of the kind {}",
    "the {} up close", "this is a {}", "there is a {} here", "one can see a {}", "here we have the {}",
    "{}, nothing else", "it shows a {}", "look at the {}",
)  # fmt: skip

FULL = (
    "{}",
    "a {}",
    "the {}",
    *(f"{'an' if medium[0] in 'aeiou' else 'a'} {medium} of a {{}}" for medium in _MEDIA),
    *(f"a picture of a {style} {{}}" for style in _STYLES),
    *_SCENES,
    *(f"{medium} of the {{}}" for medium in ("a good picture", "a bad picture", "a poor drawing", "a careful drawing")),
    *(f"{{}}, {medium}" for medium in ("a photo", "a drawing", "an icon", "a cartoon", "an emoji", "a sign", "a toy")),
    "a {} made of wool",
    "a {} made of plastic",
    "a {} printed on paper",
    "a scan of a {}",
)

TEMPLATES = {"name": NAME, "short": SHORT, "full": FULL}
"""`name`: the bare name. `short`: 7 sentences. `full`: 80 sentences, for pictures of any kind."""


def templates(chosen: str | Sequence[str]) -> tuple[str, ...]:
    """Templates by the name of their set, or a sentence, or several sentences, of one's own.

    Raises:
        UserError: an unknown set, or a sentence without a place for the name.

    >>> templates("a photo of a {}")
    ('a photo of a {}',)
    >>> len(templates("full"))
    80
    """
    if isinstance(chosen, str):
        if chosen in TEMPLATES:
            return TEMPLATES[chosen]
        if "{}" not in chosen:
            raise UserError(
                f"no template set {chosen!r}: name one of {', '.join(TEMPLATES)}, or write a sentence with {{}}"
            )
        return (chosen,)
    without = [sentence for sentence in chosen if "{}" not in sentence]
    if without or not chosen:
        raise UserError(f"every template needs a {{}} where the class name goes: {without or 'there is none'}")
    return tuple(chosen)
