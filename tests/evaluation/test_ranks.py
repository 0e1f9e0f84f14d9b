import itertools
import math
from fractions import Fraction
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nearfar.evaluation.measures import retrieval_ranks
from nearfar.evaluation.measures.retrieval_ranks import Ranks, rank, rank_scores
from nearfar.nearest import nearest


def brute_force(scores, query_group, candidate_group, k):
    """Hit at k, rank and reciprocal rank of each query: the mean over all orders in which ties may fall."""
    hits, places, reciprocals = [], [], []
    for row, group in zip(scores, query_group, strict=True):
        first = []
        for order in itertools.permutations(range(len(row))):
            ranked = sorted(order, key=lambda j: -row[j])  # stable: ties stay in this order
            first.append(next(i for i, j in enumerate(ranked) if candidate_group[j] == group) + 1)
        first = np.array(first, dtype=np.float64)
        hits.append((first <= k).mean())
        places.append(first.mean())
        reciprocals.append((1 / first).mean())
    return np.array(hits), np.array(places), np.array(reciprocals)


@given(
    scores=st.lists(st.lists(st.integers(0, 2), min_size=5, max_size=5), min_size=1, max_size=3),
    candidate_group=st.permutations([0, 0, 1, 2, 2]),
    k=st.integers(1, 5),
)
@settings(max_examples=25, deadline=None)
def test_ties_count_at_their_expectation(scores, candidate_group, k):
    query_group = [i % 3 for i in range(len(scores))]
    ranks = rank_scores(torch.tensor(scores).double(), torch.tensor(query_group), torch.tensor(candidate_group))
    hits, places, reciprocals = brute_force(scores, query_group, candidate_group, k)
    np.testing.assert_allclose(ranks.hit(k), hits, rtol=1e-12)
    np.testing.assert_allclose(ranks.rank(), places, rtol=1e-12)
    np.testing.assert_allclose(ranks.reciprocal(), reciprocals, rtol=1e-12)


@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    tile=st.integers(1, 13),
    strip=st.integers(1, 13),
    groups=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_streamed_ranks_equal_the_whole_matrix(shape, tile, strip, groups, seed):
    generator = torch.Generator().manual_seed(seed)
    # Small whole numbers: float32 products are exact and ties are many.
    query = torch.randint(-1, 2, (shape[0], 3), generator=generator).float()
    candidate = torch.randint(-1, 2, (shape[1], 3), generator=generator).float()
    query_group = torch.randint(groups, (shape[0],), generator=generator)
    candidate_group = torch.randint(groups, (shape[1],), generator=generator)
    with patch.object(retrieval_ranks, "STRIP", strip):
        streamed = rank(query, candidate, query_group, candidate_group, tile=tile)
    whole = rank_scores(query @ candidate.T, query_group, candidate_group)
    answerable = whole.answerable()
    assert (streamed.right == whole.right).all()
    for name in ("better", "tied_wrong", "tied_right"):
        np.testing.assert_array_equal(getattr(streamed, name)[answerable], getattr(whole, name)[answerable])


def test_against_float64_on_real_numbers():
    generator = torch.Generator().manual_seed(0)
    query, candidate = (
        torch.nn.functional.normalize(torch.randn(n, 32, generator=generator), dim=1) for n in (300, 500)
    )
    query_group, candidate_group = torch.arange(300) % 100, torch.arange(500) % 100
    scores = (query.double() @ candidate.double().T).numpy()
    expected = []
    for row, group in zip(scores, query_group.tolist(), strict=True):
        right = (candidate_group == group).numpy()
        expected.append(1 + (row[~right] > row[right].max() + 1e-6).sum())
    np.testing.assert_array_equal(1 + rank(query, candidate, query_group, candidate_group, tile=64).better, expected)


def test_a_collapsed_model_is_exactly_at_chance():
    one = torch.nn.functional.normalize(torch.randn(1, 17, generator=torch.Generator().manual_seed(1)), dim=1)
    groups = torch.arange(30) // 3
    ranks = rank(one.expand(30, -1), one.expand(30, -1), groups, groups, tile=7)
    for k in (1, 5, 10):
        np.testing.assert_allclose(ranks.hit(k), ranks.chance().hit(k))


def test_chance_is_the_share_of_all_orders():
    """4 right ones among 50 in any order: the first is the r-th where the other 3 are among the 50 - r behind it."""
    one = np.ones(1, dtype=np.int64)
    chance = Ranks(0 * one, 0 * one, one, 4 * one, 50 * one).chance()
    first = {r: math.comb(50 - r, 3) / math.comb(50, 4) for r in range(1, 48)}
    assert sum(first.values()) == pytest.approx(1)
    assert chance.hit(5)[0] == pytest.approx(sum(first[r] for r in range(1, 6)), rel=1e-9)
    assert chance.rank()[0] == pytest.approx(51 / 5, rel=1e-9) == sum(r * share for r, share in first.items())
    assert chance.reciprocal()[0] == pytest.approx(sum(share / r for r, share in first.items()), rel=1e-9)


def test_hits_of_many_places_and_many_ties():
    one = np.ones(1, dtype=np.int64)
    ranks = Ranks(0 * one, 900 * one, 100 * one, 100 * one, 1000 * one)
    exact = 1 - np.prod([(900 - i) / (1000 - i) for i in range(200)])
    assert ranks.hit(200)[0] == pytest.approx(exact, rel=1e-9)
    assert ranks.hit(901)[0] == 1


@pytest.mark.parametrize("right", [1, 2, 63, 64, 65, 66, 130])
@pytest.mark.parametrize("wrong", [1, 63, 64, 65, 200])
def test_hits_among_ties_are_exact_whatever_their_number(wrong, right):
    """Against whole numbers: 1 - C(wrong, k) / C(wrong + right, k), on both sides of 64 and of the shorter product."""
    one = np.ones(1, dtype=np.int64)
    ranks = Ranks(3 * one, wrong * one, right * one, right * one, (3 + wrong + right) * one)
    assert ranks.hit(3)[0] == 0
    for places in {1, 2, 63, 64, 65, 66, 129, wrong - 1, wrong} - {0}:
        if places > wrong:
            continue
        exact = 1 - Fraction(math.comb(wrong, places), math.comb(wrong + right, places))
        assert ranks.hit(3 + places)[0] == pytest.approx(float(exact), rel=1e-9)
    assert ranks.hit(3 + wrong + 1)[0] == 1


@pytest.mark.parametrize(("places", "right"), [(64, 65), (65, 64), (65, 65), (66, 130), (130, 66)])
def test_many_ties_in_a_sea_of_candidates(places, right):
    """So many wrong ones that a hit is far from sure: an error in any factor of the long products shows."""
    one = np.ones(1, dtype=np.int64)
    ranks = Ranks(0 * one, 100_000 * one, right * one, right * one, (100_000 + right) * one)
    exact = 1 - Fraction(math.comb(100_000, places), math.comb(100_000 + right, places))
    assert 0.01 < exact < 0.1
    assert ranks.hit(places)[0] == pytest.approx(float(exact), rel=1e-6)


@pytest.mark.parametrize("right", [1, 2, 65, 90])
@pytest.mark.parametrize("wrong", [1, 64, 65, 100])
def test_rank_and_reciprocal_among_many_ties(wrong, right):
    """The expectation over the place of the first right one, summed in whole numbers."""
    one = np.ones(1, dtype=np.int64)
    ranks = Ranks(2 * one, wrong * one, right * one, right * one, (2 + wrong + right) * one)
    total = wrong + right
    first = {j: Fraction(math.comb(total - j, right - 1), math.comb(total, right)) for j in range(1, wrong + 2)}
    assert sum(first.values()) == 1
    assert ranks.rank()[0] == pytest.approx(float(sum(p * (2 + j) for j, p in first.items())), rel=1e-12)
    assert ranks.reciprocal()[0] == pytest.approx(float(sum(p / (2 + j) for j, p in first.items())), rel=1e-9)


@pytest.mark.parametrize(("gap", "tied"), [(3e-7, True), (9e-7, True), (5e-6, False)])
@pytest.mark.parametrize("sign", [1, -1])
def test_scores_that_differ_by_rounding_are_tied(gap, tied, sign):
    """A wrong candidate a hair above or below the right one is tied with it; further away it is not."""
    query = torch.tensor([[1.0, 0.0]])
    candidate = torch.tensor([[0.5, 0.5], [0.5 + sign * gap, 0.5], [0.1, 0.0]])
    ranks = rank(query, candidate, torch.tensor([0]), torch.tensor([0, 1, 2]))
    assert ranks.tied_wrong.tolist() == [int(tied)]
    assert ranks.better.tolist() == [int(not tied and sign > 0)]
    assert ranks.rank()[0] == (1.5 if tied else 1.0 + (sign > 0))
    # The same of two right ones: both count as tied where the gap is rounding.
    both = rank(query, candidate, torch.tensor([0]), torch.tensor([0, 0, 2]))
    assert both.tied_right.tolist() == [1 + int(tied)]


def test_nan_does_not_rank_first():
    query = torch.tensor([[float("nan"), 0.0]])
    with pytest.raises(ValueError, match="not finite"):
        rank(query, torch.eye(2), torch.tensor([0]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="NaN"):
        rank_scores(query, torch.tensor([0]), torch.tensor([0, 1]))


def test_a_query_without_a_right_candidate_is_marked():
    ranks = rank(torch.eye(2), torch.eye(2), torch.tensor([0, 9]), torch.tensor([0, 1]))
    assert ranks.answerable().tolist() == [True, False]
    assert ranks.hit(2).tolist() == [1.0, 0.0]


def elements(tensor):
    return tensor.untyped_storage().nbytes() // tensor.element_size()


class Largest(TorchDispatchMode):
    """The largest tensor that any operation gives, by the memory it lies in: a view takes none of its own."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(elements(t) for t in tree_leaves(out) if isinstance(t, torch.Tensor))])
        return out


def test_memory_does_not_grow_with_the_product():
    """The largest tensor made while ranking stays within a tile squared, whatever the number of rows."""
    x = torch.nn.functional.normalize(torch.randn(3000, 4), dim=1)
    for work in (
        lambda: rank(x, x, torch.arange(3000), torch.arange(3000), tile=256),
        lambda: nearest(x, x, 3, tile=256),
    ):
        with Largest() as largest:
            work()
        assert 256 * 256 <= largest.numel <= max(256 * 256, x.numel())


@given(n=st.integers(1, 20), k=st.integers(1, 25), tile=st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_nearest_equals_a_full_sort(n, k, tile):
    generator = torch.Generator().manual_seed(n * 31 + k)
    query, candidate = torch.randn(6, 4, generator=generator), torch.randn(n, 4, generator=generator)
    scores, rows = nearest(query, candidate, k, tile=tile)
    expected = (query @ candidate.T).sort(dim=1, descending=True)
    assert torch.equal(rows, expected.indices[:, :k])
    # The rounding of a product follows the lengths of its factors, not its own size.
    assert torch.allclose(scores, expected.values[:, :k], rtol=0, atol=1e-5)
