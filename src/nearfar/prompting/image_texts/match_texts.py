"""Of the descriptions of a picture's class those that fit the picture best (GIST, arXiv 2307.11315).

With unit embeddings f of a picture of class c and g_m of the M_c descriptions of that class, by a frozen model,

    p_m = softmax_m(100 <f, g_m>),    kept: the `top` descriptions of greatest p, the best first.

The softmax changes nothing in the order, so that cosines are compared. Descriptions of other classes are never looked
at: a picture's texts are true of its class, whatever the model thinks of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize

from nearfar.errors import UserError, at_least


@dataclass(frozen=True)
class MatchedTexts:
    """For each of N pictures the numbers of the descriptions of its class that fit it best, the best first, and their
    cosines; nothing for a picture without a class, or of a class without descriptions."""

    texts: list[list[int]]
    scores: list[list[float]]


def match_texts(image: Tensor, label: Tensor, text_of_class: Sequence[Tensor], *, top: int = 4) -> MatchedTexts:
    """The descriptions of its own class that fit each picture best.

    Args:
        image: embeddings of pictures, `[N, D]` floating point, of any length.
        label: `[N]` int64, the class of each; below 0 where unknown.
        text_of_class: of each class the embeddings of its descriptions, `[M_c, D]` floating point; M_c may be 0.
        top: how many to keep (paper: 4 of 5 that are matched); all where a class has fewer.

    Returns:
        Numbers within the class and cosines. Of equal ones the first comes first.

    Raises:
        UserError: `top` below 1, shapes that do not fit together, or a label that is the number of no class.

    >>> import torch
    >>> eye = torch.eye(3)
    >>> match_texts(eye[:2], torch.tensor([1, 0]), [eye, torch.stack([eye[1], eye[0] + eye[1]])], top=2).texts
    [[1, 0], [1, 0]]
    """
    at_least(1, top=top)
    _check(image, label, text_of_class)
    matched = MatchedTexts([[] for _ in range(len(image))], [[] for _ in range(len(image))])
    # In float64 each cosine is the same whatever else is in the product.
    f = normalize(image.double(), dim=1)
    for number in label[label >= 0].unique().tolist():
        if not len(text_of_class[number]):
            continue
        rows = (label == number).nonzero().flatten()
        cosine = f[rows] @ normalize(text_of_class[number].double(), dim=1).T
        # Equal ones may differ by the rounding of a product: to 12 digits they are equal, and the first stays first.
        best = cosine.round(decimals=12).sort(dim=1, descending=True, stable=True).indices[:, :top]
        for row, own, scores in zip(rows.tolist(), best.tolist(), cosine.gather(1, best).tolist(), strict=True):
            matched.texts[row], matched.scores[row] = own, scores
    return matched


def _check(image: Tensor, label: Tensor, text_of_class: Sequence[Tensor]) -> None:
    if image.ndim != 2 or label.shape != image.shape[:1]:
        raise UserError(f"image and label must be [N, D] and [N], got {[*image.shape]} and {[*label.shape]}")
    if len(label) and int(label.max()) >= len(text_of_class):
        raise UserError(f"there is a label {int(label.max())}, but descriptions of only {len(text_of_class)} classes")
    for number, texts in enumerate(text_of_class):
        if texts.ndim != 2 or (len(texts) and texts.shape[1] != image.shape[1]):
            raise UserError(
                f"the descriptions of class {number} must be [M, {image.shape[1]}], as wide as the pictures, "
                f"got {[*texts.shape]}"
            )
