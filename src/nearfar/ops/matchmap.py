"""`matchmap`: how well the words of each caption are to be seen somewhere in each picture (arXiv 1804.01452, and
2111.07180 for words), and `matchmap_contrast`, the softmax over it.

With cells I_i[p] of picture i and words T_j[w] of caption j, of which the first n_j are real,

    S_ij = 1 / n_j  sum_w  max_p <I_i[p], T_j[w]> .

A word takes the gradient of one cell a picture. So the [N, M, P, L] products are made in tiles, of which the largest
and its place is kept, and the backward pass needs no products: it gathers the N M L cells that were taken.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from nearfar.errors import UserError
from nearfar.ops.tiling.inputs import describe, group_ids
from nearfar.ops.tiling.operators import operator
from nearfar.ops.tiling.products import product

PRODUCTS = 1 << 22
"""Of words and cells in a tile: 16 MiB of float32."""
BACKENDS = ("auto", "dense")


def matchmap(cells: Tensor, words: Tensor, mask: Tensor | None = None, *, backend: str = "auto") -> Tensor:
    """Of every picture and every caption the mean over the caption's words of the largest product with a cell.

    Memory is one number a pair of picture and caption, and one or two bytes a pair of picture and word; products of
    words and cells exist a tile at a time. A maximum that several cells share has the gradient of one of them.
    Nothing is normalised. Second derivatives go through the dense products.

    Args:
        cells: [N, P, D], floating point; half precision is computed in float32.
        words: [M, L, D].
        mask: [M, L], bool or numbers: true for real words, anywhere in the row; what the others hold, NaN too, changes
            neither value nor gradient. None: all are real. A caption without any has 0 with all pictures.
        backend: "auto", or "dense" (a reference).

    Returns:
        [N, M], float32 (float64 from float64).

    Raises:
        UserError: shapes or options that do not fit together.

    >>> cells = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    >>> words = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [9.0, 9.0]]])
    >>> matchmap(cells, words, torch.tensor([[1, 1], [1, 0]]))
    tensor([[1.0000, 1.0000],
            [0.5000, 1.0000]])
    """
    cells, words, real = checked(cells, words, mask)
    if backend not in BACKENDS:
        raise UserError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
    return _dense(cells, words, real) if backend == "dense" else _Matchmap.apply(cells, words, real)


def matchmap_contrast(
    cells: Tensor,
    words: Tensor,
    mask: Tensor | None = None,
    scale: float | Tensor = 1.0,
    *,
    group: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Picture i against all captions, and caption j against all pictures: -log softmax of its own one under `scale`
    times `matchmap`.

    Args:
        cells: [N, P, D], floating point; half precision is computed in float32.
        words: [N, L, D]; caption i belongs to picture i.
        mask: [N, L], as in `matchmap`.
        scale: 1 / temperature, a number or a tensor of one element.
        group: integers [N]; samples of one group are no negatives of each other.
        backend: "auto", or "dense" (a reference).

    Returns:
        The losses of the pictures [N] and of the captions [N], float32 (float64 from float64).

    Raises:
        UserError: shapes or options that do not fit together.

    >>> eye = torch.eye(2)[:, None]
    >>> of_pictures, of_captions = matchmap_contrast(eye, eye)  # log(1 + 1 / e)
    >>> of_pictures, of_captions
    (tensor([0.3133, 0.3133]), tensor([0.3133, 0.3133]))
    """
    cells, words, real = checked(cells, words, mask)
    if len(cells) != len(words):
        raise UserError(f"picture i belongs to caption i: cells has {len(cells)} rows, words {len(words)}")
    if backend not in BACKENDS:
        raise UserError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
    group = None if group is None else group_ids(group, len(cells), "group")
    factor = torch.as_tensor(scale, dtype=cells.dtype, device=cells.device)
    if factor.numel() != 1:
        raise UserError(f"scale must be one number, not {describe(factor)}")
    if backend == "dense":
        return _losses(_dense(cells, words, real) * factor.reshape(()), group)
    of_pictures, of_captions, *_ = _Contrast.apply(cells, words, real, factor.reshape(()), group)
    return of_pictures, of_captions


def checked(cells: Tensor, words: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Cells `[N, P, D]` and words `[M, L, D]`, floating point, in one type, and which words are real, `[M, L]` bool.

    Raises:
        UserError: shapes that do not fit together.
    """
    for name, vectors in (("cells", cells), ("words", words)):
        if vectors.ndim != 3 or not vectors.is_floating_point() or not vectors.shape[1]:
            raise UserError(f"{name} must be a floating-point [rows, places, dim] tensor, not {describe(vectors)}")
    if cells.shape[2] != words.shape[2]:
        raise UserError(f"cells and words must have the same width: {describe(cells)} and {describe(words)}")
    if mask is not None and mask.shape != words.shape[:2]:
        raise UserError(f"mask must be [M, L] = {tuple(words.shape[:2])}, as words are, not {describe(mask)}")
    real = torch.ones(words.shape[:2], dtype=torch.bool, device=words.device) if mask is None else mask.bool()
    lifted = torch.promote_types(torch.promote_types(cells.dtype, words.dtype), torch.float32)
    return cells.to(lifted).contiguous(), words.to(lifted).contiguous(), real


def _losses(logits: Tensor, group: Tensor | None) -> tuple[Tensor, Tensor]:
    own, logits = logits.diagonal(), _among(logits, group)
    return logits.logsumexp(1) - own, logits.logsumexp(0) - own


def _among(logits: Tensor, group: Tensor | None) -> Tensor:
    """The logits [N, N] without those of other samples of one group."""
    if group is None:
        return logits
    same = group[:, None] == group
    return logits.masked_fill(same & ~torch.eye(len(group), dtype=torch.bool, device=group.device), -torch.inf)


def _dense(cells: Tensor, words: Tensor, real: Tensor) -> Tensor:
    """The same by autograd, from all products."""
    words = words.masked_fill(~real[..., None], 0)
    (n, p, d), (m, length) = cells.shape, real.shape
    every = product(words.reshape(m * length, d), cells.reshape(n * p, d)).view(m, length, n, p)
    best = every.max(-1).values
    share = real.to(cells.dtype) / real.sum(1, keepdim=True).clamp(min=1)
    return (best * share[..., None]).sum(1).mT.contiguous()


def _dense_gradients(function: Any, tensors: tuple[Any, ...], upstream: tuple[Any, ...]) -> list[Tensor | None]:
    """Gradients of `function(*tensors)` that can be differentiated again."""
    copies = [t.view_as(t) if isinstance(t, Tensor) and t.is_floating_point() else t for t in tensors]
    needed = [t for t in copies if isinstance(t, Tensor) and t.requires_grad]
    made = torch.autograd.grad(function(*copies), needed, upstream, create_graph=True, materialize_grads=True)
    gradients = iter(made)
    return [next(gradients) if isinstance(t, Tensor) and t.requires_grad else None for t in copies]


class _Matchmap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cells: Tensor, words: Tensor, real: Tensor) -> Tensor:
        scores, places = _forward(cells, words, real)
        ctx.save_for_backward(cells, words, real, places)
        return scores

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Any, ...]:
        *tensors, places = ctx.saved_tensors
        if torch.is_grad_enabled():
            return tuple(_dense_gradients(_dense, tuple(tensors), upstream))
        return *_backward(*tensors, places, upstream[0]), None


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, cells: Tensor, words: Tensor, real: Tensor, scale: Tensor, group: Tensor | None
    ) -> tuple[Tensor, ...]:
        of_pictures, of_captions, scores, places = _contrast_forward(cells, words, real, scale, group)
        ctx.save_for_backward(cells, words, real, scale, group, scores, places)
        ctx.mark_non_differentiable(scores, places)
        ctx.set_materialize_grads(False)  # of scores and places there are none, and they would be as large
        return of_pictures, of_captions, scores, places

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Any, ...]:
        cells, words, real, scale, group, scores, places = ctx.saved_tensors
        g_pictures, g_captions = (cells.new_zeros(len(cells)) if g is None else g for g in upstream[:2])
        if torch.is_grad_enabled():

            def losses(cells: Tensor, words: Tensor, real: Tensor, scale: Tensor, group: Tensor | None) -> Any:
                return _losses(_dense(cells, words, real) * scale, group)

            return tuple(_dense_gradients(losses, (cells, words, real, scale, group), (g_pictures, g_captions)))
        dcells, dwords, dscale = _contrast_backward(
            cells, words, real, scale, group, scores, places, g_pictures, g_captions
        )
        return dcells, dwords, None, dscale, None


def _type_of_places(cells: Tensor) -> torch.dtype:
    return torch.uint8 if cells.shape[1] <= 256 else torch.int16 if cells.shape[1] <= 2**15 else torch.int32


def _shapes(cells: Tensor, words: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    scores = cells.new_empty(len(cells), len(words))
    return scores, cells.new_empty((*real.shape, len(cells)), dtype=_type_of_places(cells))


@operator("matchmap(Tensor cells, Tensor words, Tensor real) -> (Tensor, Tensor)", _shapes)
def _forward(cells: Tensor, words: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """The scores [N, M], and which cell of each picture each word took, [M, L, N]."""
    n, p = cells.shape[:2]
    scores, places = _shapes(cells, words, real)
    by_caption = scores.new_zeros(len(words), n)
    places.zero_()
    at, caption, share = _real_words(real, cells.dtype)
    several = max(1, min(len(at), PRODUCTS // p, 2048))
    pictures = max(1, PRODUCTS // (p * several))
    for words_at in at.split(several) if len(at) else ():
        rows = words.flatten(0, 1)[words_at]
        best, taken = rows.new_empty(len(rows), n), places.new_empty(len(rows), n)
        for first in range(0, n, pictures):
            part = cells[first : first + pictures]
            largest = product(rows, part.flatten(0, 1)).view(len(rows), len(part), p).max(-1)
            best[:, first : first + len(part)], taken[:, first : first + len(part)] = largest
        places.flatten(0, 1)[words_at] = taken
        by_caption.index_add_(0, caption[words_at], best * share[words_at, None])
    scores.copy_(by_caption.mT)
    return scores, places


def _real_words(real: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The numbers of the real words among all M * L; of each word its caption, and its share of the mean."""
    m, length = real.shape
    caption = torch.arange(m, device=real.device).repeat_interleave(length)
    share = (1 / real.sum(1).clamp(min=1).to(dtype)).repeat_interleave(length)
    return real.flatten().nonzero()[:, 0], caption, share


def _gradient_shapes(cells: Tensor, words: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(cells), torch.empty_like(words)


@operator(
    "matchmap_backward(Tensor cells, Tensor words, Tensor real, Tensor places, Tensor upstream) -> (Tensor, Tensor)",
    _gradient_shapes,
)
def _backward(cells: Tensor, words: Tensor, real: Tensor, places: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients to cells and words: sums over the pairs of a word and the cell it took, in both directions."""
    n, p, d = cells.shape
    dcells, dwords = torch.zeros_like(cells), torch.zeros_like(words)
    at, caption, share = _real_words(real, cells.dtype)
    if not len(at):
        return dcells, dwords
    taken, flat = places.flatten(0, 1)[at], cells.flatten(0, 1)
    rows, by_caption = words.flatten(0, 1)[at], upstream.mT.contiguous()
    first_cell = torch.arange(n, device=cells.device) * p
    for start in range(0, len(at), step := max(1, PRODUCTS // n)):
        here = at[start : start + step]
        weight = by_caption[caption[here]] * share[here, None]
        cell = taken[start : start + step].long() + first_cell
        dwords.flatten(0, 1)[here] = embedding_bag(cell, flat, per_sample_weights=weight, mode="sum")
    for first in range(0, n, step := max(1, PRODUCTS // len(at))):
        some = slice(first, min(first + step, n))
        count = some.stop - first
        cell = (taken[:, some].long() + first_cell[:count]).flatten()
        order = cell.argsort(stable=True)
        weight = (by_caption[caption[at], some] * share[at, None]).flatten()[order]
        bounds = torch.searchsorted(cell[order], torch.arange(count * p, device=cells.device))
        sums = embedding_bag(order // count, rows, bounds, per_sample_weights=weight, mode="sum")
        dcells[some] = sums.view(count, p, d)
    return dcells, dwords


def _contrast_shapes(cells: Tensor, words: Tensor, real: Tensor, *_: Any) -> tuple[Tensor, ...]:
    n = len(cells)
    return cells.new_empty(n), cells.new_empty(n), *_shapes(cells, words, real)


CONTRAST = "Tensor cells, Tensor words, Tensor real, Tensor scale, Tensor? group"


@operator(f"matchmap_contrast({CONTRAST}) -> (Tensor, Tensor, Tensor, Tensor)", _contrast_shapes)
def _contrast_forward(
    cells: Tensor, words: Tensor, real: Tensor, scale: Tensor, group: Tensor | None
) -> tuple[Tensor, ...]:
    """The losses of both sides, then what `matchmap` gives."""
    scores, places = _forward(cells, words, real)
    return *_losses(scores * scale, group), scores, places


def _contrast_gradient_shapes(cells: Tensor, words: Tensor, real: Tensor, scale: Tensor, *_: Any) -> Any:
    return torch.empty_like(cells), torch.empty_like(words), torch.empty_like(scale)


@operator(
    f"matchmap_contrast_backward({CONTRAST}, Tensor scores, Tensor places, Tensor g_pictures, Tensor g_captions) -> "
    "(Tensor, Tensor, Tensor)",
    _contrast_gradient_shapes,
)
def _contrast_backward(
    cells: Tensor,
    words: Tensor,
    real: Tensor,
    scale: Tensor,
    group: Tensor | None,
    scores: Tensor,
    places: Tensor,
    g_pictures: Tensor,
    g_captions: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to cells, words and scale, by way of that to the scores [N, N]."""
    logits = _among(scores * scale, group)
    of_pictures = (logits - logits.logsumexp(1, keepdim=True)).exp_() * g_pictures[:, None]
    upstream = of_pictures + (logits - logits.logsumexp(0)).exp_() * g_captions
    upstream.diagonal().sub_(g_pictures + g_captions)
    return *_backward(cells, words, real, places, upstream * scale), (upstream * scores).sum()
