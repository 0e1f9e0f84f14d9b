"""How good generated text is without a human: does it repeat itself, and does a second model find it coherent?
(arXiv 2210.14140, section 4.)"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from nearfar import console
from nearfar.errors import UserError
from nearfar.evaluation.measures.bootstrap import mean_interval
from nearfar.evaluation.measures.result import Metric, Result

Words = Callable[[str], Sequence[Any]]


def repetition(texts: Iterable[str], n: int, *, released: bool = False, words: Words = str.split) -> float:
    """rep-n: the share of n-grams that repeat an earlier one of the same text, counted over all texts together.

    Args:
        texts: the generated continuations, without their prompts.
        n: length of the n-grams.
        released: count as the released code does, which loses the last n-gram of every text; for comparing with
            published figures only.
        words: cuts a text into words; white space by default, as in the paper. Pass `list` for texts without spaces.

    Returns NaN where no text has an n-gram.

    >>> repetition(["a b a b"], 2)
    0.33333333333333337
    """
    unique = total = 0
    for text in texts:
        tokens = words(text)
        count = len(tokens) - n + (0 if released else 1)
        grams = [tuple(tokens[i : i + n]) for i in range(max(0, count))]
        unique += len(set(grams))
        total += len(grams)
    return 1 - unique / total if total else float("nan")


def diversity(texts: Iterable[str], *, released: bool = False, words: Words = str.split) -> float:
    """`(1 - rep-2) (1 - rep-3) (1 - rep-4)`: 1 when nothing repeats. Arguments as for `repetition`.

    >>> round(diversity(["a b a b a b a b"]), 4)
    0.0381
    """
    texts = list(texts)
    return math.prod(1 - repetition(texts, n, released=released, words=words) for n in (2, 3, 4))


@torch.no_grad()
def coherence(
    judge: Any, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], *, batch_size: int = 8
) -> Tensor:
    """How likely a second language model finds each continuation: the mean log probability of its tokens given the
    prompt and what came before, `[N]` float64. `exp(-value)` is its perplexity.

    Args:
        judge: a causal language model other than the one that wrote the texts.
        prompts, continuations: token ids of the judge's tokenizer, one list a text; a prompt has at least one token
            (the judge's BOS, if nothing else).
        batch_size: texts a pass.

    Raises:
        UserError: other numbers of prompts than of continuations, or one that is empty.
    """
    if len(prompts) != len(continuations):
        raise UserError(f"{len(prompts)} prompts but {len(continuations)} continuations")
    empty = [i for i, text in enumerate(continuations) if not len(text)]
    bare = [i for i, prompt in enumerate(prompts) if not len(prompt)]
    if empty or bare:
        raise UserError(f"coherence needs tokens: continuations {empty} and prompts {bare} are empty")
    values = []
    for start in console.track(range(0, len(prompts), batch_size), "judging texts, by batch"):
        part = slice(start, start + batch_size)
        values.append(_mean_log_probability(judge, prompts[part], continuations[part]))
    return torch.cat(values) if values else torch.empty(0, dtype=torch.float64)


def generation(
    texts: Sequence[str], *, coherences: Tensor | None = None, words: Words = str.split, seed: int = 0
) -> Result:
    """All figures of a set of continuations as a Result "generation": rep-2, rep-3, rep-4, diversity and, where
    `coherence` was measured, coherence and perplexity (of the mean) with an interval over texts.

    Args:
        texts: the generated continuations, without their prompts.
        coherences: `[N]` float64, what `coherence` returned; None leaves both figures out.
        words: cuts a text into words.
        seed: of the bootstrap.
    """
    n = len(texts)
    metrics = {f"rep-{k}": Metric(repetition(texts, k, words=words), n=n, unit="%") for k in (2, 3, 4)}
    metrics["diversity"] = Metric(diversity(texts, words=words), n=n, unit="%")
    if coherences is not None:
        mean = float(coherences.mean())
        low, high = (float(end[0]) for end in mean_interval(coherences.numpy(), seed=seed))
        metrics["coherence"] = Metric(mean, low, high, n=n)
        metrics["perplexity"] = Metric(math.exp(-mean), math.exp(-high), math.exp(-low), n=n)
    return Result("generation", metrics)


def _mean_log_probability(judge: Any, prompts: Sequence[Any], continuations: Sequence[Any]) -> Tensor:
    """One padded pass. Padding goes to the right, where causal attention keeps it from mattering."""
    texts = [[*prompt, *text] for prompt, text in zip(prompts, continuations, strict=True)]
    width = max(map(len, texts))
    ids = torch.tensor([text + [0] * (width - len(text)) for text in texts], device=judge.device)
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=judge.device)
    logits = judge(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    chosen = torch.stack([  # row by row: a batch of log-softmaxes over a vocabulary is the largest tensor here
        row.float().log_softmax(-1).gather(-1, target[1:, None])[:, 0] for row, target in zip(logits, ids, strict=True)
    ])  # fmt: skip
    means = [
        chosen[i, len(prompts[i]) - 1 : len(text) - 1].double().mean() for i, text in enumerate(texts)
    ]  # the logits at position t speak of token t + 1
    return torch.stack(means).cpu()
