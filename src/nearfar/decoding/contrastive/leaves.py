"""One forward pass scores all k candidates: each is a leaf at the same position that sees the prefix and itself.

The choice is made inside the pass, between the last layer and the language-model head, so the head (a fifth of a small
model's work) runs for the chosen leaf only and the k rows of logits never exist.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from nearfar.decoding.contrastive.attention import is_maskable, mask_of_leaves
from nearfar.decoding.contrastive.leaf_cache import LeafCache, attention_windows
from nearfar.errors import UserError

Choose = Callable[[Tensor], Tensor]
"""Candidates' last-layer states `[B, k, D]` in, index of the chosen one `[B]` out."""


class LeafStepper:
    """Steps a decoder-only model through contrastive search with one shared prefix cache."""

    def __init__(self, model: Any, model_kwargs: dict[str, Any]) -> None:
        self.model = model
        self.kwargs = dict(model_kwargs)
        windows = attention_windows(model.config.get_text_config(decoder=True))
        assert windows is not None, "refusal() says when there are none"
        self.cache = LeafCache(windows)

    def prefill(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Read the prompt: last-layer states `[B, L, D]` and the next token's logits `[B, V]`."""
        self.kwargs["past_key_values"] = self.cache
        inputs = self.model.prepare_inputs_for_generation(ids, is_first_iteration=True, **self.kwargs)
        with last_states(self.model, lambda states: None) as captured:
            logits = self.model(**inputs, return_dict=True).logits
        if self.cache.length != ids.shape[1]:
            raise UserError(
                f"{type(self.model).__name__} did not fill its key-value cache; contrastive search needs one"
            )
        mask, positions = self.kwargs.get("attention_mask"), self.kwargs.get("position_ids")
        if positions is None:
            positions = torch.full((len(ids), 1), ids.shape[1] - 1, device=ids.device)
        self.position = positions[..., -1:]
        self.prefix = None if mask is None else mask.bool()
        self.cache.sprout()
        return captured[0], logits[:, -1]

    def advance(self, candidates: Tensor, choose: Choose) -> tuple[Tensor, Tensor]:
        """Run the candidates `[B, k]`, keep the chosen one: its state `[B, D]` and next logits `[B, V]`."""
        among = candidates.shape[1]
        self.position = self.position + 1
        chosen: list[Tensor] = []

        def keep_one(states: Tensor) -> Tensor:
            chosen.append(choose(states))
            index = chosen[0].to(states.device).view(-1, 1, 1).expand(-1, 1, states.shape[-1])
            return states.gather(1, index)

        with last_states(self.model, keep_one) as captured:
            logits = self.model(
                input_ids=candidates,
                attention_mask=self._mask(among),
                position_ids=self.position.expand(*self.position.shape[:-1], among),
                past_key_values=self.cache,
                use_cache=True,
                return_dict=True,
            ).logits
        self.cache.commit(chosen[0], among)
        if self.prefix is not None:
            self.prefix = torch.cat([self.prefix, self.prefix.new_ones(len(self.prefix), 1)], dim=1)
        return captured[0][:, 0], logits[:, -1]

    def finish(self) -> Any:
        """The cache, usable as any other."""
        self.cache.settle()
        return self.cache

    def _mask(self, among: int) -> Any:
        """The leaves' attention mask, of `[B or 1, 1, k, length + k]`: one, or one a kind of layer."""
        kinds = {layer.window: layer.window_start() for layer in self.cache.layers}
        if among == 1 and self.prefix is None and set(kinds) == {None}:
            return None  # one leaf sees everything there is: the case of greedy search
        masks = {window: self._mask_from(start, among) for window, start in kinds.items()}
        if len(masks) == 1:
            return next(iter(masks.values()))
        return {"full_attention" if window is None else "sliding_attention": mask for window, mask in masks.items()}

    def _mask_from(self, start: int, among: int) -> Tensor:
        device = self.position.device
        themselves = torch.eye(among, dtype=torch.bool, device=device)
        if self.prefix is None:
            prefix = themselves.new_ones(1, among, self.cache.length - start)
        else:
            prefix = self.prefix[:, None, start:].expand(-1, among, -1)
        visible = torch.cat([prefix, themselves.expand(len(prefix), -1, -1)], dim=-1)[:, None]
        return mask_of_leaves(self.model, visible)


def refusal(model: Any) -> str | None:
    """Why candidates of this model cannot be run as leaves exactly, or None when they can."""
    config = model.config.get_text_config(decoder=True)
    if model.config.is_encoder_decoder:
        return "an encoder-decoder model counts positions by itself"
    if config is not model.config:
        return "a model of several modalities prepares its own positions"
    if "position_ids" not in inspect.signature(model.forward).parameters or getattr(config, "alibi", False):
        return "its positions cannot be given from outside"
    if not getattr(model, "_supports_attention_backend", False) or not is_maskable(model):
        return f"its attention ({config._attn_implementation}) takes no mask of our own"
    windows = attention_windows(config)
    if windows is None:
        return "it keeps more than keys and values by position (recurrent, chunked or shared states)"
    if len({window for window in windows if window is not None}) > 1:
        return "its layers have sliding windows of different widths"
    return None


@contextmanager
def last_states(model: Any, replace: Callable[[Tensor], Tensor | None]) -> Iterator[list[Tensor]]:
    """Catch the states that the decoder hands to the language-model head, and hand on `replace(states)` in their
    place unless that is None. This costs nothing, where `output_hidden_states` would hold every layer's states."""
    captured: list[Tensor] = []

    def hook(module: Any, args: Any, output: Any) -> Any:
        new = replace(output[0])
        captured.append(output[0] if new is None else new)
        if new is None:
            return None
        if isinstance(output, tuple):
            return (new, *output[1:])
        output["last_hidden_state"] = new
        return output

    decoder = model.get_decoder()
    if decoder is model:
        decoder = getattr(model, "model", model)
    if decoder is model:
        raise UserError(f"{type(model).__name__} does not separate its decoder from its head: it has no get_decoder()")
    handle = decoder.register_forward_hook(hook)
    try:
        yield captured
    finally:
        handle.remove()
    if not captured:
        raise UserError(f"{type(model).__name__} does not call its own decoder, so its hidden states cannot be read")
