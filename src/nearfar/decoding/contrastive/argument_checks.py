"""What can be wrong with a call of contrastive search, said before any work is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nearfar.errors import UserError


def check_call(
    model: Any, arguments: Mapping[str, Any], *, k: int, alpha: float, sample_steps: int, num_return_sequences: int
) -> None:
    """Check what `contrastive_search` was given; raises UserError."""
    if "generation_config" in arguments and "past_key_values" in arguments and "logits_processor" in arguments:
        raise UserError(
            "custom_generate takes the hook, not the function: model.generate(ids, custom_generate="
            "nearfar.decoding.contrastive_search_generate, penalty_alpha=0.6, top_k=4), or call "
            "contrastive_search(model, ids) by itself"
        )
    check_values(model, k, alpha)
    ids = arguments.get("input_ids")
    if ids is None:
        raise UserError(f"inputs holds no 'input_ids', only {sorted(arguments)}: pass what the tokenizer returned")
    check_prompt(model, ids, arguments.get("attention_mask"))
    config = arguments.get("generation_config") or getattr(model, "generation_config", None)
    check_cache_kind(arguments.get("cache_implementation") or getattr(config, "cache_implementation", None))
    if sample_steps < 0:
        raise UserError(f"sample_steps must be 0 or more, not {sample_steps}")
    if num_return_sequences > 1 and sample_steps == 0:
        raise UserError(
            f"contrastive search is deterministic: {num_return_sequences} sequences a prompt would all be equal. "
            "Sample their first tokens with sample_steps=2, say"
        )
    if arguments.get("do_sample"):
        raise UserError(
            "contrastive search does not sample: drop do_sample, or use sample_steps=n for the first n tokens"
        )


def check_settings(
    model: Any, ids: Tensor, config: Any, model_kwargs: Mapping[str, Any], *, synced_gpus: bool = False
) -> None:
    """Check what `model.generate` prepared for its custom method; raises UserError."""
    mask = model_kwargs.get("attention_mask")
    check_prompt(model, ids, None if model.config.is_encoder_decoder else mask)
    if config.do_sample:
        raise UserError(
            "contrastive search does not sample: pass do_sample=False (this model's generation config may set it), "
            "or sample_steps=n to sample the first n tokens"
        )
    if config.num_beams > 1:
        raise UserError(f"contrastive search keeps one sequence a prompt: num_beams must be 1, not {config.num_beams}")
    if config.use_cache is False:
        raise UserError("contrastive search needs the key-value cache: leave use_cache unset or pass use_cache=True")
    if config.output_attentions or config.output_hidden_states:
        raise UserError(
            "contrastive search returns no attentions or hidden states: run the model once over the sequences it "
            "returned to have them"
        )
    check_cache_kind(config.cache_implementation)
    if config.prefill_chunk_size is not None:
        raise UserError("contrastive search reads the prompt in one pass: leave prefill_chunk_size unset")
    if synced_gpus:
        raise UserError("contrastive search does not run on a model sharded over processes (synced_gpus)")
    check_cache(model_kwargs.get("past_key_values"))


def check_values(model: Any, k: int, alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise UserError(f"alpha (penalty_alpha) must lie in [0, 1], not {alpha}")
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    if not isinstance(k, int) or not 1 <= k <= vocabulary:
        raise UserError(f"k (top_k) must be a whole number from 1 to the vocabulary's {vocabulary}, not {k}")


def check_prompt(model: Any, ids: Tensor, mask: Tensor | None) -> None:
    if ids.ndim != 2:
        raise UserError(f"input_ids must have shape [batch, length], got {tuple(ids.shape)}")
    if ids.numel() == 0:
        raise UserError("the prompt is empty: contrastive search needs at least one token to continue (the BOS token)")
    for name, tensor in (("input_ids", ids), ("attention_mask", mask)):
        if tensor is not None and tensor.device != model.device:
            raise UserError(
                f"{name} is on {tensor.device} but the model on {model.device}: move it with .to(model.device)"
            )
    if mask is None:
        return
    if mask.shape[0] != ids.shape[0]:
        raise UserError(f"attention_mask has {mask.shape[0]} rows, input_ids {ids.shape[0]}")
    empty = (mask != 0).sum(dim=-1) == 0
    if empty.any():
        raise UserError(f"row {int(empty.nonzero()[0])} of the prompt is all padding: give it at least one token")
    if (mask[:, -1] == 0).any():
        raise UserError("the prompts are padded on the right: set tokenizer.padding_side = 'left'")


def check_cache_kind(name: str | None) -> None:
    """Only the dynamic cache: others copy, fix or quantise what is read again at every step."""
    if name not in (None, "dynamic"):
        raise UserError(
            f"contrastive search keeps its own growing cache: leave cache_implementation unset, not {name!r}"
        )


def check_cache(cache: Any) -> None:
    """Only an empty dynamic cache, as `generate` prepares one, may come in."""
    if cache is None:
        return
    if _length(cache) > 0:
        raise UserError(
            "past_key_values is filled already, but the penalty needs the hidden states of all earlier tokens: pass "
            "the whole prompt without past_key_values"
        )
    if getattr(cache, "is_compileable", False) or getattr(cache, "offloading", False):
        raise UserError(f"contrastive search keeps its own growing cache: do not pass a {type(cache).__name__}")


def check_finite(score: Tensor, probs: Tensor, step: int) -> None:
    """Stop on NaN, which would otherwise choose tokens silently. `score`, `probs`: `[B, k]`."""
    broken = torch.isnan(score).any(dim=-1)
    if not broken.any():
        return
    rows = broken.nonzero().flatten().tolist()
    faulty = "logits" if torch.isnan(probs).any() else "hidden states"
    raise UserError(
        f"the model's {faulty} are NaN at new token {step + 1} in rows {rows}: in float16 this is an overflow (load "
        "the model in float32 or bfloat16); a logits processor that rules out every token does the same"
    )


def _length(cache: Any) -> int:
    try:
        return cache.get_seq_length()
    except ValueError:  # a cache of recurrent states only has no length; `generate` has just made it
        return 0
