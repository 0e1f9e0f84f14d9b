"""What methods on sentences share: the views of a batch's sentences, its hard negatives, and the head of training, as
SimCSE has it (arXiv 2104.08821)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from nearfar.errors import UserError
from nearfar.methods.base import Batch

Head = Literal["mlp", "none"]


def embed_sentences(model: Any, batch: Batch, copies: int) -> dict[str, Tensor]:
    """`view_0`, `view_1` ... `[B, D]`, floating point: the two texts of each pair, where the batch has `text2`; else
    `copies` passes of each text, that differ by the model's dropout. `negative` `[B * K, D]` where it has hard
    negatives: only those that are real go through the model."""
    if "text2" in batch:
        views = [model.encode_text(batch["text"]), model.encode_text(batch["text2"])]
    else:
        views = list(model.encode_text(_each(batch["text"], lambda value: torch.cat([value] * copies))).chunk(copies))
    embeddings = {f"view_{place}": view for place, view in enumerate(views)}
    if "negative_text" in batch:
        tokens = batch["negative_text"]
        count = len(next(iter(tokens.values())) if isinstance(tokens, Mapping) else tokens)
        rows = _real(batch, count).nonzero().flatten()
        rows = rows if len(rows) else rows.new_zeros(1)  # one at least, so that a chunk without any has a graph
        z = model.encode_text(_each(tokens, lambda value: value[rows]))
        embeddings["negative"] = z.new_zeros(count, z.shape[1]).index_copy(0, rows, z)
    return embeddings


def _each(tokens: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A dict of tokens, or features, with each tensor changed."""
    return {name: change(value) for name, value in tokens.items()} if isinstance(tokens, Mapping) else change(tokens)


def hard_negatives(embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """The arguments `negatives` `[K, D]`, floating point, and `negative_of` `[K]` int64 of a loss, of the `embeddings`
    `[B, D]` of `embed_sentences`: the real ones of all rows; nothing where the batch has none."""
    if "negative" not in embeddings:
        return {}
    z = embeddings["negative"]
    real = _real(batch, len(z))
    samples = len(embeddings["view_0"])
    owner = torch.arange(samples, device=z.device).repeat_interleave(len(z) // samples)
    return {"negatives": z[real], "negative_of": owner[real]}


def _real(batch: Batch, rows: int) -> Tensor:
    """Which of the K hard negatives a sample are no filling, `[B * K]` bool."""
    count = batch.get("negative_count")
    if count is None:
        count = batch.get("has_negative")
        if count is None:
            raise UserError(
                "hard negatives need 'negative_count' or 'has_negative' [B] in the batch: how many are real"
            )
        count = count * (rows // len(count))
    each = rows // len(count)
    return (torch.arange(each, device=count.device) < count[:, None]).flatten()


def views_in(embeddings: Mapping[str, Tensor]) -> list[Tensor]:
    """The views, in order, of `embeddings` `[B, D]`, floating point, by name."""
    return [value for name, value in embeddings.items() if name.startswith("view_")]


def check_apart(views: list[Tensor], batch_has_pairs: bool) -> None:
    """Raise a UserError where passes of one text gave the same `views` `[B, D]`, floating point: there is no dropout to
    learn from."""
    if not batch_has_pairs and len(views[0]) > 1 and all(torch.equal(views[0], view) for view in views[1:]):
        raise UserError(
            "two passes of each sentence gave the same embeddings: the model has no dropout, which is all that makes "
            "its views differ. Take a model with dropout (of transformers, from_pretrained(NAME, "
            "hidden_dropout_prob=0.1)), or train on pairs of texts"
        )


def training_head(width: int, head: Head) -> nn.Module:
    """The head that training alone has: a layer as wide as the embeddings and tanh, with BERT's start; or nothing.

    Raises:
        UserError: no such head.
    """
    if head not in get_args(Head):
        raise UserError(f"head={head!r}: choose mlp or none")
    if head == "none":
        return nn.Identity()
    layer = nn.Linear(width, width)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(layer, nn.Tanh())
