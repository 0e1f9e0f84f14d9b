"""PixPro and PixContrast (arXiv 2011.10043): the cells of two views of a picture agree where they show the same place.

    y = PPM(h(f(v))) ,   x' = h'(f'(v))      f the encoder's map, h the projector, f' and h' their slow copies
    L = R(y_1, x'_2) + R(y_2, x'_1)  +  alpha * instance loss

R is pixel consistency over near cells, which the geometry of the views tells. Nothing is gathered: the loss is of each
picture by itself.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.losses.near_cells import Cells, NearCells, cells_of_views
from nearfar.losses.pix_contrast import PixContrast
from nearfar.losses.pixel_consistency import PixelConsistency
from nearfar.methods.base import Batch, Method
from nearfar.methods.parts.mean_teacher import MeanTeacher, Normalise, Statistics
from nearfar.methods.parts.view_projections import cosine_distance, spread, views_of
from nearfar.models.image.pixel_propagation import CellProjector, PixelPropagation

Pixels = Literal["propagated", "plain", "contrast", "none"]
PIXELS = ("propagated", "plain", "contrast", "none")


class PixPro(Method):
    """PixPro over any model with `encode_image_map`; what is evaluated and saved is the model, without the heads.

    Views go through encoder and slow copy one by one: batch norm sees each by itself, which forbids chunks of a batch.

    Args:
        model: the image encoder to train, with `encode_image_map(pixels) -> [B, D, H, W]` and `embed_dim`. Heads and
            propagation module are the method's own.
        pixels: what is done with cells: "propagated" is PixPro, "plain" the same without propagation, "contrast"
            PixContrast, "none" leaves the instance branch alone.
        threshold: T, how far apart near cells may be, in units of the larger cell diagonal (paper: 0.7).
        gamma: sharpness of the propagation (paper: 2).
        layers: of its g (paper: 1).
        unit_values: whether g(x) is normalised before it is summed, as in the released code; not so in the paper.
        scale: of the cosines, of cells and of instances (paper: 1; the released code: 2, so that its loss ends at -4).
        temperature: tau of PixContrast (paper: 0.3), fixed.
        instance_weight: alpha of the instance branch, a predictor over pooled maps as BYOL has it; 0 leaves it out
            (paper: 0; 1 where it adds the branch).
        hidden, out: widths of all heads (paper: 4096 and 256).
        momentum: the old share of the slow copy at the first step (paper: 0.99); it rises to 1 along a cosine.
        total_steps: the steps until it is 1; None: those of the run, or in a loop of your own it stays as it is.
        normalise: what batch norm in the slow copy normalises by: the statistics of its own "batch" (paper), or the
            "running" ones of the encoder.

    The batch has `views` `[V, B, 3, H, W]`, of which the first two count, `geometry` `[V, B, 3, 3]` and, where pictures
    are not square, `picture_size` `[B, 2]`. Logs `pixel_loss`, `instance_loss`, `spread` (of the projected cells; 0 is
    collapse, which the loss does not show), `momentum`, `positives` (pairs of near cells a picture), `covered` (share
    of cells that have one) and `apart` (share of pictures without any).

    Raises:
        UserError: settings out of their range, or nothing to train by; a model without maps.

    Example:
        >>> from nearfar.models import image_encoder
        >>> method = PixPro(image_encoder("micro-resnet"), hidden=16, out=8)
        >>> batch = {"views": torch.randn(2, 4, 3, 32, 32), "geometry": torch.eye(3).expand(2, 4, 3, 3)}
        >>> sorted(method(batch))
        ['apart', 'covered', 'loss', 'momentum', 'pixel_loss', 'positives', 'spread']
    """

    views = "byol"
    n_views = 2
    validation_views = None

    def __init__(
        self,
        model: nn.Module,
        *,
        pixels: Pixels = "propagated",
        threshold: float = 0.7,
        gamma: float = 2.0,
        layers: int = 1,
        unit_values: bool = False,
        scale: float = 1.0,
        temperature: float = 0.3,
        instance_weight: float = 0.0,
        hidden: int = 4096,
        out: int = 256,
        momentum: float = 0.99,
        total_steps: int | None = None,
        normalise: Normalise = "batch",
    ) -> None:
        super().__init__()
        if pixels not in PIXELS:
            raise UserError(f"pixels={pixels!r}: choose {', '.join(PIXELS)}")
        if not threshold > 0:
            raise UserError(f"threshold={threshold}: how near two cells must be, a number above 0 (paper: 0.7)")
        if not instance_weight >= 0:
            raise UserError(f"instance_weight={instance_weight}: a number from 0 on")
        if pixels == "none" and not instance_weight:
            raise UserError("pixels='none' leaves the instance loss alone: give it a weight, instance_weight=1, say")
        self.model = model
        self.pixels, self.threshold = pixels, threshold
        self.scale, self.instance_weight = scale, instance_weight
        width = _map_width(model)
        self.projector = CellProjector(width, hidden=hidden, out=out) if pixels != "none" else None
        self.propagation = (
            PixelPropagation(out, gamma=gamma, layers=layers, unit_values=unit_values)
            if pixels == "propagated"
            else None
        )
        self.consistency = PixelConsistency(scale)
        self.contrast = PixContrast(temperature, learnable=False) if pixels == "contrast" else None
        self.instance_projector = CellProjector(width, hidden=hidden, out=out) if instance_weight else None
        self.predictor = CellProjector(out, hidden=hidden, out=out) if instance_weight else None
        statistics: Statistics = "own" if normalise == "batch" else "copied"
        followed = _Heads(model, self.projector, self.instance_projector)
        self.teacher = MeanTeacher(
            followed, momentum, total_steps=total_steps, normalise=normalise, statistics=statistics
        )

    def begin(self, data: DataInfo) -> None:
        super().begin(data)
        self.teacher.total_steps = self.teacher.total_steps or data.steps

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        views = views_of(batch)[0][:2]
        maps = [self.model.encode_image_map(view) for view in views]
        with self.teacher.teaching() as slow:
            keys = [slow(view) for view in views]
        terms: dict[str, Tensor] = {}
        if self.projector is not None:
            x = [self.projector(each) for each in maps]
            near = self._near(batch, [each.shape[2:] for each in maps])
            terms |= {"pixel_loss": self._pixel_loss(x, [cells for cells, _ in keys], near)}
            terms |= {"spread": spread(torch.cat([each.movedim(1, -1).flatten(0, 2) for each in x]))} | counted(near)
        if self.instance_projector is not None and self.predictor is not None:
            z = [self.predictor(self.instance_projector(each)).mean((2, 3)) for each in maps]
            terms["instance_loss"] = self._instance_loss(z, [pooled for _, pooled in keys])
            terms.setdefault("spread", spread(torch.cat(z)))
        weights = {"pixel_loss": 1.0, "instance_loss": self.instance_weight}
        loss = torch.stack([weight * terms[name] for name, weight in weights.items() if name in terms]).sum()
        logged = {name: value.detach() for name, value in terms.items()}
        return {"loss": loss, **logged, "momentum": torch.tensor(self.teacher.momentum)}

    def _near(self, batch: Batch, grids: list[torch.Size]) -> NearCells:
        """Which cells of the first view are near which of the second."""
        size = batch.get("picture_size")

        def cells(view: int) -> Cells:
            pixels = batch["views"].shape[-2:]
            return cells_of_views(batch["geometry"][view], grids[view], view_size=pixels, picture_size=size)

        if "geometry" not in batch:
            raise UserError("PixPro needs the batch's 'geometry' [V, B, 3, 3]: from which place each view was taken")
        return NearCells(cells(0), cells(1), self.threshold)

    def _pixel_loss(self, x: list[Tensor], keys: list[Tensor], near: NearCells) -> Tensor:
        if self.contrast is not None:
            return (self.contrast(x[0], keys[1], near) + self.contrast(x[1], keys[0], near.mT)) / 2
        y = x if self.propagation is None else [self.propagation(each) for each in x]
        return self.consistency(y[0], keys[1], near) + self.consistency(y[1], keys[0], near.mT)

    def _instance_loss(self, z: list[Tensor], keys: list[Tensor]) -> Tensor:
        """- cos in both directions, of vectors pooled after the heads, over maps of any size."""
        return self.scale * (cosine_distance(z[0], keys[1]) + cosine_distance(z[1], keys[0]) - 2)

    def before_step(self) -> None:
        self.teacher.forget()

    def after_step(self, step: int) -> None:
        super().after_step(step)
        self.teacher.update()


class _Heads(nn.Module):
    """What the slow copy is a copy of: of a view's pixels, its projected cells and its pooled instance."""

    def __init__(self, model: nn.Module, projector: nn.Module | None, instance_projector: nn.Module | None) -> None:
        super().__init__()
        self.model: Any = model
        self.projector, self.instance_projector = projector, instance_projector

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        grid = self.model.encode_image_map(pixels)
        cells = grid if self.projector is None else self.projector(grid)
        instance = grid if self.instance_projector is None else self.instance_projector(grid)
        return cells, instance.mean((2, 3))


def counted(near: NearCells) -> dict[str, Tensor]:
    """Of a batch's near cells, as float32 scalars: how many pairs a picture has, the share of the first view's cells
    that have one, and the share of pictures that have none."""
    counts = near.counts().float()
    pairs = counts.sum(1)
    return {"positives": pairs.mean(), "covered": (counts > 0).float().mean(), "apart": (pairs == 0).float().mean()}


def _map_width(model: Any) -> int:
    if not hasattr(model, "encode_image_map"):
        raise UserError(
            f"a {type(model).__name__} gives no maps: PixPro needs encode_image_map(pixels) -> [B, D, H, W], as the "
            "models of nearfar.models.image_encoder have it"
        )
    width = getattr(model, "embed_dim", None)
    if not isinstance(width, int):
        raise UserError(f"a {type(model).__name__} does not say how wide its maps are: give it embed_dim")
    return width
