"""Texts and pairs of texts with a class each, and which of them belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nearfar.data.sources.record_numbers import own_group
from nearfar.data.sources.record_text import captions
from nearfar.errors import UserError


@dataclass(frozen=True)
class LabelledTexts:
    """Texts of N records, the second ones of pairs, the class of each by name, and groups `[N]` int64 of what belongs
    together."""

    first: list[str]
    second: list[str] | None
    label: list[str]
    group: Tensor
    skipped: int

    def __len__(self) -> int:
        return len(self.first)

    @property
    def keys(self) -> list[tuple[str, ...]]:
        """What makes two records the same: their text, or both in any order."""
        return _keys(self.first, self.second)

    def select(self, rows: Tensor) -> LabelledTexts:
        """The records of these numbers `[M]` int64."""
        picked = rows.tolist()
        second = None if self.second is None else [self.second[row] for row in picked]
        return LabelledTexts(
            [self.first[row] for row in picked],
            second,
            [self.label[row] for row in picked],
            self.group[rows],
            self.skipped,
        )


def labelled_texts(source: Any, *, pairs: bool | None = None) -> LabelledTexts:
    """The labelled texts of a source; `pairs` of them, or single ones (None: pairs where each record has `text2`).
    Records without text or label are left out, and counted.

    Raises:
        UserError: none is left.
    """
    name, names = str(getattr(source, "name", "the data")), getattr(source, "classes", None)
    rows = [(record, captions(record.get("text")), captions(record.get("text2"))) for record in source]
    kept = [row for row in rows if row[1] and row[0].get("label") is not None and row[0]["label"] != -1]
    if not kept:
        raise UserError(f"{name} holds no texts with a label: sentence_probe needs 'text' and 'label'")
    if pairs is None:
        pairs = all(row[2] for row in kept)
    if pairs:
        kept = [row for row in kept if row[2]]
    first = [texts[0] for _, texts, _ in kept]
    second = [texts[0] for *_, texts in kept] if pairs else None
    label = [str(names[int(record["label"])] if names else record["label"]) for record, *_ in kept]
    group = _joined([own_group(record) for record, *_ in kept], _keys(first, second))
    return LabelledTexts(first, second, label, group, len(rows) - len(kept))


def _keys(first: Sequence[str], second: Sequence[str] | None) -> list[tuple[str, ...]]:
    if second is None:
        return [(text,) for text in first]
    return [tuple(sorted(pair)) for pair in zip(first, second, strict=True)]


def _joined(groups: Sequence[Any], keys: Sequence[tuple[str, ...]]) -> Tensor:
    """Groups `[N]` int64 that join records of one group and records of equal texts."""
    top: dict[Any, Any] = {}

    def root(node: Any) -> Any:
        while (above := top.setdefault(node, node)) != node:
            top[node] = node = top[above]  # half the way up, for the next
        return node

    for group, key in zip(groups, keys, strict=True):
        if group is not None:
            top[root(("group", group))] = root(("text", key))
    number: dict[Any, int] = {}
    return torch.tensor([number.setdefault(root(("text", key)), len(number)) for key in keys])
