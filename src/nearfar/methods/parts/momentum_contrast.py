"""What ALBEF (arXiv 2107.07651) and TCL (arXiv 2202.10401) keep beside the model they train: a momentum teacher, and
queues of its features."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from nearfar import distributed
from nearfar.errors import UserError
from nearfar.losses import Temperature
from nearfar.losses.functional import soft_target_info_nce
from nearfar.losses.groups import unit
from nearfar.methods.parts.distillation import Distillation
from nearfar.methods.parts.feature_queue import EMPTY, FeatureQueue
from nearfar.methods.parts.pending import Pending
from nearfar.methods.parts.temperature_start import start_temperature
from nearfar.ops import sample_hard_negatives

BOUNDS = (0.001, 0.5)
"""What the released code keeps tau within."""


class ContrastKeys(NamedTuple):
    """Candidates of a contrastive loss: the batch's momentum features first, then the queue. M = B + K, where B is the
    batch of all processes in training, this process's part before the others'."""

    image: Tensor
    """`[M, D]` unit rows."""
    text: Tensor
    """`[M, D]` unit rows."""
    group: Tensor | None
    """`[M]` groups, -100 for the queue's random first rows; None when duplicates are taken for negatives."""


class QueueFeatures(NamedTuple):
    """What a forward pass has for the queues: the teacher's features `[B, D]`, and the groups and ids `[B]` of their
    samples."""

    image: Tensor
    text: Tensor
    group: Tensor | None
    ids: Tensor | None


class MomentumContrast(Distillation):
    """Momentum teacher, feature queues and distillation weight of a dual encoder.

    Args:
        model, momentum, alpha, ramp_steps: as in `Distillation`.
        queue_size: features kept a modality; 0 for none.
        temperature: initial tau, a learned divisor kept within (0.001, 0.5), shared by teacher and student. None: the
            model's own, if it was trained before, else 0.07.
    """

    def __init__(
        self, model: Any, *, queue_size: int = 65536, temperature: float | None = None, **distillation: Any
    ) -> None:
        super().__init__(model, **distillation)
        self.image_queue = FeatureQueue(model.embed_dim, queue_size) if queue_size else None
        self.text_queue = FeatureQueue(model.embed_dim, queue_size) if queue_size else None
        start = start_temperature(model, temperature, 0.07, bounds=BOUNDS)
        self.temperature = Temperature(start, parametrisation="divisor", bounds=BOUNDS)
        self._pending: Pending[QueueFeatures] = Pending()

    @torch.no_grad()
    def teach(self, pixels: Tensor, tokens: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of `pixels` `[B, 3, H, W]`, floating point: the teacher's image tokens `[B, 1 + P, W]`, text states
        `[B, L, W]`, unit embeddings v', w' `[B, D]`."""
        teacher = self.teacher.module
        image, text = teacher.image_tokens(pixels), teacher.text_tokens(tokens)
        return image, text, unit(teacher.image_projection(image[:, 0])), unit(teacher.text_projection(text[:, 0]))

    def keys(self, v_m: Tensor, w_m: Tensor, group: Tensor | None) -> ContrastKeys:
        """The batch's momentum features `v_m`, `w_m` `[B, D]`, floating point, then the queues, with their `group`
        `[B]`. In training those of other processes join them, so that the loss is that of the whole batch; every
        process must call it."""
        if self.training:
            v_m, w_m, group = _of_all(v_m), _of_all(w_m), None if group is None else _of_all(group)
        images, texts = self.image_queue, self.text_queue
        if images is None or texts is None:
            return ContrastKeys(v_m, w_m, group)
        groups = None if group is None else torch.cat([group, images.group.clone()])
        return ContrastKeys(torch.cat([v_m, images.features]), torch.cat([w_m, texts.features]), groups)

    def queue_after(
        self, loss: Tensor, v_m: Tensor, w_m: Tensor, group: Tensor | None, index: Tensor | None = None
    ) -> None:
        """Queue the features `v_m`, `w_m` `[B, D]`, floating point, of samples `group` and `index` `[B]` int64 when a
        step on `loss`, a scalar, was taken."""
        if self.training:
            self._pending.after_backward(loss, QueueFeatures(v_m, w_m, group, index))

    def hard_negatives(
        self, v: Tensor, w: Tensor, v_m: Tensor, w_m: Tensor, group: Tensor | None, *, evenly: bool = False
    ) -> tuple[Tensor, Tensor]:
        """For each image a text, and for each text an image: rows `[B]` of the local batch, -1 where there is none.
        Drawn as the contrast compares them, the student's queries `v`, `w` with the teacher's keys
        `v_m`, `w_m`, all `[B, D]` in floating point; or evenly. Samples of one `group` `[B]` are no negatives."""
        scale = 0.0 if evenly else self.temperature.scale()
        hard_text = sample_hard_negatives(v, w_m, scale, q_group=group, k_group=group)
        hard_image = sample_hard_negatives(w, v_m, scale, q_group=group, k_group=group)
        return hard_text, hard_image

    def contrast(self, q: Tensor, keys: Tensor, group: Tensor | None, teacher_q: Tensor | None = None) -> Tensor:
        """InfoNCE of queries `q` `[B, D]`, floating point, against `keys` `[M, D]`, a scalar, with the soft targets of
        the teacher's queries `teacher_q` `[B, D]`; hard ones without. `group` `[B]` int64 says which samples match."""
        return soft_target_info_nce(
            q,
            keys,
            teacher_q=teacher_q,
            temperature=self.temperature(),
            alpha=self.alpha_now() if teacher_q is not None else 0.0,
            q_group=None if group is None else group[: len(q)],
            k_group=group,
        )

    def before_step(self) -> None:
        """Forget what a step left that was not taken."""
        self._pending.take()

    def after_step(self) -> None:
        """Move the teacher, queue what the step was made of, count the step."""
        super().after_step()
        for features in self._pending.take():
            if self.image_queue is not None and self.text_queue is not None:
                self.image_queue.push(features.image, features.group, index=features.ids)
                self.text_queue.push(features.text, features.group, index=features.ids)


def _of_all(rows: Tensor) -> Tensor:
    """The rows of all processes, this one's own first: the positives of its queries stay in their places."""
    everyone, counts = distributed.gather_counted(rows)
    return everyone.roll(-sum(counts[: distributed.rank()]), 0)


def group_of(batch: Any, share_duplicates: bool) -> Tensor | None:
    """The groups `[B]` int64 by which samples match: `group`, or `index` where there is none; None when duplicates do
    not count. Raises UserError where a sample has the number of a queue's empty places."""
    if not share_duplicates:
        return None
    group = batch.get("group", batch.get("index"))
    if group is not None and bool((group == EMPTY).any()):
        raise UserError(f"{EMPTY} is the group of an empty place in a queue: number the groups otherwise")
    return group
