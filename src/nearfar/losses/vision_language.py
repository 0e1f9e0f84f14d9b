"""A student of pictures beside its teacher's texts: the terms of arXiv 2307.03135 that nothing else here has.

Of the others, the squared distance to the teacher is `alignment`, the contrast with it is `info_nce`, and that with
auxiliary captions is `info_nce` in one direction at temperature 1 with the labels for groups.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.losses.alignment_uniformity import alignment
from nearfar.losses.groups import check_rows, lifted, unit
from nearfar.losses.soft_target import soft_target_info_nce
from nearfar.losses.temperature import Tau, as_scale, as_temperature
from nearfar.ops.tiling.inputs import group_ids
from nearfar.ops.tiling.products import product


def vision_language_alignment(
    student: Tensor,
    teacher: Tensor,
    text: Tensor,
    label: Tensor | None = None,
    *,
    temperature: Tau = 0.07,
    top_k: int = 256,
) -> Tensor:
    """A student's distribution over the teacher's most plausible labels, against the teacher's own; see
    :class:`VisionLanguageAlignment`.

    Takes `student` and `teacher` `[N, D]`, `text` `[C, D]`, floating point, and `label` `[N]`, integers below C.
    Returns a scalar.

    Raises:
        UserError: shapes that do not fit together, or a `top_k` below 1.

    Example (the second label is plausible to the teacher, the third is not):
        >>> text = torch.eye(3)
        >>> teacher, student = torch.tensor([[0.30, 0.25, 0.10]]), torch.tensor([[0.20, 0.22, 0.40]])
        >>> loss = vision_language_alignment(student, teacher, text, top_k=2)
        >>> loss < vision_language_alignment(student, teacher, text)
        tensor(True)
    """
    check_rows(text=text)
    check_teacher(student, teacher)
    if text.shape[1] != student.shape[1] or not len(text):
        raise UserError(f"text must be as wide as student: [C, {student.shape[1]}], got {tuple(text.shape)}")
    check_top_k(top_k)
    scale, text = as_scale(temperature, len(student)), unit(text)
    scale = scale[:, None] if isinstance(scale, Tensor) and scale.ndim == 1 and len(scale) > 1 else scale
    with torch.no_grad():
        cosines = product(unit(teacher), text)
        near, columns = cosines.topk(min(top_k, len(text)), dim=1)
        target = F.log_softmax(near * scale, dim=1)
    log_share = F.log_softmax(product(unit(student), text).gather(1, columns) * scale, dim=1)
    divergence = (target.exp() * (target - log_share)).sum(1)
    if label is None:
        return divergence.mean()
    # A product, not a choice of rows: NaN shows, and without a picture that counts the sum is 0, not a mean of nothing.
    counts = (columns[:, 0] == group_ids(label, len(student), "label")).to(divergence.dtype)
    return (divergence * counts).sum() / counts.sum().clamp_min(1)


def check_teacher(student: Tensor, teacher: Tensor) -> None:
    """Raise a UserError unless `student` and `teacher` are `[N, D]` of one shape, floating point."""
    check_rows(student=student, teacher=teacher)
    if teacher.shape != student.shape:
        raise UserError(
            f"student and teacher must have one shape, got {tuple(student.shape)} and {tuple(teacher.shape)}: row i of "
            "both is one picture"
        )


def check_top_k(top_k: int) -> None:
    """Raise a UserError for a number of labels that is none."""
    if top_k < 1:
        raise UserError(f"top_k must be at least 1, got {top_k}: how many of the teacher's labels are compared")


def cosine_classification(student: Tensor, text: Tensor, label: Tensor, *, temperature: Tau = 0.07) -> Tensor:
    """Cross-entropy of the label of each picture, by cosines with the texts of all: a classifier whose weights are
    texts (arXiv 2103.00020), and the one term of arXiv 2307.03135 that asks for labels.

    Args:
        student: `[N, D]`, floating point. Normalised here, as `text` is.
        text: `[C, D]`, floating point, one row a class.
        label: `[N]`, integers below C.
        temperature: a number, a tensor of one element or one a row, or a `Temperature`.

    Returns:
        A scalar, float32 (float64 from float64).

    Raises:
        UserError: shapes that do not fit together, or a label that has no text.

    Example:
        >>> round(cosine_classification(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), temperature=1.0).item(), 6)
        0.313262
    """
    check_rows(student=student, text=text)
    label = group_ids(label, len(student), "label")
    if not torch.compiler.is_compiling() and bool(((label < 0) | (label >= len(text))).any()):
        raise UserError(f"label must be from 0 to {len(text) - 1}, one of the {len(text)} rows of text")
    own = torch.arange(len(text), device=label.device)
    return soft_target_info_nce(student, text, temperature=temperature, q_group=label, k_group=own)


def feature_distance(student: Tensor, teacher: Tensor, *, normalise: bool = True) -> Tensor:
    """How far a student's embeddings lie from its teacher's (arXiv 2307.03135): the mean of `|o - t|^2`, summed over D.

    Args:
        student: `[N, D]`, floating point.
        teacher: `[N, D]`, floating point; a constant.
        normalise: both to unit length, where it is 2 - 2 cos. Otherwise it is `log(1 + mean |o - t|^2 / 10)`, as the
            distance of raw embeddings would outweigh all other terms.

    Returns:
        A scalar, float32 (float64 from float64).

    Raises:
        UserError: shapes that do not pair up.

    Example:
        >>> student, teacher = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.eye(2)
        >>> round(feature_distance(student, teacher).item(), 6)
        0.2
    """
    check_teacher(student, teacher)
    if normalise:
        return alignment(student, teacher.detach())
    return torch.log1p((lifted(student) - lifted(teacher.detach())).square().sum(1).mean() / 10)


class VisionLanguageAlignment(nn.Module):
    """A student learns which labels a teacher finds most plausible for a picture, and how plausible each is (L-vlalign
    of arXiv 2307.03135).

        I_i = the k largest of cos(t_i, w_c) over all classes c
        L   = mean_i KL( softmax_I( cos(t_i, w) / tau ) || softmax_I( cos(o_i, w) / tau ) )

    Both softmaxes are over the k labels of I_i alone: how far the others are below is not taught. Normalises all
    embeddings itself. The teacher is a constant. Pictures do not meet: any batch size will do. With
    `label` it is the mean over the pictures that count, 0 where there are none: what a teacher misreads is not taught.

    Args:
        temperature: tau of student and teacher, initial: a number, a tensor of one element or a :class:`Temperature`,
            taken as it is (paper: 0.07, fixed; at the 0.01 of released CLIPs a teacher is far more certain).
        learnable: whether it is trained.
        top_k: k (paper: 256); with as many classes or fewer the whole distribution is taught. At 1 there is nothing to
            learn, and the loss is 0.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `student` | `[N, D]`, floating point | what is trained, in the teacher's space |
        | `teacher` | `[N, D]`, floating point | the teacher's embeddings of the same pictures |
        | `text` | `[C, D]`, floating point | the teacher's embeddings of the classes as texts |
        | `label` | `[N]`, integers | pictures that the teacher puts into another class do not count; None: all do |

    Returns:
        A scalar, float32 (float64 from float64), from 0 on. Texts and temperature get their gradients through the
        student's distribution.

    Raises:
        UserError: shapes that do not fit together, or a `top_k` below 1.

    Relations:
        - At a `top_k` of C it is `SoftTargetInfoNCE` with `alpha=1`, the texts for keys, less the entropy of the
          teacher's distribution, which has no gradient.
        - `TargetAlignment` pulls to the teacher's picture and to the text of the class; other labels say nothing there.

    Variants:
        - the paper: `VisionLanguageAlignment(0.07, learnable=False)` with `label`
        - the two labels between which the teacher hesitates: `VisionLanguageAlignment(0.07, learnable=False, top_k=2)`

    Example:
        >>> student, teacher = torch.randn(2, 6, 8)
        >>> VisionLanguageAlignment(top_k=3)(student, teacher, torch.randn(5, 8)).shape
        torch.Size([])
    """

    def __init__(self, temperature: Tau = 0.07, *, learnable: bool = True, top_k: int = 256) -> None:
        super().__init__()
        check_top_k(top_k)
        self.temperature = as_temperature(temperature, learnable=learnable)
        self.top_k = top_k

    def forward(self, student: Tensor, teacher: Tensor, text: Tensor, label: Tensor | None = None) -> Tensor:
        return vision_language_alignment(student, teacher, text, label, temperature=self.temperature, top_k=self.top_k)
