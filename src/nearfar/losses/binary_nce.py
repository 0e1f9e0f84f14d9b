"""Binary NCE: each pair of a query and a key is judged by itself, near or far (word2vec's negative sampling, arXiv
1310.4546; CLESS, arXiv 2010.01061), and the estimation of a normalised model by it (NCE, arXiv 1206.6426).

With the logit s_ij = <q_i, k_j> / tau + bias, or, for true NCE, the same less log(n q(j)), where n negatives a positive
are drawn from the distribution q,

    L = sum_(i,j) w ( -log sigmoid(s_ij) if near, -log(1 - sigmoid(s_ij)) if far ) .
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from nearfar import ops
from nearfar.errors import UserError
from nearfar.losses.groups import check_rows, group_sum, lifted, unit
from nearfar.losses.temperature import Tau, as_scale, as_temperature
from nearfar.ops.tiling import inputs

Similarity = Literal["cosine", "dot"]
Reduction = Literal["mean", "sum"]


def binary_nce(
    q: Tensor,
    k: Tensor,
    *,
    temperature: Tau = 0.1,
    bias: float | Tensor = 0.0,
    similarity: Similarity = "cosine",
    positive: Tensor | None = None,
    q_group: Tensor | None = None,
    k_group: Tensor | None = None,
    log_q: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Binary NCE of queries against keys; see :class:`BinaryNCE`.

    Takes `q` `[N, D]`, `k` `[M, D]`, floating point, `positive` `[P, 2]` int64 or `[N, M]` bool, `q_group` `[N]` and
    `k_group` `[M]` int64, `log_q` `[M]`, floating point. Temperature and `bias` may also be one a query, `[N]`. Returns
    a scalar.

    Raises:
        UserError: shapes or options that do not fit together.

    Example (logits 2 and 1 of positives, 0, -1 and 0.5 of negatives):
        >>> q, k = torch.ones(1, 1), torch.tensor([[2.0], [1.0], [0.0], [-1.0], [0.5]])
        >>> near = torch.tensor([[0, 0], [0, 1]])
        >>> round(binary_nce(q, k, similarity="dot", temperature=1.0, positive=near).item(), 6)
        0.484135
    """
    check_choices(similarity=(similarity, Similarity), reduction=(reduction, Reduction))
    q, k = compared(q, k, similarity)
    pairs, q_group, k_group = inputs.near(positive, q_group, k_group, len(q), len(k), q.device)
    scale, bias = as_scale(temperature, len(q)), inputs.per_row(bias, q, "bias")
    far, near = _counts(pairs, q_group, k_group, len(q), len(k))
    if log_q is not None:
        if log_q.shape != (len(k),) or not log_q.is_floating_point():
            raise UserError(
                f"log_q must hold the log-probability of each key, floating-point [{len(k)}], "
                f"not {inputs.describe(log_q)}"
            )
        drawn = (far / near.clamp(min=1)).log()
        q, k = _with_offsets(q, k, scale, -(log_q + drawn))
    total = _total(q, k, scale, bias, None if positive is None else pairs, q_group, k_group)
    return total / (len(q) if reduction == "sum" else (far + near).clamp(min=1).to(total.dtype))


def check_choices(**choices: tuple[str, object]) -> None:
    """Raise a UserError that names the argument for a value that is none of its `Literal`'s."""
    for name, (value, known) in choices.items():
        if value not in get_args(known):
            raise UserError(f"{name}={value!r}: choose {' or '.join(map(repr, get_args(known)))}")


def compared(q: Tensor, k: Tensor, similarity: Similarity) -> tuple[Tensor, Tensor]:
    """Queries `q` `[N, D]` and keys `k` `[M, D]`, floating point, whose products are the similarity: of unit length for
    cosines. Half precision is lifted to float32.

    Raises:
        UserError: they are no rows, or not of one width.
    """
    check_rows(q=q, k=k)
    if q.shape[1] != k.shape[1]:
        raise UserError(f"q and k must be [N, D] and [M, D], got {tuple(q.shape)} and {tuple(k.shape)}")
    make = unit if similarity == "cosine" else lifted
    return make(q), make(k)


def _total(
    q: Tensor,
    k: Tensor,
    scale: float | Tensor,
    bias: Tensor,
    positive: Tensor | None,
    q_group: Tensor | None,
    k_group: Tensor | None,
) -> Tensor:
    """The sum over all pairs. Named positives are a sparse correction of the sum in which all are negatives:
    -log sigmoid(s) is softplus(s) - s."""
    if positive is None:
        return ops.sigmoid(q, k, scale, bias, q_group=q_group, k_group=k_group) * len(q)
    admit = "all" if q_group is None else "different"
    every = ops.pairwise_softplus(q, k, scale, bias, q_group=q_group, k_group=k_group, admit=admit)
    row, key = positive.unbind(1)
    each = scale[row] if isinstance(scale, Tensor) and scale.ndim and len(scale) > 1 else scale
    logit = (q[row] * k[key]).sum(1) * each + bias[row]
    terms = -logit
    if q_group is not None and k_group is not None:  # those of the query's group are not in the sum
        terms = torch.where(q_group[row] == k_group[key], softplus(-logit), terms)
    return every.sum() + terms.sum()


def _counts(
    positive: Tensor | None, q_group: Tensor | None, k_group: Tensor | None, n: int, m: int
) -> tuple[Tensor, Tensor]:
    """How many pairs are far and how many near, scalar tensors in float64 (float32 where a device has no more)."""
    grouped = q_group is not None and k_group is not None
    device = positive.device if positive is not None else q_group.device  # type: ignore[union-attr]
    wide = torch.float32 if device.type == "mps" else torch.float64
    every = torch.tensor(n * m, dtype=wide, device=device)
    if grouped:
        assert q_group is not None
        assert k_group is not None
        _, of_group = group_sum(torch.empty(m, 0, dtype=wide, device=device), q_group.long(), k_group.long())
        same = of_group.sum()
        if positive is None:
            return every - same, same
        row, key = positive.unbind(1)
        outside = (q_group[row] != k_group[key]).sum()
        return every - same - outside, torch.full_like(every, len(row))
    assert positive is not None
    return every - len(positive), torch.full_like(every, len(positive))


def _with_offsets(q: Tensor, k: Tensor, scale: float | Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys with one more column, that adds `offset` `[M]` to the keys' logits."""
    one = torch.as_tensor(1 / scale, dtype=q.dtype, device=q.device).reshape(-1, 1).expand(len(q), 1)
    return torch.cat([q, one], 1), torch.cat([k, offset.to(k.dtype)[:, None]], 1)


class BinaryNCE(nn.Module):
    """Each pair of a query and a key by itself, near or far (word2vec, arXiv 1310.4546; CLESS, arXiv 2010.01061).

    `-log sigmoid(s)` of a near pair and `-log(1 - sigmoid(s))` of a far one, with `s = similarity / tau + bias`. Unlike
    the ranking losses it changes when a number is added to all logits, and so its logits have a zero: `sigmoid(s)` is a
    probability that can be thresholded, and a query may have any number of positives, or none. Memory is linear in
    queries, keys and positives: the matrix of logits is never held.

    Args:
        temperature: initial temperature: a number, a tensor of one element or a :class:`Temperature`, taken as it is.
        bias: initial bias, one number.
        learnable: whether temperature and bias are trained.
        similarity: "cosine", or "dot" for the product of the vectors as they are; with a temperature of 1 that is the
            logit of word2vec.
        reduction: "mean" over all pairs (CLESS), or the "sum" of a query's, averaged over queries (word2vec, SigLIP).

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `q` | `[N, D]`, floating point | queries: texts |
        | `k` | `[M, D]`, floating point | keys: labels, words, texts; without more, key i is near to query i |
        | `positive` | `[P, 2]`, integers | query and key of each positive pair; or a mask `[N, M]`, bool |
        | `q_group`, `k_group` | `[N]` and `[M]`, integers | keys of a query's group are never its negatives |
        | `log_q` | `[M]`, floating point | true NCE: log-probability of each key where negatives are drawn from |

        Keys of a query's group are its positives or, where `positive` does not name them, duplicates that count for
        nothing. With `log_q`, log(n q) is taken off the logits, n being the number of negatives a positive in the call.

    Returns:
        A scalar, float32 (float64 from float64).

    Raises:
        UserError: shapes or options that do not fit together.

    Relations:
        - One positive a query and reduction "sum" is `SigmoidLoss`, which also goes round a ring of processes.
        - `InfoNCE` and `SoftTargetInfoNCE` rank: adding a number to all logits of a query changes nothing there, and
          their scores have no zero.
        - Without `log_q` it does not estimate a normalised model (word2vec's negative sampling does not either).

    Variants:
        - CLESS, texts against words: `BinaryNCE(0.1)` with `positive=`
        - word2vec: `BinaryNCE(1.0, learnable=False, similarity="dot", reduction="sum")`
        - noise contrastive estimation: the same with `log_q=`

    Example:
        >>> text, label = torch.randn(4, 8), torch.randn(6, 8)
        >>> has = torch.tensor([[0, 0], [0, 3], [1, 1], [2, 5]])    # text 3 has no label
        >>> BinaryNCE()(text, label, positive=has).shape
        torch.Size([])
    """

    def __init__(
        self,
        temperature: Tau = 0.1,
        bias: float | Tensor = 0.0,
        *,
        learnable: bool = True,
        similarity: Similarity = "cosine",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_choices(similarity=(similarity, Similarity), reduction=(reduction, Reduction))
        if isinstance(bias, Tensor) and bias.numel() != 1:
            raise UserError(f"bias must be one number, got a tensor of shape {tuple(bias.shape)}")
        self.temperature = as_temperature(temperature, learnable=learnable)
        self.bias = nn.Parameter(torch.tensor(float(bias)), requires_grad=learnable)
        self.similarity: Similarity = similarity
        self.reduction: Reduction = reduction

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        *,
        positive: Tensor | None = None,
        q_group: Tensor | None = None,
        k_group: Tensor | None = None,
        log_q: Tensor | None = None,
    ) -> Tensor:
        return binary_nce(
            q,
            k,
            temperature=self.temperature,
            bias=self.bias,
            similarity=self.similarity,
            positive=positive,
            q_group=q_group,
            k_group=k_group,
            log_q=log_q,
            reduction=self.reduction,
        )
