"""Embeddings of the same texts by a frozen text tower, made once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nearfar.modes import evaluating

AT_ONCE = 512
"""Texts that go through the tower together: classes put into many templates are thousands."""


class FrozenTexts:
    """Embeddings of texts that are kept until the tokens are others, or the frozen weights are written or moved.

    They are made in evaluation mode, and the mode that was in comes back.

    >>> model = torch.nn.Linear(2, 2).requires_grad_(False)
    >>> model.encode_text = lambda tokens: model(tokens["input_ids"])
    >>> kept, tokens = FrozenTexts(), {"input_ids": torch.eye(2)}
    >>> kept(model, tokens) is kept(model, tokens)
    True
    """

    def __init__(self) -> None:
        self._tokens: dict[str, Tensor] = {}
        self._weights: list[Any] = []
        self._embeddings = torch.zeros(0)

    def __call__(self, model: Any, tokens: Mapping[str, Tensor]) -> Tensor:
        """Embeddings `[K, D]`, in the weights' dtype, as `model.encode_text` makes them of tokens `[K, L]` int64."""
        frozen = [p for p in model.parameters() if not p.requires_grad]
        weights = [(p._version, p.device, p.dtype) for p in frozen]
        same_tokens = self._tokens.keys() == tokens.keys() and all(
            torch.equal(self._tokens[name], tokens[name]) for name in tokens
        )
        if not (same_tokens and weights == self._weights):
            device = frozen[0].device
            exact = torch.autocast(device.type, enabled=False)
            # Not under inference mode: what is made there cannot be trained with later.
            with evaluating(model), torch.inference_mode(False), torch.no_grad(), exact:
                parts = zip(*(ids.to(device).split(AT_ONCE) for ids in tokens.values()), strict=True)
                encoded = [model.encode_text(dict(zip(tokens, part, strict=True))) for part in parts]
                self._embeddings = encoded[0] if len(encoded) == 1 else torch.cat(encoded)
            self._tokens, self._weights = {name: ids.clone() for name, ids in tokens.items()}, weights
        return self._embeddings
