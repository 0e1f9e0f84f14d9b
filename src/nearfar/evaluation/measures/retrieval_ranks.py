"""Ranks among many candidates: streamed, exact, and fair to ties.

A query's rank is that of its best right candidate. Candidates that score the same are in no order, so every figure is
its expectation over all orders of the tied: an encoder that maps everything to one point scores exactly at chance,
however the candidates happen to be sorted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar import console
from nearfar.nearest.score_products import score_product

TILE = 2048
"""Rows of queries and of candidates whose scores are held at a time: 16 MiB of float32."""

STRIP = 128
"""Rows of a tile that are compared at a time: 1 MiB."""

TIE = 1e-6
"""Cosines closer than this are tied: float32 products of the same two vectors differ by about 1e-7."""


@dataclass(frozen=True)
class Ranks:
    """The rank of the best right candidate of each query, ties counted. All fields are `[Q]` int64.

    Args:
        better: wrong candidates with a strictly higher score.
        tied_wrong: wrong candidates with the same score.
        tied_right: right candidates with the same score, itself included (so at least 1 where `right` is).
        right: right candidates in all; 0 for a query that has none, which no figure counts.
        candidates: candidates in all.
    """

    better: NDArray[np.int64]
    tied_wrong: NDArray[np.int64]
    tied_right: NDArray[np.int64]
    right: NDArray[np.int64]
    candidates: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.right)

    def __getitem__(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Ranks:
        fields = (self.better, self.tied_wrong, self.tied_right, self.right, self.candidates)
        return Ranks(*(field[rows] for field in fields))

    def answerable(self) -> NDArray[np.bool_]:
        """`[Q]` bool: which queries have a right candidate at all."""
        return self.right > 0

    def chance(self) -> Ranks:
        """The same queries and candidates under a model that ties all of them: a random order."""
        return Ranks(np.zeros_like(self.better), self.candidates - self.right, self.right, self.right, self.candidates)

    def hit(self, k: int) -> NDArray[np.float64]:
        """`[Q]` float64: the probability that a right candidate is among the first `k`; 0 or 1 where nothing is tied.

        Of t wrong and p right tied candidates m places remain: 1 - C(t, m) / C(t + p, m).
        """
        places = np.clip(k - self.better, 0, None).astype(np.float64)
        wrong, right = self.tied_wrong.astype(np.float64), self.tied_right.astype(np.float64)
        sure = places > wrong
        none = np.where(sure, 0.0, _choose_ratio(wrong, right, np.where(sure, 0.0, places)))
        return np.where(self.answerable(), 1.0 - none, 0.0).astype(np.float64)

    def rank(self) -> NDArray[np.float64]:
        """`[Q]` float64: the expected rank of the first right candidate, counted from 1: 1 + better + t / (p + 1)."""
        return (1.0 + self.better + self.tied_wrong / (self.tied_right + 1.0)).astype(np.float64)

    def reciprocal(self) -> NDArray[np.float64]:
        """`[Q]` float64: the expectation of 1 / rank."""
        cases = np.stack([self.better, self.tied_wrong, self.tied_right], axis=1)
        unique, inverse = np.unique(cases, axis=0, return_inverse=True)
        return np.array([_reciprocal(*case) for case in unique])[inverse.reshape(-1)]


def rank(
    query: Tensor,
    candidate: Tensor,
    query_group: Tensor,
    candidate_group: Tensor,
    *,
    tile: int = TILE,
    tie: float = TIE,
) -> Ranks:
    """Rank candidates by inner product, holding `tile * tile` scores at most: a million queries among a million
    candidates need no more memory than a thousand among a thousand.

    Args:
        query: `[Q, D]` float32, unit rows.
        candidate: `[G, D]` float32, unit rows.
        query_group, candidate_group: `[Q]`, `[G]` int64; a candidate is right when the groups are equal.
        tile: rows of either side at a time.
        tie: scores that differ by no more than this are tied.

    Raises:
        ValueError: a vector is not finite.

    >>> eye = torch.eye(3)
    >>> rank(eye, eye, torch.arange(3), torch.arange(3)).rank()
    array([1., 1., 1.])
    """
    if not (query.isfinite().all() and candidate.isfinite().all()):
        # NaN loses every comparison, so that a broken model would rank first everywhere.
        raise ValueError("vectors to rank are not finite: the model gives NaN or infinity")
    right = _count_right(query_group, candidate_group)
    best, tied_right = _best_right(query, candidate, query_group, candidate_group, tile=tile, tie=tie)
    better, at_least = torch.zeros_like(right), torch.zeros_like(right)
    group, candidate_code = _codes(query_group, candidate_group)
    above, below = best[:, None] + tie, best[:, None] - tie
    buffer, yes = query.new_empty(min(tile, len(query)) * min(tile, len(candidate))), query.new_empty(STRIP * tile)
    ones = query.new_ones(tile)
    for rows in console.track(_slices(len(query), tile), "ranking, by block"):
        for columns in _slices(len(candidate), tile):
            shape = rows.stop - rows.start, columns.stop - columns.start
            score = score_product(query[rows], candidate[columns], buffer[: shape[0] * shape[1]].view(shape))
            some_right = bool(torch.isin(candidate_code[columns], group[rows]).any())
            for strip in _slices(shape[0], STRIP):  # which the passes over it find in the cache
                part, of = score[strip], slice(rows.start + strip.start, rows.start + strip.stop)
                if some_right:
                    part.masked_fill_(group[of, None] == candidate_code[None, columns], -torch.inf)
                flags = yes[: part.numel()].view(part.shape)
                better[of] += _count(torch.gt(part, above[of], out=flags), ones)
                at_least[of] += _count(torch.ge(part, below[of], out=flags), ones)
    return _ranks(better, at_least - better, tied_right, right, len(candidate))


def rank_scores(scores: Tensor, query_group: Tensor, candidate_group: Tensor) -> Ranks:
    """Rank candidates by a given `[Q, G]` matrix of scores, floating point; only exactly equal scores are tied. For
    scores that are no inner product, such as those of a matching head over a short list; `-inf` marks a candidate that
    is out. `query_group [Q]` and `candidate_group [G]` are int64; a candidate is right when the groups are equal.

    Raises:
        ValueError: a score is NaN.

    >>> rank_scores(torch.tensor([[0.2, 0.9]]), torch.tensor([0]), torch.tensor([0, 1])).rank()
    array([2.])
    """
    if scores.isnan().any():
        raise ValueError("scores to rank hold NaN")
    same = query_group[:, None] == candidate_group[None]
    best = scores.masked_fill(~same, -torch.inf).amax(dim=1, keepdim=True)
    wrong = ~same
    return _ranks(
        ((scores > best) & wrong).sum(dim=1),
        ((scores == best) & wrong).sum(dim=1),
        ((scores == best) & same).sum(dim=1),
        same.sum(dim=1),
        scores.shape[1],
    )


def _codes(query_group: Tensor, candidate_group: Tensor) -> tuple[Tensor, Tensor]:
    """The groups, numbered anew in 32 bits, which are compared in half of the time."""
    code = torch.cat([query_group, candidate_group]).unique(return_inverse=True)[1].int()
    return code[: len(query_group)], code[len(query_group) :]


def _count(flags: Tensor, ones: Tensor) -> Tensor:
    """How many are 1 in each row of zeros and ones in floating point, by a product with ones: half of the time of a
    sum, a twentieth of that of truth values, and exact, as a row of a block is far shorter than the 2 ** 24 up to which
    float32 counts."""
    return torch.mv(flags, ones[: flags.shape[1]]).long()


def _best_right(
    query: Tensor, candidate: Tensor, query_group: Tensor, candidate_group: Tensor, *, tile: int, tie: float
) -> tuple[Tensor, Tensor]:
    """The highest score of a right candidate, and how many right ones are tied with it. Walks the right pairs only,
    found by sorting the candidates by group."""
    order = candidate_group.argsort(stable=True)
    groups = candidate_group[order]
    first = torch.searchsorted(groups, query_group)
    count = torch.searchsorted(groups, query_group, right=True) - first
    best = torch.full((len(query),), -torch.inf, dtype=query.dtype)
    tied = torch.zeros(len(query), dtype=torch.long)
    for rows in _pair_slices(count, tile * tile // max(1, query.shape[1])):
        owner = torch.repeat_interleave(torch.arange(rows.start, rows.stop), count[rows])
        offset = torch.arange(len(owner)) - torch.repeat_interleave(count[rows].cumsum(0) - count[rows], count[rows])
        score = torch.linalg.vecdot(query[owner], candidate[order[first[owner] + offset]])
        best.scatter_reduce_(0, owner, score, "amax")
        tied.index_add_(0, owner, (score >= best[owner] - tie).long())
    return best, tied


def _pair_slices(count: Tensor, limit: int) -> list[slice]:
    """Runs of queries with at most about `limit` right pairs together (a query is never cut)."""
    total, slices, start = count.cumsum(0).numpy(), [], 0
    while start < len(count):
        done = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, done + limit, side="right")))
        slices.append(slice(start, stop))
        start = stop
    return slices


def _count_right(query_group: Tensor, candidate_group: Tensor) -> Tensor:
    groups = candidate_group.sort().values
    return torch.searchsorted(groups, query_group, right=True) - torch.searchsorted(groups, query_group)


def _ranks(better: Tensor, tied_wrong: Tensor, tied_right: Tensor, right: Tensor, candidates: int) -> Ranks:
    counts = (better, tied_wrong, tied_right, right, torch.full_like(right, candidates))
    return Ranks(*(count.numpy().astype(np.int64) for count in counts))


def _choose_ratio(
    wrong: NDArray[np.float64], right: NDArray[np.float64], m: NDArray[np.float64]
) -> NDArray[np.float64]:
    """C(wrong, m) / C(wrong + right, m) for m <= wrong, as a product over the shorter of m and right."""
    m_first = m <= right
    steps, start = np.where(m_first, m, right), np.where(m_first, wrong, wrong + right - m)
    ratio = np.ones_like(start)
    # prod_{i<m} (t-i)/(t+p-i), which equals prod_{i<p} (t+p-m-i)/(t+p-i).
    for i in range(int(min(steps.max(initial=0), 64))):
        ratio = np.where(i < steps, ratio * (start - i) / np.maximum(wrong + right - i, 1), ratio)
    long = steps > 64
    if long.any():
        t, n, k = wrong[long], (wrong + right)[long], m[long]
        ratio[long] = np.exp(_lgamma(t + 1) - _lgamma(t - k + 1) - _lgamma(n + 1) + _lgamma(n - k + 1))
    return ratio


def _lgamma(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return torch.lgamma(torch.from_numpy(values)).numpy()


def _reciprocal(better: int, wrong: int, right: int) -> float:
    """E[1 / (better + j)], j the first place of `right` items shuffled among `wrong`."""
    if wrong == 0 or right == 0:
        return 1.0 / (better + 1)
    j = np.arange(1, wrong + 2, dtype=np.float64)
    # P(j) = P(j - 1) * (wrong - j + 2) / (wrong + right - j + 1), from P(1) = right / (wrong + right).
    steps = (wrong - j[1:] + 2) / (wrong + right - j[1:] + 1)
    probability = right / (wrong + right) * np.concatenate([[1.0], steps.cumprod()])
    return float((probability / (better + j)).sum())


def _slices(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]
