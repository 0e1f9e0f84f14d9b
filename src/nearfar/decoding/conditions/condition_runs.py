"""One run of a model for each condition, beside the one that `generate` makes, and what joins their logits.

All runs read the same written tokens and keep a cache of their own, as their beginnings differ. RITUAL (arXiv
2405.17821), VCD (arXiv 2311.16922) and M3ID are rules over what they say; with other prompts for conditions it is
contrastive decoding of texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from nearfar.decoding.conditions.condition_logits import ConditionRule
from nearfar.errors import UserError


@torch.no_grad()
def condition_generate(
    model: Any,
    input_ids: Tensor,
    *,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    synced_gpus: bool = False,
    positive: Mapping[str, Tensor] | None = None,
    negative: Mapping[str, Tensor] | None = None,
    rule: ConditionRule | None = None,
    **model_kwargs: Any,
) -> Any:
    """Decoding under conditions as transformers' own extension point, greedy or by sampling:
    `model.generate(**inputs, custom_generate=condition_generate, positive=..., negative=..., do_sample=True)`.

    The logits are joined first; then come the processors, temperature, top-p and top-k that `generate` was called with.

    Args:
        model: a transformers model that has a cache and no encoder of texts.
        positive, negative: what a condition reads in place of `inputs`: `input_ids` `[B, L]` int64, or `inputs_embeds`
            `[B, L, W]` floating point, with `attention_mask` `[B, L]` int64, padded on the left where rows differ in
            length, and whatever else the first pass takes (`pixel_values`). None: this condition is left out.
        rule: how they are joined; None: `ConditionRule()`, RITUAL's.
        input_ids, logits_processor, stopping_criteria, generation_config, synced_gpus: as `generate` gives them.

    Raises:
        UserError: beams, a model sharded over processes, a model without a cache, or a condition of other rows.
    """
    from transformers import LogitsProcessorList

    if generation_config.num_beams > 1:
        raise UserError(
            f"num_beams={generation_config.num_beams}: conditions keep one sequence a row, as beams change places and "
            "their caches would have to follow: leave num_beams out"
        )
    if synced_gpus:
        raise UserError("decoding under conditions does not run on a model sharded over processes")
    if model.config.is_encoder_decoder:
        raise UserError("decoding under conditions needs a model without an encoder of texts")
    rows = len(input_ids)
    runs = [None if each is None else ConditionRun(model, each, rows=rows) for each in (positive, negative)]
    joined = ConditionProcessor(ConditionRule() if rule is None else rule, *runs)
    return model._sample(
        input_ids,
        logits_processor=LogitsProcessorList([joined, *logits_processor]),
        stopping_criteria=stopping_criteria,
        generation_config=generation_config,
        **model_kwargs,
    )


class ConditionRun:
    """What a model says under one condition, token by token, with a cache of its own.

    Args:
        model: as for `condition_generate`.
        inputs: what it reads first, `[B, L]` int64 or `[B, L, W]` floating point, as there.
        rows: the number of sequences, B or a multiple of it (several of one input); None: B.

    Raises:
        UserError: inputs without tokens, another number of rows, or a model without a cache.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Tensor], *, rows: int | None = None) -> None:
        taken = signature(model.forward).parameters
        if "past_key_values" not in taken:
            raise UserError(f"a {type(model).__name__} keeps no cache of keys and values: take another model")
        first = next((inputs[name] for name in ("inputs_embeds", "input_ids") if inputs.get(name) is not None), None)
        if first is None:
            raise UserError(f"a condition needs 'input_ids' or 'inputs_embeds', and has only {sorted(inputs)}")
        copies, left = divmod(len(first) if rows is None else rows, max(1, len(first)))
        if left or not copies:
            raise UserError(f"a condition has {len(first)} rows where {rows} are written: give one for each")
        self.model = model
        self.inputs = {name: each.repeat_interleave(copies, 0) for name, each in inputs.items() if each is not None}
        mask = self.inputs.pop("attention_mask", None)
        self.mask = first.new_ones(copies * len(first), first.shape[1], dtype=torch.long) if mask is None else mask
        if (self.mask[:, -1] == 0).any():
            raise UserError("a condition is padded on the right: pad it on the left")
        self.cache: Any = None
        self.counts_positions = "position_ids" in taken
        self.options = {"logits_to_keep": 1} if "logits_to_keep" in taken else {}

    @torch.no_grad()
    def next_logits(self, ids: Tensor | None = None) -> Tensor:
        """Logits `[B, V]` of the next token, in the model's dtype.

        Args:
            ids: what is written, `[B, T]` int64, of which the last column is read; at the first call nothing is.
        """
        inputs, count = self.inputs, self.mask.shape[1]
        if self.cache is not None:
            assert ids is not None
            inputs, count = {"input_ids": ids[:, -1:].to(self.mask.device)}, 1
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        positions = {}
        if self.counts_positions:  # padding is not counted, as `generate` has it
            positions["position_ids"] = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -count:]
        out = self.model(
            **inputs,
            **positions,
            **self.options,
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
            return_dict=True,
        )
        self.cache = out.past_key_values
        return out.logits[:, -1]


class ConditionProcessor:
    """What `generate` takes for a processor of logits: it joins its scores `[B, V]`, floating point, with those of the
    runs. For one call of `generate`, and no second one."""

    def __init__(self, rule: ConditionRule, positive: ConditionRun | None, negative: ConditionRun | None) -> None:
        self.rule, self.runs, self.step = rule, (positive, negative), 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        positive, negative = (None if run is None else run.next_logits(input_ids).to(scores) for run in self.runs)
        joined = self.rule(scores, positive, negative, self.step)
        self.step += 1
        return joined
