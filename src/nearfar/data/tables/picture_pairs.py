"""Tables of pairs of pictures that hardly differ, each with a text of its own: which columns they are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from nearfar.data.sources.record_text import captions
from nearfar.data.sources.source import Mapped, Record, Source
from nearfar.data.tables.picture_paths import file_named

USUAL = {
    "image": "image image1 image_1 chosen_image chosen_images",
    "image2": "image2 image_2 rejected_image rejected_images",
    "text": "text text1 text_1 caption caption1 caption_1 chosen_response",
    "text2": "text2 text_2 caption2 caption_2 rejected_response",
    "prompt": "prompt instruction_prompt question",
    "system": "system_prompt",
}
"""Column names taken for each part, the most usual first; the last of each are those of S-VCO's data (arXiv
2502.13928)."""


def pair_parts(
    columns: Sequence[str], *, image: str | None = None, text: str | Sequence[str] | None = None
) -> dict[str, str]:
    """The columns of pairs of pictures by part; empty where there is no second picture, or no text of it.

    Args:
        columns: all of the table.
        image, text: those of the first picture, where they were named.

    >>> pair_parts(["chosen_images", "rejected_images", "chosen_response", "rejected_response"])["image2"]
    'rejected_images'
    >>> pair_parts(["image", "image2", "caption"])
    {}
    """
    folded = {column.strip().lower(): column for column in reversed(columns)}
    parts = {part: next((folded[n] for n in names.split() if n in folded), None) for part, names in USUAL.items()}
    parts |= {"image": image or parts["image"], "text": text if isinstance(text, str) else parts["text"]}
    if text is not None and not isinstance(text, str):  # several, or none at all
        return {}
    there = {part: column for part, column in parts.items() if column is not None}
    return there if {"image", "image2", "text", "text2"} <= there.keys() else {}


class PicturePairs(Mapped):
    """The rows of a table with `image2`, `text2` and, where there is one, `prompt`.

    Args:
        source: the table's rows, with `image` and `text`.
        parts: as `pair_parts` returns them.
        root: folder that paths start from.
    """

    def __init__(self, source: Source, parts: Mapping[str, str], root: str | os.PathLike[str]) -> None:
        self.parts, self.root = parts, root
        others = [name for name in source.columns if name not in parts.values() or name in ("image", "text")]
        prompt = ["prompt"] if {"prompt", "system"} & parts.keys() else []
        columns = dict.fromkeys([*others, "image2", "text2", *prompt])
        super().__init__(source, self._pair, columns=list(columns))

    def second_pictures(self) -> list[Any]:
        """The second picture of each record, undecoded."""
        return self.column("image2")

    def _pair(self, record: Record) -> Record:
        held = {part: record.get(name) for part, name in self.parts.items()}
        pair = {key: value for key, value in record.items() if key in self.columns}
        pair["image"], pair["image2"] = (self._picture(value) for value in (record.get("image"), held["image2"]))
        pair["text2"] = captions(held["text2"])
        if "prompt" in self.columns:
            pair["prompt"] = " ".join(each for part in ("system", "prompt") for each in captions(held.get(part)))
        return pair

    def _picture(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            value = value[0] if value else None
        if isinstance(value, Mapping) and value.get("bytes") is None:
            value = value.get("path")
        return file_named(value, self.root) if isinstance(value, str) else value
