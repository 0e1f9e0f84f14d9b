"""BECLR (arXiv 2402.02444): before the loss, each batch is enlarged by the neighbours of its samples in a clustered
memory (DyCE). Its inference, OpTA, is `nearfar.classifiers.OpTA`.

    L = (L_pos(p_1, z'_2) + L_pos(p_2, z'_1)) / 2  +  weight * L_neg(z_1, z_2)

p = h(g(f(x))) and z = g(f(x)) are the student's, z' the slow teacher's; L_pos is the mean of - cos, and L_neg the log
of the mean of exp(cos / t) over pairs of different samples. Without neighbours this is UniSiam with a teacher.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.losses.alignment_uniformity import view_uniformity
from nearfar.losses.groups import unit
from nearfar.methods.base import Batch, Method
from nearfar.methods.parts.clustered_memory import ClusteredMemory, Neighbours, Score
from nearfar.methods.parts.mean_teacher import MeanTeacher
from nearfar.methods.parts.pending import Pending
from nearfar.methods.parts.view_projections import project, projected_dim, spread, together, views_of
from nearfar.models.image.block_masking import BlockMasking
from nearfar.models.image.projector import MLP

Mode = Literal["live", "official"]
MEMORIES: dict[str, tuple[str, ...]] = {"live": ("teacher",), "official": ("teacher", "predicted", "student")}


class BECLR(Method):
    """BECLR over any model with `encode_image`; it trains through `project_image` where there is one.

    Student and teacher take both views in one pass, as in the released code: batch norm sees them together. The
    neighbours of a batch are searched before it is pushed, so that none is a sample's own copy; the released code
    pushes first, and finds copies.

    Args:
        model: the image encoder to train; `.model` is what to evaluate and save. The predictor is the method's own.
        neighbours: k, of each view (paper: 5 for a ResNet-18, 3 for a ResNet-50); 0 is UniSiam with a teacher.
        mode: "live" draws p towards the neighbours of its target, as the paper describes it. "official" enlarges p, z
            and z' from three memories, as the released code does: the neighbours' share of L_pos is then constant, its
            gradient 1 / (1 + k) of the plain one, and in L_neg samples are driven away from their own neighbours.
        least_cosine: neighbours below it do not count ("live" only). Neighbours that are mostly wrong do harm.
        start_epoch: epochs before neighbours count (paper: 60 of 400).
        clusters: of each memory (paper: 200 on miniImageNet).
        memory_size: embeddings in each memory (paper: 8,193).
        recluster_every: epochs between fresh k-means (paper: 60).
        score, epsilon: of the memories' assignment; see `ClusteredMemory`.
        temperature: t, a divisor (paper: 2).
        weight: of L_neg (paper: 0.1).
        momentum: the teacher's old share at the first step (paper: 0.995); it rises to 1 along a cosine.
        total_steps: the steps until it is 1; None: those of the run, or in a loop of your own it stays as it is.
        predictor_hidden: width of the predictor's hidden layer (paper: 128).
        masked: mean share of the student's pixels that blocks of patches hide (paper: 0.15; 0 on small pictures).
        patch: side of a patch (paper: 16).

    The batch has `views` `[V, B, 3, H, W]`. Logs `alignment` (L_pos), `uniformity` (L_neg), `spread`, `momentum`, and
    of the neighbours that count `neighbours` (how many a view) and `neighbour_cosine`.

    Raises:
        UserError: settings out of their range, or a mode that is none.

    Example:
        >>> from nearfar.models import image_encoder
        >>> model = image_encoder("micro-resnet", projector={"hidden": 32, "out": 16, "norm": "all"})
        >>> method = BECLR(model, clusters=2, memory_size=8, predictor_hidden=8, masked=0.0)
        >>> sorted(method({"views": torch.randn(2, 4, 3, 32, 32)}))
        ['alignment', 'loss', 'momentum', 'neighbour_cosine', 'neighbours', 'spread', 'uniformity']
    """

    views = "beclr"
    n_views = 2
    validation_views = None

    epochs: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        neighbours: int = 5,
        mode: Mode = "live",
        least_cosine: float = -1.0,
        start_epoch: int = 60,
        clusters: int = 200,
        memory_size: int = 8193,
        recluster_every: int = 60,
        score: Score = "distance",
        epsilon: float = 0.1,
        temperature: float = 2.0,
        weight: float = 0.1,
        momentum: float = 0.995,
        total_steps: int | None = None,
        predictor_hidden: int = 128,
        masked: float = 0.15,
        patch: int = 16,
    ) -> None:
        super().__init__()
        if mode not in MEMORIES:
            raise UserError(f"mode={mode!r}: choose live or official")
        if neighbours < 0 or start_epoch < 0 or recluster_every < 1:
            raise UserError(
                f"neighbours={neighbours} and start_epoch={start_epoch} must be at least 0, and "
                f"recluster_every={recluster_every} at least 1"
            )
        self.model = model
        width = projected_dim(model)
        self.predictor = MLP(width, layers=2, hidden=predictor_hidden, out=width, norm="hidden")
        self.teacher = MeanTeacher(model, momentum, total_steps=total_steps)
        self.masking = BlockMasking(masked, patch=patch)
        self.neighbours, self.mode, self.least_cosine = neighbours, mode, least_cosine
        self.start_epoch, self.recluster_every = start_epoch, recluster_every
        self.temperature, self.weight = temperature, weight
        settings: dict[str, Any] = {"score": score, "epsilon": epsilon}
        kinds = MEMORIES[mode] if neighbours else ()
        self.memories: Any = nn.ModuleDict(
            {name: ClusteredMemory(width, memory_size, clusters, **settings) for name in kinds}
        )
        self.register_buffer("epochs", torch.zeros((), dtype=torch.long))
        self._pending: Pending[tuple[dict[str, Tensor], Tensor]] = Pending()

    def begin(self, data: DataInfo) -> None:
        super().begin(data)
        self.teacher.total_steps = self.teacher.total_steps or data.steps

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        large, _ = views_of(batch)
        index = batch.get("index")
        z = together(partial(project, self.model), [self.masking(view) for view in large[:2]])
        p = together(self.predictor, z)
        with self.teacher.teaching() as slow:
            z_slow = together(partial(project, slow), large[:2])
        views = {"teacher": z_slow, "predicted": p, "student": z}
        near = {name: self._neighbours(name, views[name], index) for name in self.memories} if self.enlarges else {}
        if near and self.mode == "official":
            views = {name: [enlarge(*each) for each in zip(views[name], near[name], strict=True)] for name in views}
        z_slow, p, z = views.values()
        crossed = near.get("teacher", [None, None]) if self.mode == "live" else [None, None]
        first = live_alignment(p[0], z_slow[1], crossed[1], least_cosine=self.least_cosine)
        second = live_alignment(p[1], z_slow[0], crossed[0], least_cosine=self.least_cosine)
        alignment, uniformity = (first + second) / 2, view_uniformity(z[0], z[1], temperature=self.temperature)
        loss = alignment + self.weight * uniformity
        self._push_after(loss, views, len(large[0]), index)
        logs = {"alignment": alignment.detach(), "uniformity": uniformity.detach(), "spread": spread(z[0])}
        logs |= self._logged(near.get("teacher", []))
        return {"loss": loss, **logs, "momentum": torch.tensor(self.teacher.momentum)}

    @property
    def enlarges(self) -> bool:
        """Whether neighbours count yet: the memories have clusters, and the first epochs are over."""
        memories = list(self.memories.values())
        return bool(memories) and int(self.epochs) >= self.start_epoch and all(m.clustered for m in memories)

    def before_step(self) -> None:
        self.teacher.forget()
        self._pending.take()

    def after_step(self, step: int) -> None:
        super().after_step(step)
        self.teacher.update()
        for rows, index in self._pending.take():
            for name, memory in self.memories.items():
                memory.push(rows[name], index)

    def after_epoch(self, epoch: int, refresh: Callable[[], dict[str, Tensor]]) -> None:
        self.epochs.fill_(epoch + 1)
        for memory in self.memories.values():
            if memory.clustered and (epoch + 1) % self.recluster_every == 0:
                memory.recluster()

    def _neighbours(self, name: str, views: list[Tensor], index: Tensor | None) -> list[Neighbours]:
        """Those of each view, chosen for each by itself."""
        return [self.memories[name].neighbours(view, self.neighbours, index) for view in views]

    def _push_after(self, loss: Tensor, views: dict[str, list[Tensor]], size: int, index: Tensor | None) -> None:
        """What the memories get once the step is made: both views' own embeddings, without neighbours."""
        rows = {name: torch.cat([view[:size] for view in views[name]]).detach() for name in self.memories}
        ids = torch.full((size,), -1) if index is None else index
        self._pending.after_backward(loss, (rows, ids.repeat(2).to(loss.device)))

    def _logged(self, near: list[Neighbours]) -> dict[str, Tensor]:
        """How many neighbours count, a view, and their mean cosine."""
        cosine = torch.cat([each.cosine for each in near]) if near else torch.full((1, 1), -torch.inf)
        counts = cosine >= self.least_cosine
        mean = cosine.where(counts, 0).sum() / counts.sum().clamp(min=1)
        return {"neighbours": counts.sum(1).float().mean(), "neighbour_cosine": mean}


def live_alignment(p: Tensor, target: Tensor, near: Neighbours | None = None, *, least_cosine: float = -1.0) -> Tensor:
    """The mean over rows of - cos, of `p` `[B, D]` in floating point with its `target` `[B, D]`, which gets no
    gradient, and with the target's neighbours, all alike. Neighbours below `least_cosine` do not count.

    >>> live_alignment(torch.eye(2), torch.eye(2)).item()
    -1.0
    """
    unit_p, unit_target = unit(p), unit(target.detach())
    own = (unit_p * unit_target).sum(1)
    if near is None:
        return -own.mean()
    counts = (near.cosine >= least_cosine).to(own)
    others = torch.einsum("bd,bkd->bk", unit_p, near.features.to(own))
    return -((own + (others * counts).sum(1)) / (1 + counts.sum(1))).mean()


def enlarge(view: Tensor, near: Neighbours) -> Tensor:
    """`[B + B k, D]`: a view's embeddings `[B, D]`, floating point, made unit, then its neighbours, sample-major and
    without gradient."""
    return torch.cat([unit(view), near.features.flatten(0, 1).to(view)])
