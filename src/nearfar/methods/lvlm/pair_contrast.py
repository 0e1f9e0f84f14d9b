"""What methods share that train a vision-language model on pairs of pictures that hardly differ, each with a text of
its own, against a frozen reference: S-VCO (arXiv 2502.13928), DPO and image DPO."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.distributed import mean_weight
from nearfar.errors import UserError
from nearfar.methods.base import Batch, Method
from nearfar.methods.lvlm.pair_losses import PairLikelihoods
from nearfar.methods.lvlm.start_reference import StartReference
from nearfar.methods.parts.pending import Pending
from nearfar.methods.parts.sample_table import SampleTable
from nearfar.models.vlm.token_likelihoods import token_log_likelihoods
from nearfar.models.vlm.word_sequences import WordSequences

ALIKE = 1e-3
"""How far what identifies a picture may lie apart from pass to pass, for the arithmetic's sake."""


class PairScores(NamedTuple):
    """Of B pairs the likelihoods of their texts, and the negative log-likelihood a token of each with its own picture,
    the mean over `tokens`, a scalar."""

    likelihoods: PairLikelihoods
    token_loss: Tensor
    tokens: Tensor


class PairContrast(Method):
    """What S-VCO, DPO and image DPO share: how likely the model and the reference find the texts of each pair.

    Args:
        model: a `nearfar.models.VisionLanguageModel`. The reference is a frozen copy of it as it is here; where
            nothing but adapters of peft is trained, it is the model with its adapters off.
        anchor: weight of plain next-token prediction on each picture's own text, added to the loss. Without it nothing
            keeps a text's likelihood with its own picture from falling, as long as others fall more.
        cache_reference: compute the reference's likelihoods of a sample once and keep them, six numbers a sample. Its
            pictures and texts must then be the same in each pass (`views: none`, `caption: first`).

    The batch has `image` and `image2` `[B, 3, S, S]` float32, `text` and `text2`, tokens `[B, L]` int64; where the data
    have one a `prompt`, tokens too; and with `cache_reference` `index` `[B]` int64.

    Raises:
        UserError: a model that writes no captions, or `anchor` below 0.
    """

    views = "none"
    picture_pairs = True
    reads_alone = False
    """Whether the loss reads the likelihoods of texts without a picture."""

    def __init__(self, model: Any, *, anchor: float = 0.0, cache_reference: bool = False) -> None:
        super().__init__()
        if not (hasattr(model, "caption") and hasattr(model, "likelihoods")):
            raise UserError(
                f"a {type(model).__name__} writes no captions: make a model with model.make=vision_language_model, or "
                "nearfar.models.vision_language_model(...)"
            )
        if not 0 <= anchor < float("inf"):
            raise UserError(f"anchor={anchor}: a number of at least 0; 0 leaves it out, as the paper does")
        self.model, self.anchor = model, anchor
        self.reference = StartReference(model)
        unknown = torch.full((6,), torch.nan)
        self.cache = SampleTable(likelihoods=unknown, content=torch.zeros(3)) if cache_reference else None
        self._pending: Pending[tuple[Tensor, Tensor, Tensor]] = Pending()

    @abstractmethod
    def loss_of(self, policy: PairLikelihoods, reference: PairLikelihoods) -> Tensor:
        """The loss of some pairs, a scalar."""

    @abstractmethod
    def margins_of(self, policy: PairLikelihoods, reference: PairLikelihoods) -> dict[str, Tensor]:
        """What is to be above 0, by name: tensors of any shape in floating point."""

    def other_pictures(self, model: Any, batch: Batch, own: Tensor) -> Tensor:
        """The tokens `[2 B, P, W]` of the picture that each text is not of, in the dtype of `own` `[2 B, P, W]`, those
        of the first and then of the second pictures. Here: of the pair's other one."""
        return own.roll(len(own) // 2, 0)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        reference = self._reference_likelihoods(batch)  # first: its adapters are on again when the model's turn comes
        policy, token_loss, tokens = self.scores(self.model, batch)
        loss, logs = self.loss_of(policy, reference), self._logs(policy, reference)
        if self.training:  # the means over the pairs, and the tokens, of all processes
            weight = mean_weight(torch.tensor(len(batch["image"]), device=loss.device))
            loss, logs = loss * weight, {name: value * weight for name, value in logs.items()}
            token_loss = token_loss * mean_weight(tokens)
        if self.anchor:
            loss = loss + self.anchor * token_loss
        if self.training and self.cache is not None:
            # Also what is known already: all processes write together, and know different samples.
            kept = torch.cat(_whole(reference), 1)
            self._pending.after_backward(loss, (batch["index"], kept, _content(batch)))
        return {"loss": loss, "token_loss": token_loss.detach(), **logs}

    def before_step(self) -> None:
        self._pending.take()

    def after_step(self, step: int) -> None:
        super().after_step(step)
        for ids, likelihoods, content in self._pending.take():
            if self.cache is not None:
                self.cache.write(ids, likelihoods=likelihoods, content=content)

    def scores(self, model: Any, batch: Batch) -> PairScores:
        """What a model, the trained one or the reference, says of a batch's pairs. Each picture is encoded once."""
        count = len(batch["image"])
        words = _words(model, batch)
        own = model.picture_tokens(torch.cat([batch["image"], batch["image2"]]))
        pictures = torch.cat([own, self.other_pictures(model, batch, own)])
        score = _token_scores(model, pictures, WordSequences(*(torch.cat([each, each]) for each in words)))
        with_own, with_other = score.sum(1).view(2, 2, count).mT
        alone = _token_scores(model, None, words).sum(1).view(2, count).mT if self.reads_alone else None
        tokens = (words.targets[:, 1:] >= 0).sum()
        token_loss = -score[: 2 * count].sum() / tokens
        return PairScores(PairLikelihoods(with_own, with_other, alone), token_loss, tokens)

    def _reference_likelihoods(self, batch: Batch) -> PairLikelihoods:
        """The reference's, of the table where it has those of all samples of the batch. In validation they are
        computed: its samples are others."""
        if self.cache is not None and self.training:
            known, before = (self.cache.read(name, batch["index"]) for name in ("likelihoods", "content"))
            there = ~known.isnan().any(1)
            changed = there & ((before - _content(batch)).abs() > ALIKE).any(1)
            if changed.any():
                ids = ", ".join(map(str, batch["index"][changed][:5].tolist()))
                raise UserError(
                    f"cache_reference keeps what the reference says of a sample, and samples {ids} have other pictures "
                    "or texts than before: train with views: none and caption: first, or leave it out"
                )
            if there.all():
                return PairLikelihoods(*known.split(2, 1))
        return self.reference.of(self.model, lambda model: self.scores(model, batch).likelihoods)

    @torch.no_grad()
    def _logs(self, policy: PairLikelihoods, reference: PairLikelihoods) -> dict[str, Tensor]:
        logs: dict[str, Tensor] = {}
        for name, margin in self.margins_of(policy, reference).items():
            logs |= {f"{name}_margin": margin.mean(), f"{name}_accuracy": (margin > 0).to(margin.dtype).mean()}
        for name, own, start in zip(PairLikelihoods._fields, policy, reference, strict=True):
            if own is not None and start is not None:
                logs[f"{name}_reward"] = (own - start).mean()
        return logs


def joined(first: Any, second: Any) -> dict[str, Tensor]:
    """Tokens `[2 B, L]` int64 of two batches of texts, one after the other, padded to the longer one's length.

    >>> ones = {"input_ids": torch.ones(1, 2).long(), "attention_mask": torch.ones(1, 2).long()}
    >>> joined(ones, {name: value[:, :1] for name, value in ones.items()})["attention_mask"]
    tensor([[1, 1],
            [1, 0]])
    """
    width = max(each["input_ids"].shape[1] for each in (first, second))
    return {
        name: torch.cat([F.pad(each[name], (0, width - each[name].shape[1])) for each in (first, second)])
        for name in ("input_ids", "attention_mask")
    }


def _words(model: Any, batch: Batch) -> WordSequences:
    """The first and then the second texts, each behind its prompt."""
    prompt = joined(batch["prompt"], batch["prompt"]) if "prompt" in batch else None
    return model.sequences(joined(batch["text"], batch["text2"]), prompt)


def _token_scores(model: Any, pictures: Tensor | None, words: WordSequences) -> Tensor:
    """The log-likelihood of each token `[N, T]`, float32 or wider, 0 where there is none."""
    return token_log_likelihoods(model.logits(pictures, words), words.targets[:, 1:])


def _whole(likelihoods: PairLikelihoods) -> list[Tensor]:
    own, other, alone = likelihoods
    return [own, other, torch.zeros_like(own) if alone is None else alone]


def _content(batch: Batch) -> Tensor:
    """Three numbers `[B, 3]` float32 that change with the pictures and texts of a sample."""
    numbers = []
    for key in ("image", "image2"):
        pixels = batch[key].float()
        ramp = torch.linspace(0.5, 1.5, pixels.shape[-1], device=pixels.device)  # else a mirrored one were the same
        numbers.append((pixels * ramp).mean((1, 2, 3)))
    ids = torch.cat([batch[key]["input_ids"] * batch[key]["attention_mask"] for key in ("text", "text2")], 1)
    places = torch.cat([torch.arange(1, batch[key]["input_ids"].shape[1] + 1) for key in ("text", "text2")])
    numbers.append(((ids * places.to(ids.device)).sum(1) % 65521).float())
    return torch.stack(numbers, 1)
