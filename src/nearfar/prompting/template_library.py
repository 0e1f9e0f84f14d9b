"""More templates from few: words for what kind of thing the classes are (ProAPO, arXiv 2502.19844)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nearfar.errors import UserError
from nearfar.prompting.prompt_templates import FULL

BASE = tuple(dict.fromkeys(("a photo of a {}", *FULL)))
"""The 80 sentences of `nearfar.prompting.TEMPLATES["full"]`, the plain one first: what others are compared with."""


def expand_templates(templates: Sequence[str] = BASE, types: Sequence[str] = ()) -> tuple[str, ...]:
    """The templates, and of each those that say of which type the class is, as ProAPO makes them: ", a type of bird" at
    the end, "bird: " before the name, and where there is the word "photo" also the type in its place and behind it.
    Each once, in this order.

    Args:
        templates: sentences with `{}` where the class's name goes.
        types: words for what the classes are: bird, wildlife.

    Raises:
        UserError: no templates, one without a place for the name, or a type that is no word.

    >>> expand_templates(["a photo of a {}."], ["bird"])[1:]
    ('a photo of a {}, a type of bird.', 'a photo of a bird: {}.', 'a bird of a {}.', 'a bird photo of a {}.')
    """
    if not templates or isinstance(templates, str):
        raise UserError(f"templates are a list of sentences with {{}}, not {templates!r}")
    if without := [sentence for sentence in templates if "{}" not in sentence]:
        raise UserError(f"the template {without[0]!r} has no {{}} where the class name goes: write it there")
    if isinstance(types, str) or not all(kind.strip() and "{}" not in kind for kind in types):
        raise UserError(f"types are a list of words for what the classes are, such as bird, not {types!r}")
    forms = [form for sentence in templates for form in (sentence, *_typed(sentence, types))]
    return tuple(dict.fromkeys(forms))


def _typed(sentence: str, types: Sequence[str]) -> list[str]:
    forms = []
    for kind in types:
        # Only a full stop at the end: one within a sentence does not end it.
        end = "." if sentence.endswith(".") else ""
        forms.append(f"{sentence.removesuffix('.')}, a type of {kind}{end}")
        forms.append(sentence.replace("{}", f"{kind}: {{}}"))
        if re.search(r"\bphoto\b", sentence):
            forms += [re.sub(r"\bphoto\b", kind.replace("\\", r"\\"), sentence)]
            forms += [re.sub(r"\bphoto\b", rf"{kind} photo".replace("\\", r"\\"), sentence)]
    return forms
