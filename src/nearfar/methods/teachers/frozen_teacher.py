"""An image-text model that teaches and is not trained: nothing of it is read but the embeddings that it returns
(VL2V-ADiP, arXiv 2310.08255)."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError


class FrozenTeacher(nn.Module):
    """A frozen copy of a model with `encode_image`, for the embeddings of pictures that a student reads.

    A student's pictures were made for the student: `embed` takes its normalisation back, applies the teacher's, and
    scales the pictures where the teacher takes another size.

    Args:
        model: an encoder, or what `nearfar.load` opens.

    Raises:
        UserError: a model that embeds no pictures, or that takes patches of pictures in place of pixels.

    >>> from nearfar.models import image_encoder
    >>> teacher, student = FrozenTeacher(image_encoder("micro-resnet")), image_encoder("micro-resnet", image_size=16)
    >>> teacher.embed(torch.rand(2, 3, 16, 16), student).shape
    torch.Size([2, 128])
    """

    def __init__(self, model: Any) -> None:
        from nearfar.models.loading import load

        super().__init__()
        self.model = deepcopy(load(model))
        if not hasattr(self.model, "encode_image"):
            raise UserError(f"the teacher is a {type(self.model).__name__}, which embeds no pictures: name another")
        if getattr(getattr(self.model, "pixels", None), "fit", None) == "naflex":
            raise UserError("the teacher takes patches of pictures in place of pixels: keep its embeddings as a column")
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    @torch.no_grad()
    def embed(self, pixels: Tensor, student: Any) -> Tensor:
        """The teacher's embeddings `[B, D]` of pixels `[B, 3, H, W]`, floating point, that were made for `student`."""
        return self.model.encode_image(self.prepared(pixels, student))

    def prepared(self, pixels: Tensor, student: Any) -> Tensor:
        """As this teacher takes them, `[B, 3, S, S]`, `pixels` `[B, 3, H, W]`, floating point, made for `student`."""
        if pixels.ndim != 4:
            raise UserError(
                f"the teacher reads pictures [B, 3, H, W], and these are {list(pixels.shape)}: features that were read "
                "ahead need the teacher's embeddings as a column (keep: {teacher_image: image})"
            )
        own, theirs = normalisation(self.model), normalisation(student)
        if own != theirs:
            (mean, std), (before, spread) = (
                [pixels.new_tensor(values).view(3, 1, 1) for values in pair] for pair in (own, theirs)
            )
            pixels = (pixels * spread + before - mean) / std
        size = getattr(self.model, "image_size", None)
        if size is not None and pixels.shape[-2:] != (size, size):
            pixels = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True, align_corners=False)
        return pixels


def teacher_embeddings(
    teacher: FrozenTeacher | None, batch: Mapping[str, Any], pixels: Tensor, student: Any, *, method: str
) -> Tensor:
    """The teacher's embeddings `[B, D]`, floating point, of pixels `[B, 3, H, W]` that were made for `student`: of the
    teacher itself, or of the batch's column `teacher_image`, where a stage before kept them.

    Args:
        method: its name, for what is wrong.

    Raises:
        UserError: neither is there, or the column is not as wide as the student's embeddings.
    """
    if teacher is not None:
        return teacher.embed(pixels, student)
    if "teacher_image" not in batch:
        raise UserError(
            f"{method} has no teacher to ask, and these data no column 'teacher_image': set method.teacher, or "
            "join what a stage before kept of the teacher (keep: {teacher_image: image}) with data.columns"
        )
    column: Tensor = batch["teacher_image"]
    if column.shape[1] != student.embed_dim:
        raise UserError(
            f"the column 'teacher_image' is {column.shape[1]} wide and the student's embeddings "
            f"{student.embed_dim}: make the student of the same teacher"
        )
    return column


def normalisation(model: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the three channels that a model's pictures are normalised by; 0 and 1 where it
    says nothing."""
    return tuple(getattr(model, "mean", (0.0,) * 3)), tuple(getattr(model, "std", (1.0,) * 3))
