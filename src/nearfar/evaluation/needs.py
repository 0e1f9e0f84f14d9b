"""What a protocol needs, as far as data and models show it from outside: before anything is trained or embedded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nearfar.data.sources.skipped import BadRecord

COLUMNS: dict[str, tuple[str, ...]] = {
    "retrieval": ("text",),
    "zero_shot": ("label",),
    "knn": ("label",),
    "linear_probe": ("label",),
    "compositionality": ("text",),
    "order_probe": ("text",),
    "answering": ("text", "answers"),
    "entailment": ("text", "label"),
}
"""What records need beside `image`."""

ABILITIES: dict[str, tuple[str, ...]] = {
    "retrieval": ("encode_text",),
    "zero_shot": ("encode_text",),
    "compositionality": ("encode_text",),
    "order_probe": ("encode_text",),
    "answering": ("answer",),
    "entailment": ("judge",),
    "grounding": ("locate",),
}
"""What models need beside `encode_image`."""

CALLED = {"image": "pictures", "text": "captions", "label": "labels", "answers": "answers"}
UNABLE = {
    "encode_image": "does not embed pictures",
    "encode_text": "does not embed texts",
    "answer": "answers no questions: train one with the method `answering`",
    "judge": "does not sort pairs into classes: train one with the method `entailment`",
    "locate": "has no maps to look at: train one with the method albef or tcl",
}


def lacking(
    protocol: str, source: Any, *, captions: int | None = None, options: Mapping[str, Any] | None = None
) -> str | None:
    """Why a protocol cannot be measured on data; None where nothing speaks against it.

    Args:
        protocol: a name in `PROTOCOLS`; one that is not known here needs nothing but pictures.
        source: a source or stream. Only its columns and classes are looked at, and its first record for a column that a
            `map` may have brought without saying so.
        captions: how many captions of each image count; None: all.
        options: the protocol's own settings.

    >>> from nearfar.data import Records
    >>> photos = Records([{"image": "a.png", "text": "a cat"}], name="photos")
    >>> lacking("retrieval", photos)
    >>> lacking("zero_shot", photos)
    'photos has no labels (its columns are: image, text): name the column with label=NAME'
    """
    options = options or {}
    if protocol == "compositionality" and options.get("aro") is not None:
        return None  # ARO's files bring captions and pictures
    for key in ("image", *COLUMNS.get(protocol, ())):
        if not _has(source, key):
            columns = ", ".join(source.columns)
            return f"{source.name} has no {CALLED[key]} (its columns are: {columns}): name the column with {key}=NAME"
    if protocol == "grounding" and not (_has(source, "box") or _has(source, "objects")):
        return f"{source.name} has no boxes: records need `text` and `box`, or `objects` with `phrase` and `box`"
    if protocol in ("retrieval", "order_probe") and captions == 0:
        return "captions is 0: no caption counts"
    if protocol == "zero_shot" and not (source.classes or options.get("classes")):
        return f"{source.name} names no classes: give them as classes=[...] in the options of zero_shot"
    if protocol == "compositionality" and not hasattr(source, "__getitem__"):
        return f"{source.name} is a stream, and its records must be asked for by number"
    return None


def unable(protocol: str, model: Any) -> str | None:
    """Why a model cannot be measured by a protocol; None where nothing speaks against it.

    >>> class Pictures:
    ...     def encode_image(self, pixels): ...
    >>> unable("geometry", Pictures())
    >>> unable("retrieval", Pictures())
    'a Pictures does not embed texts'
    """
    for ability in ("encode_image", *ABILITIES.get(protocol, ())):
        if not hasattr(model, ability):
            return f"a {type(model).__name__} {UNABLE[ability]}"
    return None


def _has(source: Any, key: str) -> bool:
    if key in source.columns:
        return True
    try:
        first: Mapping[str, Any] = next(iter(source), {})
        return first.get(key) is not None
    except BadRecord:
        return False
