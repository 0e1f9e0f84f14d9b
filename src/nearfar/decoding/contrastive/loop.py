"""The loop of contrastive search: candidates, one pass, choice, and the bookkeeping that `generate` users expect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from nearfar.decoding.contrastive.argument_checks import check_finite
from nearfar.decoding.contrastive.attention import grouped
from nearfar.decoding.contrastive.copying import CopyingStepper
from nearfar.decoding.contrastive.few_rows import few_rows
from nearfar.decoding.contrastive.growing import GrowingTensor
from nearfar.decoding.contrastive.leaves import LeafStepper, refusal
from nearfar.decoding.contrastive.positions import Positions
from nearfar.decoding.contrastive.rerank import Ranking, largest_cosine, rank, unit
from nearfar.errors import UserError


def decode(
    model: Any,
    ids: Tensor,
    model_kwargs: dict[str, Any],
    *,
    k: int,
    alpha: float,
    logits_processor: Any,
    stopping_criteria: Any,
    config: Any,
    streamer: Any,
    sample_steps: int,
    sample_top_p: float,
    seed: int,
    strategy: str,
) -> Any:
    """Decode until every sequence has ended. Arguments as `contrastive_search` and `generate` prepared them."""
    stepper = _stepper(model, model_kwargs, strategy)
    mask = model_kwargs.get("decoder_attention_mask" if model.config.is_encoder_decoder else "attention_mask")
    positions = Positions(model, ids, mask)
    sampler = NucleusSampler(sample_top_p, seed, ids.device) if sample_steps else None
    candidates_a_step = 1 if alpha == 0 else k  # without a penalty the likeliest wins: greedy search
    record = StepRecord(config)
    sequences = Sequences(ids, stopping_criteria, config, streamer)
    leafy = _leafy(model, len(ids), candidates_a_step) if isinstance(stepper, LeafStepper) else nullcontext()
    with leafy:
        hidden, logits = stepper.prefill(ids)
        context = ContextStates(hidden, mask)
        del hidden
        while not sequences.finished:
            scores = logits_processor(sequences.ids, _precise(logits, ids.device))
            probs = scores.softmax(dim=-1)
            if sampler is not None and sequences.added < sample_steps:
                candidates = sampler(probs)
            else:
                candidates = _likeliest(probs, scores, candidates_a_step)
            choice = TokenChoice(probs.gather(1, candidates), context, alpha, sequences.added)
            positions.check(sequences.added)
            raw = logits
            hidden, logits = stepper.advance(candidates, choice)
            context.append(hidden)
            record.add(choice, scores, raw, sequences.running)
            sequences.append(candidates.gather(1, choice.index[:, None])[:, 0], scores)
    return record.output(sequences, stepper, model, model_kwargs)


class ContextStates:
    """The running matrix of normalised hidden states `[B, L, D]`. Padding is left out of every maximum."""

    def __init__(self, hidden: Tensor, mask: Tensor | None) -> None:
        self.states = GrowingTensor(dim=1)
        self.mask = None if mask is None else mask.bool().to(hidden.device)
        self._write(hidden)

    def append(self, hidden: Tensor) -> None:
        self._write(hidden[:, None])
        if self.mask is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)

    def penalty(self, hidden: Tensor) -> Tensor:
        return largest_cosine(unit(hidden), self.states.read(), self.mask)

    def _write(self, hidden: Tensor) -> None:
        self.states.write(unit(hidden))
        self.states.length += hidden.shape[1]


class TokenChoice:
    """Called with the candidates' states in the middle of the forward pass; remembers what it chose."""

    def __init__(self, probs: Tensor, context: ContextStates, alpha: float, step: int) -> None:
        self.probs, self.context, self.alpha, self.step = probs, context, alpha, step

    def __call__(self, hidden: Tensor) -> Tensor:
        ranking: Ranking = rank(self.probs, self.context.penalty(hidden).to(self.probs.device), self.alpha)
        check_finite(ranking.score, self.probs, self.step)
        self.index = ranking.choice
        self.penalty = ranking.penalty.gather(1, self.index[:, None])[:, 0]
        self.confidence = self.probs.gather(1, self.index[:, None])[:, 0]
        return self.index


class Sequences:
    """The growing token ids `[B, L]`, and which of them have not ended."""

    def __init__(self, ids: Tensor, stopping_criteria: Any, config: Any, streamer: Any) -> None:
        self.ids, self.criteria, self.streamer = ids, stopping_criteria, streamer
        self.running = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        self.finished = False
        self.added = 0
        ends = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
        self.pad = config._pad_token_tensor.to(ids.device) if ends else None

    def append(self, tokens: Tensor, scores: Tensor) -> None:
        if self.pad is not None:
            tokens = torch.where(self.running, tokens, self.pad)
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
        self.added += 1
        if self.streamer is not None:
            self.streamer.put(tokens.cpu())
        self.running = self.running & ~self.criteria(self.ids, scores)
        self.finished = not bool(self.running.any())
        if self.finished and self.streamer is not None:
            self.streamer.end()


class NucleusSampler:
    """Samples from the smallest set of tokens that holds `top_p` of the probability, with a generator of its own."""

    def __init__(self, top_p: float, seed: int, device: torch.device) -> None:
        if not 0 < top_p <= 1:
            raise UserError(f"sample_top_p must lie in (0, 1], not {top_p}")
        self.top_p = top_p
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, probs: Tensor) -> Tensor:
        """One token a row, `[B, 1]`."""
        ordered, ids = probs.sort(dim=-1, descending=True)
        outside = ordered.cumsum(dim=-1) - ordered >= self.top_p
        drawn = torch.multinomial(ordered.masked_fill(outside, 0), 1, generator=self.generator)
        return ids.gather(1, drawn)


class StepRecord:
    """Scores, confidences and penalties by step, if they were requested."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.is_requested = config.return_dict_in_generate
        self.scores: list[Tensor] = []
        self.logits: list[Tensor] = []
        self.confidences: list[Tensor] = []
        self.penalties: list[Tensor] = []

    def add(self, choice: TokenChoice, scores: Tensor, logits: Tensor, running: Tensor) -> None:
        if not self.is_requested:
            return
        self.confidences.append(choice.confidence.masked_fill(~running, torch.nan))
        self.penalties.append(choice.penalty.masked_fill(~running, torch.nan))
        if self.config.output_scores:
            self.scores.append(scores)
        if self.config.output_logits:
            self.logits.append(logits)

    def output(
        self, sequences: Sequences, stepper: LeafStepper | CopyingStepper, model: Any, model_kwargs: dict[str, Any]
    ) -> Any:
        if not self.is_requested:
            return sequences.ids
        from nearfar.decoding.contrastive.output import ContrastiveSearchEncoderDecoderOutput, ContrastiveSearchOutput

        kind = ContrastiveSearchEncoderDecoderOutput if model.config.is_encoder_decoder else ContrastiveSearchOutput
        return kind(
            sequences=sequences.ids,
            scores=tuple(self.scores) if self.config.output_scores else None,
            logits=tuple(self.logits) if self.config.output_logits else None,
            past_key_values=stepper.finish(),
            confidences=torch.stack(self.confidences, dim=1),
            penalties=torch.stack(self.penalties, dim=1),
        )


@contextmanager
def _leafy(model: Any, texts: int, leaves: int) -> Iterator[None]:
    """Inside the block the model's layers are set for a few leaves at once, of each text. One leaf is greedy search,
    whose products stay as transformers takes them, so that near ties fall alike."""
    with grouped(model), few_rows(model, texts * leaves) if leaves > 1 else nullcontext():
        yield


def _stepper(model: Any, model_kwargs: dict[str, Any], strategy: str) -> LeafStepper | CopyingStepper:
    if strategy not in ("auto", "leaves", "copy"):
        raise UserError(f"strategy must be 'auto', 'leaves' or 'copy', not {strategy!r}")
    reason = refusal(model) if strategy != "copy" else ""
    if strategy == "leaves" and reason:
        raise UserError(f"{type(model).__name__} cannot run its candidates as leaves: {reason}. Use strategy='auto'")
    return LeafStepper(model, model_kwargs) if reason is None else CopyingStepper(model, model_kwargs)


def _likeliest(probs: Tensor, scores: Tensor, k: int) -> Tensor:
    """The k likeliest tokens, `[B, k]`, best first; for k = 1 by the same `argmax` as greedy search."""
    if k == 1:
        return scores.argmax(dim=-1, keepdim=True)
    return probs.topk(k, dim=-1).indices


def _precise(logits: Tensor, device: torch.device) -> Tensor:
    """A copy that processors may change, in float32 at least."""
    return logits.to(copy=True, dtype=torch.promote_types(logits.dtype, torch.float32), device=device)
