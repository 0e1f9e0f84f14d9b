"""Contrastive search written as plainly as it can be, twice: without any cache, and with a cache copied k times."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.nn.functional import normalize


@torch.no_grad()
def cache_free(model, ids: Tensor, mask: Tensor, *, k: int, alpha: float, steps: int) -> Tensor:
    """The definition: every candidate's state comes from a fresh pass over the whole text."""
    for _ in range(steps):
        context, logits = _states(model, ids, mask)
        probs, candidates = logits[:, -1].softmax(-1).topk(k)
        longer = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        scores = []
        for j in range(k):
            states, _ = _states(model, torch.cat([ids, candidates[:, j : j + 1]], 1), longer)
            scores.append(_score(probs[:, j], states[:, -1], context, mask, alpha))
        choice = torch.stack(scores, 1).argmax(1)
        ids = torch.cat([ids, candidates.gather(1, choice[:, None])], 1)
        mask = longer
    return ids


@torch.no_grad()
def cache_copying(model, ids: Tensor, mask: Tensor, *, k: int, alpha: float, steps: int) -> Tensor:
    """The usual implementation: the cache is repeated k times a step, and the chosen row of each k selected."""
    out = model(
        input_ids=ids, attention_mask=mask, **_positions(model, mask), use_cache=True, output_hidden_states=True
    )
    context, logits, cache = out.hidden_states[-1], out.logits[:, -1], out.past_key_values
    for _ in range(steps):
        probs, candidates = logits.softmax(-1).topk(k)
        cache.batch_repeat_interleave(k)
        longer = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        positions = {name: value[:, -1:].repeat_interleave(k, 0) for name, value in _positions(model, longer).items()}
        out = model(
            input_ids=candidates.reshape(-1, 1),
            attention_mask=longer.repeat_interleave(k, 0),
            past_key_values=cache,
            **positions,
            use_cache=True,
            output_hidden_states=True,
        )
        hidden = out.hidden_states[-1][:, -1].view(len(ids), k, -1)
        scores = [_score(probs[:, j], hidden[:, j], context, mask, alpha) for j in range(k)]
        choice = torch.stack(scores, 1).argmax(1)
        rows = torch.arange(len(ids)) * k + choice
        cache.batch_select_indices(rows)
        ids = torch.cat([ids, candidates.gather(1, choice[:, None])], 1)
        context = torch.cat([context, hidden[torch.arange(len(ids)), choice][:, None]], 1)
        logits, mask = out.logits[rows, -1], longer
    return ids


def _score(probs: Tensor, state: Tensor, context: Tensor, mask: Tensor, alpha: float) -> Tensor:
    cosine = (normalize(context, dim=-1) * normalize(state, dim=-1)[:, None]).sum(-1)
    return (1 - alpha) * probs - alpha * cosine.masked_fill(mask == 0, -2).amax(-1)


def _states(model, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    out = model(
        input_ids=ids, attention_mask=mask, **_positions(model, mask), use_cache=False, output_hidden_states=True
    )
    return out.hidden_states[-1], out.logits


def _positions(model, mask: Tensor) -> dict[str, Tensor]:
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return {}
    return {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
