"""Contrastive search for models whose candidates cannot be leaves of one pass: k copies of every sequence.

Slower and k times the cache, but exact wherever `generate` works with a cache: encoder-decoders, models that count
positions by themselves, recurrent and convolutional states.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nearfar.decoding.contrastive.leaves import Choose, last_states
from nearfar.errors import UserError

_CACHES = ("past_key_values", "cache_params")


class CopyingStepper:
    """Steps any generating model through contrastive search; the interface of `leaves.LeafStepper`."""

    def __init__(self, model: Any, model_kwargs: dict[str, Any]) -> None:
        self.model = model
        self.kwargs = dict(model_kwargs)
        self.copies = 1

    def prefill(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        inputs = self.model.prepare_inputs_for_generation(ids, is_first_iteration=True, **self.kwargs)
        states, logits = self._forward(inputs)
        self.ids = ids
        return states, logits

    def advance(self, candidates: Tensor, choose: Choose) -> tuple[Tensor, Tensor]:
        batch, among = candidates.shape
        self._spread(batch, among)
        ids = torch.cat([self.ids.repeat_interleave(among, dim=0), candidates.reshape(-1, 1)], dim=1)
        inputs = self.model.prepare_inputs_for_generation(ids, next_sequence_length=1, **self.kwargs)
        states, logits = self._forward(inputs)
        states = states[:, -1].view(batch, among, -1)
        choice = choose(states).to(states.device)
        self.rows = torch.arange(batch, device=choice.device) * among + choice
        self.ids = ids[self.rows.to(ids.device)]
        return states[torch.arange(batch, device=choice.device), choice], logits[self.rows.to(logits.device)]

    def finish(self) -> Any:
        self._select(self.rows)
        return self.kwargs.get("past_key_values")

    def _forward(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        with last_states(self.model, lambda states: None) as captured:
            outputs = self.model(**inputs, return_dict=True)
        encoder_decoder = self.model.config.is_encoder_decoder
        self.kwargs = self.model._update_model_kwargs_for_generation(
            outputs, self.kwargs, is_encoder_decoder=encoder_decoder
        )
        if all(getattr(outputs, name, None) is None for name in _CACHES):  # or it keeps its state to itself
            raise UserError(f"{type(self.model).__name__} returned no key-value cache; contrastive search needs one")
        return captured[0], outputs.logits[:, -1]

    def _spread(self, batch: int, among: int) -> None:
        """Make k rows of each sequence: of its one row, or of the chosen one of its k."""
        if self.copies == 1:
            rows = torch.arange(batch)
        else:
            rows = self.rows
        self._select(rows.repeat_interleave(among))
        self.copies = among

    def _select(self, rows: Tensor) -> None:
        for name, value in self.kwargs.items():
            self.kwargs[name] = _rows(value, rows) if name not in _CACHES else value
        for name in _CACHES:
            cache = self.kwargs.get(name)
            if cache is not None:
                _select_cache(cache, rows)


def _rows(value: Any, rows: Tensor) -> Any:
    """Rows of whatever holds one row a sequence: tensors, and the outputs of an encoder."""
    if isinstance(value, Tensor) and value.ndim > 0:
        dim = 1 if value.ndim == 3 and value.dtype == torch.long else 0  # positions may be [axes, B, L]
        return value.index_select(dim, rows.to(value.device))
    if hasattr(value, "items"):
        return type(value)(**{key: _rows(inner, rows) for key, inner in value.items()})
    return value


def _select_cache(cache: Any, rows: Tensor) -> None:
    if not hasattr(cache, "reorder_cache"):
        raise UserError(
            f"this model keeps its cache as a {type(cache).__name__}; contrastive search needs a transformers Cache"
        )
    cache.reorder_cache(rows)  # beam search's name for it; unlike `batch_select_indices`, recurrent layers have it too
