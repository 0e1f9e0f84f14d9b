"""Max-margin ranking: each positive must be nearer than the negatives by a margin (VSE++, arXiv 1707.05612; CONPONO,
arXiv 2005.10389).

With similarities s of query i, its positives P and its negatives N, per query

    hardest:  mean_p max(0, m - s_ip + max_n s_in)          mean:  mean_p mean_n max(0, m - s_ip + s_in) .
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from nearfar import ops
from nearfar.losses.binary_nce import Similarity, check_choices, compared

Compared = Literal["hardest", "mean"]


def margin_ranking(
    q: Tensor,
    k: Tensor,
    *,
    margin: float = 0.2,
    against: Compared = "hardest",
    similarity: Similarity = "cosine",
    positive: Tensor | None = None,
    q_group: Tensor | None = None,
    k_group: Tensor | None = None,
) -> Tensor:
    """Max-margin ranking of queries against keys; see :class:`MarginRanking`.

    Takes `q` `[N, D]`, `k` `[M, D]`, floating point, `positive` `[P, 2]` int64 or `[N, M]` bool, `q_group` `[N]` and
    `k_group` `[M]` int64. Returns a scalar.

    Raises:
        UserError: shapes or options that do not fit together.

    Example:
        >>> import torch
        >>> q, k = torch.ones(1, 1), torch.tensor([[0.2], [0.5]])
        >>> round(margin_ranking(q, k, margin=1.0, similarity="dot").item(), 6)
        1.3
    """
    check_choices(similarity=(similarity, Similarity), against=(against, Compared))
    q, k = compared(q, k, similarity)
    return ops.margin_ranking(q, k, margin, positive=positive, q_group=q_group, k_group=k_group, against=against)


class MarginRanking(nn.Module):
    """Each positive must be nearer than the negatives by a margin (VSE++, arXiv 1707.05612).

    The mean over queries that have a positive and a negative. Pairs that keep the margin have no gradient. Memory is
    linear in queries and keys: the matrix of similarities is never held, and of all triplets none is formed.

    Args:
        margin: m, in the unit of the similarity (VSE++: 0.2 of cosines; CONPONO: 1 of products).
        against: the "hardest" negative, the query's nearest one, or the "mean" over all.
        similarity: "cosine", or "dot" for the product of the vectors as they are.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `q` | `[N, D]`, floating point | queries |
        | `k` | `[M, D]`, floating point | keys. Without more, key i is the positive of query i |
        | `positive` | `[P, 2]`, integers | query and key of each positive pair; or a mask `[N, M]`, bool |
        | `q_group`, `k_group` | `[N]` and `[M]`, integers | keys of a query's group are never its negatives |

        A query may have any number of positives. Keys of its group are its positives or, where `positive` does not name
        them, duplicates that count for nothing.

    Returns:
        A scalar, float32 (float64 from float64); 0 where no query has both a positive and a negative.

    Raises:
        UserError: shapes or options that do not fit together.

    Relations:
        - One direction: for both, add the loss of `k` against `q`.
        - `InfoNCE` is its soft form: at a low temperature, that of the hardest negative with a margin of 0.

    Variants:
        - VSE++: `MarginRanking(0.2)`, both directions added
        - triplets: `MarginRanking(0.2, against="mean")` with labels as `q_group` and `k_group`
        - CONPONO's hinge: `MarginRanking(1.0, similarity="dot")`

    Example:
        >>> import torch
        >>> MarginRanking()(torch.randn(4, 8), torch.randn(6, 8)).shape
        torch.Size([])
    """

    def __init__(
        self, margin: float = 0.2, *, against: Compared = "hardest", similarity: Similarity = "cosine"
    ) -> None:
        super().__init__()
        check_choices(similarity=(similarity, Similarity), against=(against, Compared))
        self.margin = margin
        self.against: Compared = against
        self.similarity: Similarity = similarity

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        *,
        positive: Tensor | None = None,
        q_group: Tensor | None = None,
        k_group: Tensor | None = None,
    ) -> Tensor:
        return margin_ranking(
            q,
            k,
            margin=self.margin,
            against=self.against,
            similarity=self.similarity,
            positive=positive,
            q_group=q_group,
            k_group=k_group,
        )
