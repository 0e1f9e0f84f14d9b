"""What a protocol needs, as far as data and models show it from outside: before anything is trained or embedded."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any

from nearfar import lookup
from nearfar.embedding.embed_source import has_column, shared_sides
from nearfar.embedding.embeddings import Embeddings
from nearfar.errors import UserError
from nearfar.evaluation.protocols import PROTOCOLS, Protocol

CALLED = {
    "image": "pictures",
    "image|video|audio": "pictures",
    "text": "captions",
    "label": "labels",
    "video": "videos",
    "audio": "sounds",
    "answers": "answers",
    "box|objects": "boxes",
    "objects": "boxes of things",
    "mask": "masks",
    "image|text": "pictures and no texts",
    "image2": "second pictures",
}
"""What columns hold."""

REMEDY = {
    "objects": "records need 'objects', a list of 'name' and 'box'",
    "image2": "records need 'image2', a second picture, and 'text2', its text",
    "box|objects": "records need 'text' and 'box', or 'objects' with 'phrase' and 'box'",
}
"""What to do about a missing column, where another name for it is not enough."""

UNABLE = {
    "encode_image": "does not embed pictures",
    "encode_text": "does not embed texts",
    "encode_image|encode_video": "does not embed pictures",
    "encode_image|encode_video|encode_audio": "does not embed pictures",
    "encode_image|encode_text": "embeds neither pictures nor texts",
    "detect": "detects nothing: train a detector with the methods dito and detection",
    "encode_image_map": "gives no maps of pictures",
    "ground": "says nothing of how things are related: make one with nearfar.models.relation_encoder",
    "transcribe": "writes no words of sounds: train one with the method transcription or coconut",
    "caption": "writes no captions of pictures: train a vision_language_model with the method captioning",
    "answer": "answers no questions: train one with the method 'answering' or 'instruction'",
    "likelihoods": "does not say how likely a text is: train a vision_language_model with the method captioning",
    "match_labels": "matches no labels: train a label_matcher with the method cless",
    "judge": "does not sort pairs into classes: train one with the method 'entailment'",
    "locate": "gives no maps of phrases: train one with the method albef or tcl",
}
"""What is said of a model without a method."""


def missing_in_source(
    protocol: str,
    source: Any,
    *,
    captions: int | None = None,
    options: Mapping[str, Any] | None = None,
    joined: Collection[str] = (),
) -> str | None:
    """Why a protocol cannot be measured on data; None where nothing speaks against it.

    Args:
        protocol: a name in `PROTOCOLS`.
        source: a source or stream. Only its columns and classes are checked, and its first record for a column that a
            `map` may have brought without saying so.
        captions: how many captions of each image count; None: all.
        options: the protocol's own settings.
        joined: columns that the source will get before it is measured.

    >>> from nearfar.data import Records
    >>> photos = Records([{"image": "a.png", "text": "a cat"}], name="photos")
    >>> missing_in_source("retrieval", photos)
    >>> missing_in_source("zero_shot", photos)
    'photos has no labels (its columns are: image, text): name the column with label=NAME'
    """
    options, row = options or {}, lookup.find("protocol", protocol, PROTOCOLS)
    if row.own_data and options.get(row.own_data) is not None:
        return None
    for key in row.needed_columns:
        key = _or_others(_filled(key, row, options), row)
        if not any(column in joined or has_column(source, column) for column in key.split("|")):
            columns = ", ".join(source.columns)
            named = key.removesuffix("|video|audio").split("|")
            remedy = REMEDY.get(key, "name the column with " + " or ".join(f"{name}=NAME" for name in named))
            if protocol in ("knn", "linear_probe") and has_column(source, "text") and has_column(source, "label"):
                remedy = "labelled texts are measured by sentence_probe"
            return f"{source.name} has no {_called(key)} (its columns are: {columns}): {remedy}"
    if "text" in row.sides and captions == 0:
        return "captions is 0: no caption counts"
    if row.named_classes and not (source.classes or options.get("classes")):
        return f"{source.name} names no classes: give them as classes=[...] in the options of {protocol}"
    if row.by_number and not hasattr(source, "__getitem__"):
        return f"{source.name} is a stream, and its records must be readable by number"
    return None


def missing_in_model(protocol: str, model: Any, source: Any = None) -> str | None:
    """Why a model cannot be measured by a protocol, on a source where one is given; None where nothing speaks against
    it.

    >>> class Pictures:
    ...     def encode_image(self, pixels): ...
    >>> missing_in_model("geometry", Pictures())
    >>> missing_in_model("retrieval", Pictures())
    'a Pictures does not embed texts'
    """
    row = lookup.find("protocol", protocol, PROTOCOLS)
    if why := _unable(model, row, row.needed_abilities):
        return why
    if source is not None and "image|text" in row.columns:
        try:
            shared_sides(model, source)
        except UserError as error:
            return str(error)
    return None


def unembedded_side(protocol: str, model: Any) -> str | None:
    """Why a model gives no embeddings that a protocol could measure; None where nothing speaks against it."""
    row = lookup.find("protocol", protocol, PROTOCOLS)
    return _unable(model, row, [f"encode_{side}" for side in row.sides])


def _unable(model: Any, row: Protocol, abilities: Iterable[str]) -> str | None:
    for ability in map(partial(_or_others, row=row), abilities):
        if not any(hasattr(model, name) for name in ability.split("|")):
            return f"a {type(model).__name__} {_missing_ability(ability)}"
    return None


def missing_in_embeddings(protocol: str, data: Embeddings, model: Any = None) -> str | None:
    """Why a protocol cannot be measured on data that is embedded already; None where nothing speaks against it.

    >>> import torch
    >>> pictures = Embeddings(torch.eye(3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), source="photos")
    >>> missing_in_embeddings("retrieval", pictures)
    'photos has no captions'
    """
    row = lookup.find("protocol", protocol, PROTOCOLS)
    for key in row.needed_columns:
        if not any(_holds(data, column) for column in key.split("|")):
            return f"{data.source} has no {_called(key)}"
    if row.named_classes and not data.classes:
        return f"{data.source} names no classes"
    for ability in row.abilities:
        if "|" not in ability and not hasattr(model, ability):
            return f"the model {_missing_ability(ability)}"
    return None


def _or_others(key: str, row: Protocol) -> str:
    """What is measured on embedded pictures is measured on videos, and on sounds, where there are no pictures."""
    others = {"image": "image|video|audio", "encode_image": "encode_image|encode_video|encode_audio"}
    return others.get(key, key) if "image" in row.sides else key


def _holds(data: Embeddings, key: str) -> bool:
    if key in ("image", "text"):
        return len(getattr(data, key)) > 0
    if key in ("label", "domain"):
        numbers = getattr(data, key)
        return numbers is not None and bool((numbers >= 0).any())
    return key in data.columns or getattr(data, key, None) is not None


def _called(key: str) -> str:
    either = "' or '".join(key.split("|"))
    return CALLED.get(key, f"'{either}'")


def _missing_ability(ability: str) -> str:
    return UNABLE.get(ability, f"has no {ability!r}")


def _filled(key: str, row: Protocol, options: Mapping[str, Any]) -> str:
    """A needed column, where an option names it: "{second}" is the value of the option `second`, or its default."""
    if not key.startswith("{"):
        return key
    option = next(option for option in row.options if option.name == key.strip("{}"))
    return str(options.get(option.name, option.value))
