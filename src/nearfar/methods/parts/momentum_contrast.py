"""What ALBEF and TCL keep beside the model they train: a momentum teacher, and queues of its features."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from nearfar import distributed
from nearfar.losses import Temperature
from nearfar.losses.functional import soft_target_info_nce
from nearfar.losses.groups import unit
from nearfar.methods.parts.distillation import Distillation
from nearfar.methods.parts.feature_queue import EMPTY, FeatureQueue


class Keys(NamedTuple):
    """Candidates of a contrastive loss: the batch's momentum features first, then the queue. M = B + K, where B is the
    batch of all processes in training, this process's part before the others'."""

    image: Tensor
    """`[M, D]` unit rows."""
    text: Tensor
    """`[M, D]` unit rows."""
    group: Tensor | None
    """`[M]` ids, -100 for the queue's random first rows; None when duplicates are taken for negatives."""


class MomentumContrast(Distillation):
    """Momentum teacher, feature queues and distillation weight of a dual encoder.

    Args:
        model, momentum, alpha, ramp_steps: as in `Distillation`.
        queue_size: features kept a modality; a multiple of the global batch; 0 for none.
        temperature: initial tau, a learned divisor kept within (0.001, 0.5), shared by teacher and student.
    """

    def __init__(self, model: Any, *, queue_size: int = 65536, temperature: float = 0.07, **distillation: Any) -> None:
        super().__init__(model, **distillation)
        self.image_queue = FeatureQueue(model.embed_dim, queue_size) if queue_size else None
        self.text_queue = FeatureQueue(model.embed_dim, queue_size) if queue_size else None
        self.temperature = Temperature(temperature, parametrisation="divisor", bounds=(0.001, 0.5))
        self._pending: list[tuple[Tensor, Tensor, Tensor | None]] = []

    @torch.no_grad()
    def teach(self, pixels: Tensor, tokens: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The teacher's image tokens `[B, 1 + P, W]`, text states `[B, L, W]`, unit embeddings v', w' `[B, D]`."""
        teacher = self.teacher.module
        image, text = teacher.image_tokens(pixels), teacher.text_tokens(tokens)
        return image, text, unit(teacher.image_projection(image[:, 0])), unit(teacher.text_projection(text[:, 0]))

    def keys(self, v_m: Tensor, w_m: Tensor, ids: Tensor | None) -> Keys:
        """The batch's momentum features, then the queues. In training they wait to be queued by `after_step`, and
        those of other processes join them, so that the loss is that of the whole batch; every process must call it."""
        if self.training:
            self._pending.append((v_m, w_m, ids))
            v_m, w_m, ids = _of_all(v_m), _of_all(w_m), None if ids is None else _of_all(ids)
        images, texts = self.image_queue, self.text_queue
        if images is None or texts is None:
            return Keys(v_m, w_m, ids)
        group = None if ids is None else torch.cat([ids, images.ids.clone()])
        return Keys(torch.cat([v_m, images.features]), torch.cat([w_m, texts.features]), group)

    def contrast(self, q: Tensor, keys: Tensor, group: Tensor | None, teacher_q: Tensor | None = None) -> Tensor:
        """InfoNCE of queries `[B, D]` against keys `[M, D]` with the teacher's soft targets; hard ones without."""
        return soft_target_info_nce(
            q,
            keys,
            teacher_q=teacher_q,
            temperature=self.temperature(),
            alpha=self.alpha_now() if teacher_q is not None else 0.0,
            q_group=None if group is None else group[: len(q)],
            k_group=group,
        )

    def after_step(self) -> None:
        """Move the teacher, queue what the step's forward passes saw, count the step."""
        super().after_step()
        for v_m, w_m, ids in self._pending:
            if self.image_queue is not None and self.text_queue is not None:
                self.image_queue.push(v_m, ids)
                self.text_queue.push(w_m, ids)
        self._pending.clear()


def _of_all(rows: Tensor) -> Tensor:
    """The rows of all processes, this one's own first: the positives of its queries stay in their places."""
    return distributed.gather_rows(rows).roll(-distributed.rank() * len(rows), 0)


def ids_of(batch: Any, share_duplicates: bool) -> Tensor | None:
    """The ids by which samples match: `group`, or `index` where there is none; None when duplicates do not count."""
    if not share_duplicates:
        return None
    ids = batch.get("group", batch.get("index"))
    if ids is not None and bool((ids == EMPTY).any()):
        raise ValueError(f"{EMPTY} is the id of an empty place in a queue: number the groups otherwise")
    return ids
