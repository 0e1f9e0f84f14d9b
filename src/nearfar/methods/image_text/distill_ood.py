"""Distilling a large vision-language model for classes that the student is never trained on (arXiv 2307.03135): a
small image tower learns the picture space of a frozen image-text model, and how it relates to the texts of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.losses.alignment_uniformity import feature_distance
from nearfar.losses.infonce import info_nce
from nearfar.losses.soft_target import check_top_k, cosine_classification, vision_language_alignment
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.teachers.class_bank import ClassBank
from nearfar.methods.teachers.frozen_teacher import FrozenTeacher, teacher_embeddings
from nearfar.prompting.class_texts import ClassTexts


class DistillOOD(EmbeddingMethod):
    """A student classifies by the teacher's texts, and imitates where the teacher puts pictures and texts.

    With o the student's embedding of a picture, t the teacher's, W the teacher's texts of the classes, all of unit
    length, and y the label, the loss is the sum of these terms, each with a weight (paper: 1 each, without captions):

        classification   CE( o W^T / tau, y )
        distance         mean |o - t|^2 , summed over the space
        contrast         1/2 [ CE( o t^T / tau ) + CE( t o^T / tau ) ] , each picture against the others of the batch
        alignment        mean KL( softmax( t W_k^T / tau ) || softmax( o W_k^T / tau ) ) , W_k the teacher's k most
                         plausible classes of the picture, where the most plausible one is y
        captions         CE( o c^T / caption_temperature ) , c the teacher's texts of the pictures' own captions;
                         captions of the same label are no negatives

    The student predicts by the nearest text, of any list of classes. Its text side is the teacher's, and frozen.

    Args:
        model: the student, a dual encoder with the teacher's text side: `nearfar.models.student_encoder` makes one.
        teacher: embeds the picture that the student gets, at each step: an encoder, or what `nearfar.load` opens. A
            frozen copy is kept. None (paper): batches have its embeddings of the pictures as they are, computed once,
            as `teacher_image`.
        classification, distance, contrast, alignment, captions: the weights of the terms; 0 leaves one out.
        temperature: tau of all terms but that of captions, fixed (paper: 0.07).
        top_k: k of the alignment (paper: 256).
        filter_misread: leave pictures that the teacher itself puts into another class out of the alignment (paper). The
            other terms keep them.
        symmetric: both directions of the contrast (paper), or that from student to teacher alone.
        normalise_distance: the distance of unit vectors (paper), or the logarithm of that of raw ones.
        caption_temperature: of captions (code: 1).
        templates: what a class name is put into (paper: one, without an article).
        texts: sentences of each class in the place of names in templates, with what tells classes apart: a JSON or YAML
            file of them by class, or `ClassTexts`. The same file goes to `nearfar evaluate --class-texts`, with the
            classes that are not trained on, too.
        classes: the name of each label; by default those of the training data.

    The batch has `image` `[B, 3, H, W]` float32, `label` `[B]` int64, without a teacher `teacher_image` `[B, D]`
    float32, and with a weight of captions `text`, tokens `[B, L]`. Logs each term; `accuracy` by the class texts;
    `teacher_cosine`, of both embeddings of a picture; `teacher_agreement`, the share of pictures that both put into the
    same class. Of validation data whose classes are not trained on, these are the figures to choose by.

    Raises:
        UserError: a model without a text side, a teacher of another width, no class names, settings out of their range,
            or a batch without the teacher's embeddings or labels.

    >>> from nearfar.data import train_tokenizer
    >>> from nearfar.models import create, student_encoder
    >>> names = ["cat", "dog"]
    >>> teacher = create("tiny", tokenizer=train_tokenizer(names, 300))
    >>> method = DistillOOD(student_encoder(teacher, image="micro-resnet"), teacher=teacher, classes=names)
    >>> out = method({"image": torch.rand(2, 3, 32, 32), "label": torch.tensor([0, 1])})
    >>> sorted(out)
    ['accuracy', 'alignment', 'classification', 'contrast', 'distance', 'loss', 'teacher_agreement', 'teacher_cosine']
    """

    reads = ("label",)
    captions = False

    def __init__(
        self,
        model: Any,
        *,
        teacher: Any = None,
        classification: float = 1.0,
        distance: float = 1.0,
        contrast: float = 1.0,
        alignment: float = 1.0,
        captions: float = 0.0,
        temperature: float = 0.07,
        top_k: int = 256,
        filter_misread: bool = True,
        symmetric: bool = True,
        normalise_distance: bool = True,
        caption_temperature: float = 1.0,
        templates: str | Sequence[str] = "a photo of {}",
        texts: str | Path | ClassTexts | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if not (hasattr(model, "freeze") and hasattr(model, "encode_text")):
            raise UserError(
                f"distill_ood trains an image tower beside a text tower, and this is a {type(model).__name__}: make a "
                "student with nearfar.models.student_encoder (in a recipe, model.make: student_encoder)"
            )
        weights = {
            "classification": classification,
            "distance": distance,
            "contrast": contrast,
            "alignment": alignment,
            "captions": captions,
        }
        for name, weight in weights.items():
            if not weight >= 0:
                raise UserError(f"{name} is {weight}: a term's weight is from 0 on")
        self.weights = {name: weight for name, weight in weights.items() if weight}
        if not self.weights:
            raise UserError("all terms have the weight 0: give one of classification, distance, contrast a weight")
        for name, tau in (("temperature", temperature), ("caption_temperature", caption_temperature)):
            if not tau > 0:
                raise UserError(f"{name} must be positive, got {tau}")
        check_top_k(top_k)
        self.bank = ClassBank(templates, classes, texts=texts, user="distill_ood")
        self.model = model.freeze("text", "text_projection")
        self.model.unfreeze("image", "image_projection")
        self.temperature, self.caption_temperature = temperature, caption_temperature
        self.top_k, self.filter_misread = top_k, filter_misread
        self.symmetric, self.normalise_distance = symmetric, normalise_distance
        self.captions = bool(captions)
        self.teacher = None if teacher is None else FrozenTeacher(teacher)
        if self.teacher is not None and (width := self.teacher.model.embed_dim) != model.embed_dim:
            raise UserError(
                f"the teacher's embeddings are {width} wide and the student's {model.embed_dim}: make the student of "
                "this teacher with nearfar.models.student_encoder"
            )

    def begin(self, data: DataInfo) -> None:
        super().begin(data)
        self.bank.begin(data)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        pixels = batch["image"]
        embeddings = {
            "student": self.model.encode_image(pixels),
            "teacher": teacher_embeddings(self.teacher, batch, pixels, self.model, method="distill_ood"),
        }
        if self.captions:
            with torch.no_grad():
                embeddings["caption"] = self.model.encode_text(batch["text"])
        return embeddings

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        if "label" not in batch:
            raise UserError(
                "distill_ood needs the class of each picture, and these data have no labels: name the column with "
                "label=NAME, or use class folders"
            )
        student, teacher = embeddings["student"], embeddings["teacher"]
        texts, label = self.bank(self.model), self.bank.checked(batch["label"])
        terms = {
            name: self._term(name, student, teacher, texts, label, embeddings.get("caption")) for name in self.weights
        }
        loss = sum((self.weights[name] * term for name, term in terms.items()), start=student.new_zeros(()))
        figures = {name: term.detach() for name, term in terms.items()}
        with torch.no_grad():
            o, t = (F.normalize(x.to(texts), dim=1) for x in (student, teacher))
            own, theirs = (o @ texts.T).argmax(1), (t @ texts.T).argmax(1)
            figures["accuracy"] = (own == label).to(texts).mean()
            figures["teacher_cosine"] = (o * t).sum(1).mean()
            figures["teacher_agreement"] = (own == theirs).to(texts).mean()
        return {"loss": loss, **figures}

    def learned(self) -> dict[str, float]:
        """The temperature that the student's cosines were trained at."""
        return {"temperature": self.temperature}

    def _term(
        self, name: str, student: Tensor, teacher: Tensor, texts: Tensor, label: Tensor, caption: Tensor | None
    ) -> Tensor:
        tau = self.temperature
        if name == "classification":
            return cosine_classification(student, texts, label, temperature=tau)
        if name == "distance":
            return feature_distance(student, teacher, normalise=self.normalise_distance)
        if name == "contrast":
            return info_nce(student, teacher, temperature=tau, symmetric=self.symmetric)
        if name == "alignment":
            read = label if self.filter_misread else None
            return vision_language_alignment(student, teacher, texts, read, temperature=tau, top_k=self.top_k)
        assert caption is not None
        return info_nce(student, caption, temperature=self.caption_temperature, symmetric=False, group=label)
