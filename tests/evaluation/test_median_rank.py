import numpy as np
import pytest
import torch

from nearfar.evaluation.measures.median_rank import median_rank, median_rank_interval
from nearfar.evaluation.measures.retrieval_ranks import Ranks, rank_scores


def at_places(places, candidates=100):
    """Queries without ties whose right candidate stands at these places."""
    n = len(places)
    ones = np.ones(n, dtype=np.int64)
    return Ranks(np.asarray(places) - 1, 0 * ones, ones, ones, candidates * ones)


@pytest.mark.parametrize("places", [[1], [3, 1], [1, 2, 2, 9], [5, 1, 7], [1, 1, 1, 50, 60, 70]])
def test_without_ties_it_is_the_median_of_the_ranks(places):
    assert median_rank(at_places(places)) == np.median(places)


def test_with_ties_it_is_the_median_over_all_orders_of_the_tied():
    """A right candidate or several, before, among and behind candidates that score the same."""
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.integers(0, 3, size=(60, 30)))
    group, query = torch.tensor([0, 0, 1, 2, 2, 2] * 5), torch.arange(60) % 3
    ranks = rank_scores(scores.float(), query, group)
    drawn = []
    for row, own in zip(scores.numpy(), query.numpy(), strict=True):
        for _ in range(400):
            order = np.lexsort((rng.random(30), -row))
            drawn.append(1 + np.flatnonzero(group.numpy()[order] == own)[0])
    assert median_rank(ranks) == np.median(drawn)
    assert median_rank(ranks.chance()) == 2  # of groups of 5, 10 and 15 among 30
    assert np.median(ranks.rank()) != median_rank(ranks)  # the expected rank of each is another thing


def test_a_collapsed_model_has_the_median_rank_of_chance():
    """Of 250 candidates five are right: half of all random orders have one among the first 33 (not 42, the mean)."""
    ranks = rank_scores(torch.zeros(7, 250), torch.arange(7), torch.arange(250) // 5)
    assert median_rank(ranks) == median_rank(ranks.chance()) == 33


def test_the_interval_is_that_of_plain_resampling():
    places = np.random.default_rng(5).integers(1, 100, size=51)
    rng = np.random.default_rng(6)
    slow = [np.median(places[rng.integers(51, size=51)]) for _ in range(4000)]
    low, high = median_rank_interval(at_places(places), resamples=4000)
    assert low == pytest.approx(np.percentile(slow, 2.5), abs=3)
    assert high == pytest.approx(np.percentile(slow, 97.5), abs=3)
    assert (low, high) == median_rank_interval(at_places(places), resamples=4000)


def test_clusters_are_drawn_whole():
    places = np.random.default_rng(3).integers(1, 100, size=30)
    alone = median_rank_interval(at_places(places))
    assert alone == median_rank_interval(at_places(places.repeat(10)), cluster=np.arange(30).repeat(10))
    assert alone[1] - alone[0] > np.subtract(*median_rank_interval(at_places(places.repeat(10)))[::-1])


def test_no_queries_give_nan():
    assert np.isnan(median_rank(at_places([])))
    assert np.isnan(median_rank_interval(at_places([]))).all()
