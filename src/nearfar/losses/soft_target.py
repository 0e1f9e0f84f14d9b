"""InfoNCE with soft targets: momentum distillation (ALBEF, arXiv 2107.07651) and MoCo-like queues of keys; and what a
teacher says of the texts of classes (arXiv 2307.03135).

The target of query i mixes its true positives with the teacher's own softmax over the same keys,

    Q_i = alpha softmax(s'_i) + (1 - alpha) Y_i ,      L = mean_i sum_j -Q_ij log softmax(s_i)_j .

Logits and targets are both formed a strip of rows at a time, so nothing of size N x M is held.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar import ops
from nearfar.errors import UserError
from nearfar.losses.groups import check_rows, check_teacher, unit, unit_keys
from nearfar.losses.temperature import Tau, as_scale, as_temperature
from nearfar.ops.tiling.inputs import group_ids
from nearfar.ops.tiling.products import product


def soft_target_info_nce(
    q: Tensor,
    k: Tensor,
    *,
    teacher_q: Tensor | None = None,
    temperature: Tau = 0.07,
    alpha: float | Tensor = 0.0,
    q_group: Tensor | None = None,
    k_group: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """InfoNCE with soft targets; see :class:`SoftTargetInfoNCE`.

    Takes queries `q` `[N, D]`, keys `k` `[M, D]`, the teacher's queries `teacher_q` `[N, D]`, floating point, `q_group`
    `[N]` and `k_group` `[M]` int64. `alpha` is a number or a scalar tensor; the temperature may also be one a query,
    `[N]`.
    Returns a scalar.

    Raises:
        UserError: shapes or options that do not fit together, or a query without a key of its group.

    Example (the numbers of ALBEF's equation 6 at alpha 0 are those of plain InfoNCE):
        >>> import torch
        >>> eye = torch.eye(2)
        >>> round(soft_target_info_nce(eye, eye, temperature=1.0).item(), 6)
        0.313262
    """
    check_rows(q=q, k=k)
    if q.shape[1] != k.shape[1]:
        raise UserError(f"q and k must be [N, D] and [M, D], got {tuple(q.shape)} and {tuple(k.shape)}")
    if (q_group is None) != (k_group is None):
        raise UserError("give both q_group and k_group, or neither")
    if q_group is None and len(k) < len(q):
        raise UserError(
            f"without groups key i is the positive of query i, but there are {len(q)} queries, {len(k)} keys"
        )
    if teacher_q is None and not (isinstance(alpha, float | int) and alpha == 0):
        raise UserError("alpha > 0 needs teacher_q")
    if not isinstance(alpha, Tensor) and not 0 <= alpha <= 1:
        raise UserError(f"alpha must be in [0, 1], got {alpha}")
    teacher = None if teacher_q is None else unit(teacher_q)
    return ops.soft_target(
        unit(q),
        unit_keys(k),
        as_scale(temperature, len(q)),
        q_group=q_group,
        k_group=k_group,
        teacher_q=teacher,
        alpha=alpha,
        backend=backend,
    )


class SoftTargetInfoNCE(nn.Module):
    """InfoNCE whose target is mixed from groups and a teacher's softmax (ALBEF, arXiv 2107.07651).

    Normalises all embeddings itself; keys of unit length that want no gradient are not copied for it, so change them
    only after the backward pass. One direction: for both, add the loss of the other side's queries and keys. The keys
    are shared by student and teacher: in ALBEF the momentum features of the batch, then the queue.

    Args:
        temperature: initial temperature of student and teacher: a number, a tensor of one element or a
            :class:`Temperature`, taken as it is.
        learnable: whether it is trained.
        backend: handed to :mod:`nearfar.ops`; "ring" is refused: the teacher must see all keys at once.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `q` | `[N, D]`, floating point | queries |
        | `k` | `[M, D]`, floating point | keys, M >= N: without groups key i is the positive of query i |
        | `teacher_q` | `[N, D]`, floating point | the teacher's queries; may be None where alpha is 0 |
        | `alpha` | a number or a scalar tensor | the teacher's share, in [0, 1]; ALBEF takes 0.4, after a ramp |
        | `q_group`, `k_group` | `[N]` and `[M]`, integers | all keys of a query's group share its true target evenly |

    Returns:
        A scalar, float32 (float64 from float64). Targets are constants: q, k and temperature get their gradients
        through the student's logits.

    Raises:
        UserError: shapes or options that do not fit together, or a query without a key of its group.

    Relations:
        - At alpha 0 without groups it is one direction of `InfoNCE` with M - N extra negatives.
        - `SupCon` is the same even target within one set, each row left out of its own sum.

    Variants:
        - ALBEF: `SoftTargetInfoNCE(Temperature(0.07, parametrisation="divisor", bounds=(0.001, 0.5)))` with
          `teacher_q` and `alpha=0.4`
        - MoCo with duplicates as positives: `SoftTargetInfoNCE(0.07, learnable=False)` with `q_group` and `k_group`

    Example:
        >>> import torch
        >>> loss = SoftTargetInfoNCE(temperature=1.0)
        >>> round(loss(torch.eye(2), torch.eye(2), teacher_q=torch.zeros(2, 2), alpha=0.5).item(), 6)
        0.563262
    """

    def __init__(self, temperature: Tau = 0.07, *, learnable: bool = True, backend: str = "auto") -> None:
        super().__init__()
        self.temperature = as_temperature(temperature, learnable=learnable)
        self.backend = backend

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        *,
        teacher_q: Tensor | None = None,
        alpha: float | Tensor = 0.0,
        q_group: Tensor | None = None,
        k_group: Tensor | None = None,
    ) -> Tensor:
        return soft_target_info_nce(
            q,
            k,
            teacher_q=teacher_q,
            temperature=self.temperature,
            alpha=alpha,
            q_group=q_group,
            k_group=k_group,
            backend=self.backend,
        )


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


class VisionLanguageAlignment(nn.Module):
    """A student learns which labels a teacher finds most plausible for a picture, and how plausible each is (L-vlalign
    of arXiv 2307.03135).

        I_i = the k largest of cos(t_i, w_c) over all classes c
        L   = mean_i KL( softmax_I( cos(t_i, w) / tau ) || softmax_I( cos(o_i, w) / tau ) )

    Both softmaxes are over the k labels of I_i alone: how far the others are below is not taught. Normalises all
    embeddings itself. The teacher is a constant. Pictures do not meet: any batch size will do, and two
    matrices `[N, C]` are held. With
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
