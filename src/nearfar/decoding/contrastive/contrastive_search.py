"""Contrastive search (arXiv 2210.14140) at nearly the price of greedy search: deterministic, batched, exact.

Of the k likeliest next tokens it takes the one that best trades the model's confidence against its likeness to what
has been said already, so that text neither repeats itself nor drifts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from nearfar.decoding.contrastive.argument_checks import check_call, check_settings, check_values
from nearfar.errors import UserError

Strategy = Literal["auto", "leaves", "copy"]


def contrastive_search(
    model: Any,
    inputs: Tensor | Mapping[str, Any],
    *,
    k: int = 4,
    alpha: float = 0.6,
    max_new_tokens: int = 128,
    sample_steps: int = 0,
    sample_top_p: float = 0.95,
    seed: int = 0,
    num_return_sequences: int = 1,
    strategy: Strategy = "auto",
    streamer: Any = None,
    **generate_kwargs: Any,
) -> Any:
    """Continue each prompt by contrastive search.

    Args:
        model: any transformers model that can `generate` with a cache; put it in `eval()` mode.
        inputs: token ids `[B, L]`, padded on the left, or what a tokenizer returned (`input_ids`, `attention_mask`).
        k: candidates a step; 3 to 10, 1 is greedy search.
        alpha: weight of the degeneration penalty in [0, 1]; 0.5 to 0.8, 0 is greedy search.
        max_new_tokens: tokens to add at most.
        sample_steps: diverse contrastive search: sample the first tokens, so that one prompt has many continuations.
        sample_top_p: nucleus for those sampled tokens.
        seed: seed of their generator; torch's global generator is never touched.
        num_return_sequences: continuations a prompt; more than 1 needs `sample_steps`.
        strategy: "leaves" runs the candidates as leaves of one pass, "copy" as k copies of the cache, "auto" takes
            leaves wherever that is exact. The result is the same.
        streamer: a transformers streamer.
        **generate_kwargs: anything else `model.generate` takes: `attention_mask`, `eos_token_id`, `logits_processor`,
            `stopping_criteria`, `repetition_penalty`, `return_dict_in_generate`, `output_scores`, ...

    Returns:
        Token ids `[B * num_return_sequences, up to L + max_new_tokens]`, prompt first; with
        `return_dict_in_generate=True` a `ContrastiveSearchOutput` (`nearfar.decoding.contrastive.output`) with scores,
        confidences and degeneration penalties.

    Raises:
        UserError: an argument out of range, an empty prompt, a model without cache, NaN logits.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
    ...                      num_attention_heads=2)
    >>> model = LlamaForCausalLM(config).eval()
    >>> contrastive_search(model, torch.tensor([[5, 6, 7]]), k=4, alpha=0.6, max_new_tokens=5, eos_token_id=None).shape
    torch.Size([1, 8])
    """
    arguments = {"input_ids": inputs} if isinstance(inputs, Tensor) else dict(inputs)
    arguments.update(generate_kwargs)
    check_call(model, arguments, k=k, alpha=alpha, sample_steps=sample_steps, num_return_sequences=num_return_sequences)
    if num_return_sequences > 1:
        arguments = {
            name: value.repeat_interleave(num_return_sequences, dim=0) if isinstance(value, Tensor) else value
            for name, value in arguments.items()
        }
    if arguments.get("stop_strings") is not None:
        _stop_at_strings(arguments)
    if streamer is not None:
        streamer.put(arguments["input_ids"].cpu())
    return model.generate(
        **arguments,
        custom_generate=contrastive_search_generate,
        k=k,
        alpha=alpha,
        do_sample=False,
        max_new_tokens=max_new_tokens,
        sample_steps=sample_steps,
        sample_top_p=sample_top_p,
        seed=seed,
        strategy=strategy,
        stream=streamer,
    )


@torch.no_grad()
def contrastive_search_generate(
    model: Any,
    input_ids: Tensor,
    *,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    synced_gpus: bool = False,
    streamer: Any = None,
    stream: Any = None,
    k: int | None = None,
    alpha: float | None = None,
    sample_steps: int = 0,
    sample_top_p: float = 0.95,
    seed: int = 0,
    strategy: Strategy = "auto",
    **model_kwargs: Any,
) -> Any:
    """Contrastive search as transformers' own extension point:
    `model.generate(ids, custom_generate=contrastive_search_generate, penalty_alpha=0.6, top_k=4)`.

    `top_k` is the number of candidates and `penalty_alpha` the weight of the penalty, as they were in transformers;
    `k=` and `alpha=` go before them. Further arguments are those of `contrastive_search`. Pass a streamer as
    `stream=`: `generate` does not hand `streamer=` on to custom methods.
    """
    k = generation_config.top_k if k is None else k
    alpha = generation_config.penalty_alpha if alpha is None else alpha
    if k is None or alpha is None:
        raise UserError("contrastive search needs penalty_alpha (0.6, say) and top_k (4, say)")
    check_values(model, k, alpha)
    check_settings(model, input_ids, generation_config, model_kwargs, synced_gpus=synced_gpus)
    from nearfar.decoding.contrastive.loop import decode

    return decode(
        model,
        input_ids,
        model_kwargs,
        k=k,
        alpha=alpha,
        logits_processor=logits_processor,
        stopping_criteria=stopping_criteria,
        config=generation_config,
        streamer=streamer or stream,
        sample_steps=sample_steps,
        sample_top_p=sample_top_p,
        seed=seed,
        strategy=strategy,
    )


def _stop_at_strings(arguments: dict[str, Any]) -> None:
    """Make a stopping criterion of `stop_strings` and `tokenizer`: `generate` loses the latter with custom methods."""
    from transformers.generation.stopping_criteria import StopStringCriteria

    tokenizer, strings = arguments.pop("tokenizer", None), arguments.pop("stop_strings")
    if tokenizer is None:
        raise UserError("stop_strings needs the tokenizer too: pass tokenizer=...")
    criteria = list(arguments.get("stopping_criteria") or ())
    arguments["stopping_criteria"] = [*criteria, StopStringCriteria(tokenizer, strings)]
