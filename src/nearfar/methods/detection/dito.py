"""DITO (arXiv 2310.00161): a detector's head learns from captions, by contrast of random regions and texts.

    r_{l,i} = head(RoIAlign(P_l, box_{l,i}))         random boxes, n_l of them on level l of the pyramid
    v_l     = max_i r_{l,i}                          elementwise, then of unit length
    L       = sum_l InfoNCE(v_l, t)                  t the caption, negatives of the whole batch of all processes

The released code has no pretraining; this is the paper's description.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nearfar.errors import UserError
from nearfar.losses import InfoNCE
from nearfar.losses.temperature import RELEASED_BY_CLIP, Temperature
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.parts.temperature_start import start_temperature
from nearfar.ops.regions import sample_random_boxes

BOXES = {2: 64, 3: 32, 4: 16, 5: 8}
"""How many boxes a picture has on each level by default; the paper says no more than that finer levels have more."""


class DITO(EmbeddingMethod):
    """Detection-oriented pretraining of a `nearfar.models.detector`: pyramid and head, backbone and texts. Proposals
    and corrections of boxes learn nothing here.

    Args:
        model: the detector, with a pair that was trained on whole pictures before; `.model` is what to evaluate and
            save.
        boxes: how many random boxes a picture has on each of the model's levels, finest first; None: 64, 32, 16 and 8
            on levels 2 to 5.
        size: the least and the largest side of boxes, in shares of the picture's (paper: about 0.05 to 0.5).
        aspect: the least and the largest width over height (paper: 0.5 to 2).
        pool: what a picture's vector on a level is, of its regions': the "max" of each number (paper), or the "mean".
        over_levels: whether the levels' losses are added up ("sum") or averaged ("mean").
        freeze_backbone: whether transformer and texts stay as they are, so that pyramid and head learn alone.
        temperature: initial temperature, learned on a log scale and kept within [0.01, 1]. None: the model's own, if
            it was trained before, else 0.07.

    Logs `temperature`, and `loss_2` to `loss_5` of the levels.

    Raises:
        UserError: another model, levels that it has not, or a setting out of its range.

    >>> from nearfar.data import train_tokenizer
    >>> from nearfar.models import detector
    >>> model = detector("tiny-vit", window=4, levels=[4, 5], width=16, hidden=32,
    ...     tokenizer=train_tokenizer(["a cat"], 300))
    >>> batch = {"image": torch.rand(2, 3, 64, 64), "text": model.tokenize(["a cat", "a dog"])}
    >>> sorted(DITO(model, boxes=[3, 2])(batch))
    ['loss', 'loss_4', 'loss_5', 'temperature']
    """

    def __init__(
        self,
        model: Any,
        *,
        boxes: Sequence[int] | None = None,
        size: tuple[float, float] = (0.05, 0.5),
        aspect: tuple[float, float] = (0.5, 2.0),
        pool: Literal["max", "mean"] = "max",
        over_levels: Literal["sum", "mean"] = "sum",
        freeze_backbone: bool = False,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        if not hasattr(model, "level_regions"):
            raise UserError(
                f"dito trains a detector, and this is a {type(model).__name__}: make one of it with "
                "nearfar.models.detector (in a recipe, model.make: detector)"
            )
        levels = model.pyramid.levels
        counts = [BOXES[level] for level in levels] if boxes is None else list(boxes)
        if len(counts) != len(levels) or any(count < 1 for count in counts):
            raise UserError(f"boxes={counts}: a number from 1 on for each of the levels {', '.join(map(str, levels))}")
        if pool not in ("max", "mean"):
            raise UserError(f"pool={pool!r}: choose max or mean")
        if over_levels not in ("sum", "mean"):
            raise UserError(f"over_levels={over_levels!r}: choose sum or mean")
        sample_random_boxes(0, size=size, aspect=aspect)  # refuses ranges that are none
        self.model = model.train_parts("regions", *(() if freeze_backbone else ("image", "text")))
        self.counts, self.size, self.aspect = dict(zip(levels, counts, strict=True)), size, aspect
        self.pool, self.over_levels, self.freeze_backbone = pool, over_levels, freeze_backbone
        start = start_temperature(model, temperature, 0.07, bounds=RELEASED_BY_CLIP)
        self.loss = InfoNCE(Temperature(start, learnable=True, bounds=RELEASED_BY_CLIP))

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        pixels, side = batch["image"], batch["image"].shape[-1]
        embeddings = {"text": self.model.encode_text(batch["text"])}
        maps = self.model.pyramid_maps(pixels)
        for level, count in self.counts.items():
            boxes = side * sample_random_boxes(len(pixels), count, size=self.size, aspect=self.aspect)
            regions = self.model.head.embeddings(self.model.level_regions(maps[level], boxes, side))
            embeddings[f"level_{level}"] = pooled(regions, self.pool)
        return embeddings

    def ring_losses(self) -> list[nn.Module]:
        return [self.loss]

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        losses = {level: self.loss(embeddings[f"level_{level}"], embeddings["text"]) for level in self.counts}
        total = torch.stack(list(losses.values())).sum() / (len(losses) if self.over_levels == "mean" else 1)
        logs = {f"loss_{level}": loss.detach() for level, loss in losses.items()}
        return {"loss": total, **logs, "temperature": self.loss.temperature().detach()}


def pooled(regions: Tensor, pool: str) -> Tensor:
    """One vector `[B, D]` for each picture, not of unit length, of its regions' `[B, R, D]`, floating point.

    The maximum is of each number by itself, before anything is normalised: not that of similarities.

    >>> regions = torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])
    >>> pooled(regions, "max"), pooled(regions, "mean")
    (tensor([[1., 3.]]), tensor([[0.5000, 1.5000]]))
    """
    return regions.amax(1) if pool == "max" else regions.mean(1)
