"""VL2V (arXiv 2310.08255): a small image tower learns from a frozen image-text model that gives nothing but embeddings,
and classifies pictures of domains that it was not trained on by the names of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.losses.alignment_uniformity import TargetAlignment
from nearfar.methods.base import Batch, Method
from nearfar.methods.teachers.class_bank import ClassBank
from nearfar.methods.teachers.frozen_teacher import FrozenTeacher, teacher_embeddings
from nearfar.methods.video.clip_mixing import draw_box
from nearfar.modes import evaluating

TEMPERATURE = 0.01
"""What cosines are divided by for `cross_entropy` where the model says nothing: what released CLIPs learned."""
TRAINED = {"align": ("image_projection",), "distill": ("image",), "together": ("image", "image_projection")}
"""Which parts of the student a stage trains; the others, its text side among them, are frozen."""
Stage = Literal["align", "distill", "together"]


class VL2V(Method):
    """Pulls a student's pictures to a teacher's embeddings of the same pictures and of their class names.

    With phi the student's embedding, I the teacher's of the same picture and T_y its text of the class,

        L = - [ w cos(phi, I) + (1 - w) cos(phi, T_y) ] .

    Stages (Align, Distill, Predict): `align` trains the image projection alone, through an image tower that is frozen;
    `distill` goes on from there, trains the tower and freezes the projection. So the random projection never sends its
    gradient into the tower. The student predicts by the nearest T, as any image-text model does. `together` trains
    both: with the teacher's own image side as the student it is VL2V-SD (self-distillation of a model whose weights one
    has), with a random projection the one stage that the paper argues against.

    Args:
        model: the student, a dual encoder with the teacher's text side: `nearfar.models.student_encoder` makes one.
        teacher: what is asked for the picture that the student gets, at each step: an encoder, or what `nearfar.load`
            opens. A frozen copy is kept. None: batches have its embeddings as `teacher_image`, computed once.
        stage: which parts are trained, see above.
        image_weight: w (paper: 0.5 for new domains, 0.1 where the domain stays the same). 1 needs no labels.
        templates: what a class name is put into; the mean over several (paper: one, "a photo of a {}").
        classes: the name of each label; by default those of the training data.
        freeze_batch_norm: keep the tower's batch norm by its running statistics in training, as the paper does.
        cutmix: of the Beta distribution of cutmix's shares; 0 is without (paper). It asks the teacher for the mixed
            picture, and weighs the two classes by the pixels that each has.

    The batch has `image` `[B, 3, H, W]` float32, `label` `[B]` int64 and, without a teacher, `teacher_image` `[B, D]`
    float32. Logs `accuracy` and `cross_entropy` of the class names, the figures to choose by and to end an average of
    weights by (`training.monitor: val_accuracy`, `training.swad: val_cross_entropy`).

    Raises:
        UserError: a model without parts to freeze, a teacher of another space, no class names, or a batch without the
            teacher's embeddings or labels.

    >>> from nearfar.data import train_tokenizer
    >>> from nearfar.models import create, student_encoder
    >>> names = ["cat", "dog"]
    >>> teacher = create("tiny", tokenizer=train_tokenizer(names, 300))
    >>> student = student_encoder(teacher, image="micro-resnet")
    >>> batch = {"image": torch.rand(2, 3, 32, 32), "label": torch.tensor([0, 1])}
    >>> sorted(VL2V(student, teacher=teacher, classes=names)(batch))
    ['accuracy', 'cross_entropy', 'loss']
    """

    captions = False

    def __init__(
        self,
        model: Any,
        *,
        teacher: Any = None,
        stage: Stage = "align",
        image_weight: float = 0.5,
        templates: str | Sequence[str] = "a photo of a {}",
        classes: Sequence[str] | None = None,
        freeze_batch_norm: bool = True,
        cutmix: float = 0.0,
    ) -> None:
        super().__init__()
        if stage not in TRAINED:
            raise UserError(f"stage is {stage!r}: choose one of {', '.join(TRAINED)}")
        if not (hasattr(model, "freeze") and hasattr(model, "encode_text")):
            raise UserError(
                f"vl2v trains an image tower beside a text tower, and this is a {type(model).__name__}: make a student "
                "with nearfar.models.student_encoder (in a recipe, model.make: student_encoder)"
            )
        if cutmix < 0:
            raise UserError(f"cutmix is {cutmix}: it is above 0, or 0 for none")
        if cutmix and teacher is None:
            raise UserError("cutmix mixes pictures anew at each step: name the teacher to ask for them")
        self.bank = ClassBank(templates, classes, user="vl2v")
        self.model = model.freeze("text", "text_projection", *({"image", "image_projection"} - {*TRAINED[stage]}))
        self.model.unfreeze(*TRAINED[stage])
        self.loss = TargetAlignment(image_weight)
        self.stage, self.cutmix, self.freeze_batch_norm = stage, cutmix, freeze_batch_norm
        self.temperature = float(model.temperature or TEMPERATURE)
        self.teacher = None if teacher is None else FrozenTeacher(teacher)
        if self.teacher is not None and (width := self.teacher.model.embed_dim) != model.embed_dim:
            raise UserError(
                f"the teacher's embeddings are {width} wide and the student's {model.embed_dim}: make the student of "
                "this teacher with nearfar.models.student_encoder"
            )

    def begin(self, data: DataInfo) -> None:
        super().begin(data)
        if self.loss.image_weight < 1 or data.classes:
            self.bank.begin(data)
        self._check_texts()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        pixels = batch["image"]
        if self.loss.image_weight == 1 and (self.bank.texts is None or "label" not in batch):
            return {"loss": self.loss(self._student(pixels), self._image_target(batch, pixels), None)}
        if "label" not in batch:
            raise UserError(
                "vl2v needs the class of each picture, and these data have no labels: name the column with label=NAME, "
                "use class folders, or learn from the teacher's pictures alone with image_weight 1"
            )
        texts, label = self.bank(self.model), self.bank.checked(batch["label"])
        share, other = 1.0, label
        if self.training and self.cutmix:
            pixels, share, other = mixed(pixels, label, self.cutmix)
        phi, target = self._student(pixels), self._image_target(batch, pixels)
        loss = self.loss(phi, target, texts[label])
        if share < 1:
            loss = share * loss + (1 - share) * self.loss(phi, target, texts[other])
        with torch.no_grad():
            cosines = F.normalize(phi.to(texts), dim=1) @ texts.T
            hits = cosines.argmax(1) == (label if share >= 0.5 else other)
            entropy = F.cross_entropy(cosines / self.temperature, label)
        return {"loss": loss, "accuracy": hits.to(texts).mean(), "cross_entropy": entropy}

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.freeze_batch_norm and mode:
            for module in self.model.image.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def learned(self) -> dict[str, float]:
        """The temperature of the teacher, which the student's cosines keep."""
        return {"temperature": self.temperature}

    def _student(self, pixels: Tensor) -> Tensor:
        if self.stage != "align":
            return self.model.encode_image(pixels)
        with torch.no_grad():
            summary = self.model.image_summary(pixels)
        return self.model.encode_image(summary)

    def _image_target(self, batch: Batch, pixels: Tensor) -> Tensor | None:
        """The teacher's embeddings `[B, D]` of the pictures that the student gets."""
        if self.loss.image_weight == 0:
            return None
        return teacher_embeddings(self.teacher, batch, pixels, self.model, method="vl2v")

    def _check_texts(self) -> None:
        """The student must have the teacher's text side: it would be pulled to two places that have no relation."""
        teacher: Any = self.teacher.model if self.teacher is not None else None
        if self.bank.texts is None or not (hasattr(teacher, "encode_text") and hasattr(teacher, "tokenize")):
            return
        first = self.bank.texts.texts[:1]
        with evaluating(self.model):
            own, its = (F.normalize(side.encode_text(side.tokenize(first)), dim=1) for side in (self.model, teacher))
        if not torch.allclose(own, its.to(own), atol=1e-3):
            raise UserError(
                f"the student and the teacher embed {first[0]!r} differently: make the student of this teacher with "
                "nearfar.models.student_encoder"
            )


def mixed(pixels: Tensor, label: Tensor, alpha: float) -> tuple[Tensor, float, Tensor]:
    """Each picture with a rectangle of another one of the batch (cutmix, arXiv 1905.04899), drawn with torch's own
    random numbers, the same rectangle for all.

    Args:
        pixels: `[B, 3, H, W]`, floating point.
        label: `[B]` int64.
        alpha: both numbers of the Beta distribution that the share is drawn from.

    Returns:
        Mixed pixels, the share of them that is each picture's own, exactly, and the label `[B]` of the other.
    """
    partner = torch.randperm(len(pixels)).to(pixels.device)
    box = draw_box(torch.distributions.Beta(alpha, alpha).sample().item(), *pixels.shape[-2:])
    left, top, right, bottom = box
    mixture = pixels.clone()
    mixture[..., top:bottom, left:right] = pixels[partner][..., top:bottom, left:right]
    share = 1 - (right - left) * (bottom - top) / (pixels.shape[-1] * pixels.shape[-2])
    return mixture, share, label[partner]
