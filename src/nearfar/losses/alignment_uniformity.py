"""Alignment and uniformity on the sphere (arXiv 2005.10242): the two things a contrastive loss trades against each
other, as losses of their own; and alignment with the fixed targets of a teacher (arXiv 2310.08255)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nearfar import ops
from nearfar.errors import UserError
from nearfar.losses.groups import check_pair, check_rows, check_teacher, lifted, refuse_ring, unit


def alignment(a: Tensor, b: Tensor, *, alpha: float = 2.0) -> Tensor:
    """Mean of `|a_i - b_i|^alpha` over unit rows, alpha > 0: 0 when pairs coincide, 4 (alpha 2) when they are
    opposite (arXiv 2005.10242).

    Args:
        a, b: `[N, D]`, floating point; row i of both is one sample. Normalised here.
        alpha: the power of the distance.

    Returns:
        A scalar, float32 (float64 from float64).

    Raises:
        UserError: shapes that do not pair up, or an alpha that is not positive.

    Example:
        >>> alignment(torch.eye(2), torch.eye(2).flip(0)).item()
        2.0
    """
    check_pair(a, b)
    if not alpha > 0:
        raise UserError(f"alpha must be positive, got {alpha}")
    squared = (unit(a) - unit(b)).square().sum(1)
    if alpha == 2:
        return squared.mean()
    # Where a pair coincides its loss and gradient are 0: the root's slope is infinite there, or undefined at alpha 1.
    apart = squared != 0  # NaN among them: it must show
    return torch.where(apart, squared, 1.0).pow(alpha / 2).mul(apart).mean()


def uniformity(z: Tensor, *, t: float = 2.0, backend: str = "auto") -> Tensor:
    """Log of the mean Gaussian potential `exp(-t |z_i - z_j|^2)` over pairs i != j of unit rows: 0 when all coincide,
    lower the more evenly they spread (arXiv 2005.10242).

    Args:
        z: `[N, D]`, floating point, N >= 2. Normalised here.
        t: sharpness of the potential; a softmax loss of temperature tau weighs pairs as t = 1 / (2 tau) does.
        backend: handed to :mod:`nearfar.ops`; "ring" is refused.

    Returns:
        A scalar, float32 (float64 from float64).

    Raises:
        UserError: another shape, a t that is not positive, or `backend="ring"`.

    Example:
        >>> uniformity(torch.eye(3)).item()
        -4.0
    """
    check_rows(z=z)
    if len(z) < 2:
        raise UserError(f"z must be [N, D] with N >= 2, got {tuple(z.shape)}")
    if not t > 0:
        raise UserError(f"t must be positive, got {t}")
    refuse_ring(backend, "uniformity")
    z = unit(z)
    itself = torch.arange(len(z), device=z.device)
    # |x - y|^2 = 2 - 2 <x, y> on the sphere, so the potential is a log-partition at scale 2 t.
    lse = ops.log_partition(z, z, 2 * t, q_group=itself, k_group=itself, admit="different", backend=backend)
    return torch.logsumexp(lse, 0) - 2 * t - math.log(len(z) * (len(z) - 1))


def view_uniformity(a: Tensor, b: Tensor, *, temperature: float = 2.0, backend: str = "auto") -> Tensor:
    """Log of the mean of exp(cos / temperature) over pairs of rows of different samples, of two views (UniSiam and
    BECLR, arXiv 2402.02444). A sample's own other view is in no pair. It lies in [-1 / temperature, 1 / temperature].

    Args:
        a, b: `[N, D]`, floating point, N >= 2; row i of both is sample i. Normalised here.
        temperature: a divisor, above 0; large, as all pairs are to count (paper: 2).
        backend: handed to :mod:`nearfar.ops`; "ring" is refused.

    Returns:
        A scalar, float32 (float64 from float64).

    Raises:
        UserError: other shapes, a temperature that is not positive, or `backend="ring"`.

    Example:
        >>> view_uniformity(torch.eye(2), torch.eye(2)).item()
        0.0
    """
    check_pair(a, b)
    if len(a) < 2:
        raise UserError(f"a and b must be [N, D] with N >= 2, got {tuple(a.shape)}")
    if not temperature > 0:
        raise UserError(f"temperature must be positive, got {temperature}")
    refuse_ring(backend, "view_uniformity")
    rows = torch.cat(ops.view_partition([unit(a), unit(b)], 1 / temperature, backend=backend))
    pairs = len(rows) * (len(rows) - 2)
    return (torch.logsumexp(rows, 0) - math.log(pairs)).to(unit(a).dtype)


class AlignmentUniformity(nn.Module):
    """`alignment(a, b) + weight * mean(uniformity(a), uniformity(b))` of two views (arXiv 2005.10242).

    Normalises the embeddings itself. It has no temperature; `t` plays its part.

    Args:
        alpha: the power of the distance between two views (paper: 2).
        t: sharpness of the potential that spreads samples (paper: 2).
        weight: of uniformity (paper: near 1).
        backend: handed to :mod:`nearfar.ops`; "ring" is refused.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `a`, `b` | `[N, D]`, floating point, N >= 2 | two views; row i of both is sample i |

    Returns:
        A scalar, float32 (float64 from float64).

    Raises:
        UserError: shapes that do not fit, alpha or t that are not positive, or a backend that sees a part of the batch.

    Relations:
        - With ever more negatives `InfoNCE` and `NTXent` tend to an alignment and a uniformity term like these, at
          t = 1 / (2 tau).

    Variants:
        - the paper: `AlignmentUniformity(alpha=2.0, t=2.0)`
        - alignment alone, which collapses: `AlignmentUniformity(weight=0.0)`

    Example:
        >>> AlignmentUniformity()(torch.randn(4, 8), torch.randn(4, 8)).shape
        torch.Size([])
    """

    def __init__(self, alpha: float = 2.0, t: float = 2.0, weight: float = 1.0, *, backend: str = "auto") -> None:
        super().__init__()
        self.alpha, self.t, self.weight, self.backend = alpha, t, weight, backend

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        spread = uniformity(a, t=self.t, backend=self.backend) + uniformity(b, t=self.t, backend=self.backend)
        return alignment(a, b, alpha=self.alpha) + self.weight * spread / 2


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


def target_alignment(
    student: Tensor, image: Tensor | None, text: Tensor | None, *, image_weight: float = 0.5
) -> Tensor:
    """Alignment of a student with a teacher's embeddings of the picture and of its class; see
    :class:`TargetAlignment`.

    Takes `student`, `image` and `text`, each `[N, D]`, floating point; a target of weight 0 may be None. Returns a
    scalar.

    Raises:
        UserError: shapes that do not pair up, a weight outside 0 to 1, or a target with a weight that is None.

    Example (half way between two targets at a right angle, the best there is):
        >>> image, text = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> round(target_alignment(image + text, image, text).item(), 6)
        -0.707107
    """
    if not 0 <= image_weight <= 1:
        raise UserError(f"image_weight must be from 0 to 1, got {image_weight}")
    check_rows(student=student)
    phi, cosines = unit(student), []
    for name, target, weight in (("image", image, image_weight), ("text", text, 1 - image_weight)):
        if weight == 0:
            continue
        if target is None:
            raise UserError(f"{name} is None, and its weight is {weight}: give the teacher's embeddings [N, D]")
        check_rows(**{name: target})
        if target.shape != student.shape:
            raise UserError(
                f"student and {name} must have one shape, got {tuple(student.shape)} and {tuple(target.shape)}: row i "
                "of one is the target of row i of the other"
            )
        cosines.append(weight * (phi * unit(target.detach())).sum(1))
    return -sum(cosines[1:], cosines[0]).mean()


class TargetAlignment(nn.Module):
    """Alignment of a student with two fixed targets, a teacher's embedding of the picture and that of its class as text
    (VL2V-ADiP, arXiv 2310.08255).

        L = - mean over samples of [ w cos(phi, I) + (1 - w) cos(phi, T) ]

    Normalises all embeddings itself. Targets are constants. There are no negatives, no temperature and no terms across
    samples: any batch size will do, and a batch in parts gives the same mean. It is at least `-|w I + (1 - w) T|`, of
    unit vectors I and T, where phi points along that sum.

    Args:
        image_weight: w, the share of the teacher's picture (paper: 0.5 for new domains; 0.1 for new pictures of the
            domain that was trained on). 1 needs no classes, 0 no pictures of the teacher.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `student` | `[N, D]`, floating point | what is trained, in the teacher's space |
        | `image` | `[N, D]`, floating point | the teacher's embeddings of the same pictures; None where w is 0 |
        | `text` | `[N, D]`, floating point | the teacher's embeddings of the pictures' classes; None where w is 1 |

    Returns:
        A scalar, float32 (float64 from float64), in [-1, 1].

    Raises:
        UserError: shapes that do not pair up, a weight outside 0 to 1, or a target with a weight that is None.

    Relations:
        - Twice this and 2 is `w alignment(phi, I) + (1 - w) alignment(phi, T)`, of alpha 2.
        - Targets that come from the student's own slow copy, and a predictor before phi, make BYOL of it.

    Variants:
        - distillation of pictures alone: `TargetAlignment(image_weight=1.0)`
        - class names alone: `TargetAlignment(image_weight=0.0)`

    Example:
        >>> phi, image, text = torch.randn(3, 4, 8)
        >>> TargetAlignment()(phi, image, text).shape
        torch.Size([])
    """

    def __init__(self, image_weight: float = 0.5) -> None:
        super().__init__()
        if not 0 <= image_weight <= 1:
            raise UserError(f"image_weight must be from 0 to 1, got {image_weight}")
        self.image_weight = image_weight

    def forward(self, student: Tensor, image: Tensor | None, text: Tensor | None) -> Tensor:
        return target_alignment(student, image, text, image_weight=self.image_weight)
