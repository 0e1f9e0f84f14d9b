"""WhitenedCSE (arXiv 2305.17746): SimCSE with several passes of each sentence, each whitened in groups of channels
drawn anew, so that the passes are distorted differently and the space is spread.

    c_r = encoder(x, dropout r)                       r = 1..m
    z_r = tanh( linear( SGW(c_r) ) )                  each with statistics and a permutation of its own
    L   = sum over r = 2..m of InfoNCE(z_1, z_r)

What is evaluated and saved is the encoder alone, without whitening and head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from nearfar import distributed
from nearfar.errors import UserError
from nearfar.losses.alignment_uniformity import alignment
from nearfar.losses.first_view import FirstViewInfoNCE, Reduction
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.parts.view_projections import spread
from nearfar.methods.text.sentence_views import Head, check_apart, embed_sentences, training_head, views_in
from nearfar.methods.text.whitening_layer import ShuffledGroupWhitening
from nearfar.ops.whitening import Kind

Shuffle = Literal["each", "shared", "none"]
Statistics = Literal["all", "process"]
Layout = Literal["views", "interleaved"]


class WhitenedCSE(EmbeddingMethod):
    """WhitenedCSE over any model with `encode_text`, on texts without pairs.

    Args:
        model: the encoder to train; `.model` is what to evaluate and save.
        temperature: tau (released code: 0.05), fixed.
        copies: m, passes of each sentence (released code: 3). The first must find each other.
        groups: of channels; they divide the width (released code: 128).
        shuffle: a permutation of the channels for "each" pass (paper), one "shared" by all passes of a step, or "none".
        detach: take the whitening matrix as a constant in the gradient, as the released code does, where it is wrapped
            anew; False sends the gradient through it.
        eps: added to the variances of a group (released code: 0).
        kind: "zca" (released code) or "cholesky".
        reduction: "sum" of the terms (released code) or their "mean".
        statistics: over "all" rows of a batch, of all processes, or over those of each "process", as released.
        layout: "views" whitens each pass by itself (paper). "interleaved" is what the released code does with three
            copies: rows lie sentence by sentence and are cut into thirds, so that nearly all passes of a sentence share
            a permutation, and are whitened otherwise than most negatives. For comparison alone.
        whitening: False leaves it out: SimCSE with `copies` passes.
        head: "mlp" (released code) or "none".

    Logs `alignment` of the first two passes, and `spread`, behind the head. In validation, where nothing is dropped,
    whitening and head are left out.

    Raises:
        UserError: a setting that is none of the choices, groups that do not divide the model's width; in training, a
            batch too small for its groups, or a model without dropout.

    Example:
        >>> class Noisy(nn.Module):
        ...     embed_dim = 4
        ...     def encode_text(self, rows): return rows + 0.1 * torch.randn_like(rows)
        >>> method = WhitenedCSE(Noisy(), groups=2, head="none").train()
        >>> sorted(method({"text": torch.randn(16, 4)}))
        ['alignment', 'loss', 'spread']
    """

    views = "none"
    reads = ()

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float = 0.05,
        copies: int = 3,
        groups: int = 128,
        shuffle: Shuffle = "each",
        detach: bool = True,
        eps: float = 0.0,
        kind: Kind = "zca",
        reduction: Reduction = "sum",
        statistics: Statistics = "all",
        layout: Layout = "views",
        whitening: bool = True,
        head: Head = "mlp",
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("shuffle", shuffle, Shuffle),
            ("statistics", statistics, Statistics),
            ("layout", layout, Layout),
        ):
            if value not in get_args(known):
                raise UserError(f"{name}={value!r}: choose one of {', '.join(get_args(known))}")
        if copies < 2:
            raise UserError(f"copies={copies}: a sentence needs two passes at least")
        width: int = model.embed_dim  # type: ignore[assignment]
        self.model, self.copies = model, copies
        self.whitening = (
            ShuffledGroupWhitening(width, groups, shuffle=shuffle != "none", eps=eps, kind=kind, detach=detach)
            if whitening
            else None
        )
        self.shared, self.by_process, self.interleaved = shuffle == "shared", statistics == "process", layout != "views"
        self.head = training_head(width, head)
        self.loss = FirstViewInfoNCE(temperature, learnable=False, reduction=reduction)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        # Rows stay apart here, so that gradient caching is exact: what mixes them is part of the objective.
        embeddings = embed_sentences(self.model, {"text": batch["text"]}, self.copies)
        if self.training:
            check_apart(views_in(embeddings), False)
        return embeddings

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        views = views_in(embeddings)
        if self.training:
            views = [self.head(view) for view in self.whitened(views)]
        loss = self.loss(views)
        aligned = alignment(views[0].detach(), views[1].detach())
        return {"loss": loss, "alignment": aligned, "spread": spread(views[0])}

    def whitened(self, views: list[Tensor]) -> list[Tensor]:
        """The passes `views` `[N, D]`, floating point, each whitened: over all rows, or those of each process."""
        if self.whitening is None:
            return views
        parts = distributed.world_size() if self.by_process else 1
        chunks = [self._whitened_part(list(part)) for part in zip(*(view.chunk(parts) for view in views), strict=True)]
        return [torch.cat(part) for part in zip(*chunks, strict=True)]

    def _whitened_part(self, views: list[Tensor]) -> list[Tensor]:
        assert self.whitening is not None
        count = len(views)
        if self.interleaved:
            views = list(torch.stack(views, 1).flatten(0, 1).chunk(count))
        common = self.whitening.draw() if self.shared else None
        views = [self.whitening(view, common) for view in views]
        return list(torch.cat(views).unflatten(0, (-1, count)).unbind(1)) if self.interleaved else views
