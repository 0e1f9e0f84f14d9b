"""Which texts a model does not read to their end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

MORE = " and so on and on and on"


def cut_texts(encoder: Any, texts: Sequence[str], *, batch_size: int = 256) -> list[str]:
    """The texts whose end is cut off by the model's limit: more words at their end change nothing in their tokens.

    Args:
        encoder: anything with `tokenize`.
        texts: what it reads.
        batch_size: texts at a time.

    >>> class FourWords:
    ...     def tokenize(self, texts):
    ...         words = [(text.split() + [""] * 4)[:4] for text in texts]
    ...         return torch.tensor([[len(word) for word in each] for each in words])
    >>> cut_texts(FourWords(), ["a cat", "a cat that purrs all day"])
    ['a cat that purrs all day']
    """
    cut = []
    for start in range(0, len(texts), batch_size):
        part = list(texts[start : start + batch_size])
        tokens = encoder.tokenize([*part, *(text + MORE for text in part)])
        ids = tokens["input_ids"] if isinstance(tokens, Mapping) or hasattr(tokens, "keys") else tokens
        if not isinstance(ids, torch.Tensor) or len(ids) != 2 * len(part):
            return []
        same = (ids[: len(part)] == ids[len(part) :]).flatten(1).all(1).tolist()
        cut += [text for text, is_same in zip(part, same, strict=True) if is_same]
    return cut
