"""Ranks of queries with several right answers: by value, strict and expected ties, ceilings."""

import numpy as np
import pytest
import torch

from nearfar.errors import UserError
from nearfar.evaluation import positive_ranks, rank_scores, recall_at_k

RIGHT = torch.tensor([[True, False, False, True], [False, True, False, False]])


def test_the_best_right_candidate_counts():
    scores = torch.tensor([[0.1, 0.9, 0.2, 0.5], [0.3, 0.1, 0.2, 0.0]])
    assert positive_ranks(scores, RIGHT).rank().tolist() == [2, 3]
    assert recall_at_k(scores, RIGHT, (1, 2, 3, 4)) == {1: 0.0, 2: 0.5, 3: 1.0, 4: 1.0}
    back = recall_at_k(scores.T[:, :1].contiguous(), RIGHT.T[:, :1].contiguous(), (1,))
    assert back == {1: 1.0}  # of pictures without a right text none counts


def test_ties_are_strict_or_at_their_expectation():
    scores = torch.tensor([[0.5, 0.5, 0.5, 0.1], [0.0, 0.0, 0.0, 0.0]])
    assert positive_ranks(scores, RIGHT, ties="strict").rank().tolist() == [3, 4]
    assert positive_ranks(scores, RIGHT).rank().tolist() == [2, 2.5]
    assert recall_at_k(scores, RIGHT, (1,)) == {1: 0.0}
    assert recall_at_k(scores, RIGHT, (1,), ties="expected")[1] == pytest.approx((1 / 3 + 1 / 4) / 2)


def test_with_one_right_candidate_it_is_rank_scores():
    scores = torch.randn(20, 30, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    group = torch.arange(30) % 20
    right = torch.arange(20)[:, None] == group
    ours, theirs = positive_ranks(scores, right), rank_scores(scores, torch.arange(20), group)
    for name in ("better", "tied_wrong", "tied_right", "right", "candidates"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name


def test_recall_grows_with_k_and_chance_is_k_of_all():
    scores = torch.randn(4000, 100, generator=torch.Generator().manual_seed(1))
    right = torch.arange(4000)[:, None] % 100 == torch.arange(100)
    recalls = recall_at_k(scores, right, (1, 5, 10, 100))
    values = list(recalls.values())
    assert values == sorted(values)
    assert values[-1] == 1.0
    assert recalls[10] == pytest.approx(0.1, abs=4 * (0.09 / 4000) ** 0.5)


def test_one_label_among_equally_right_ones_has_a_ceiling():
    """Four candidates score best for each query, and one of them bears the label: 1/4 of all labels are first."""
    scores = torch.zeros(400, 20)
    scores[:, :4] = 1 + torch.rand(400, 4, generator=torch.Generator().manual_seed(2))
    label = torch.randint(4, (400,), generator=torch.Generator().manual_seed(3))
    right = label[:, None] == torch.arange(20)
    assert recall_at_k(scores, right, (1, 4))[1] == pytest.approx(0.25, abs=0.09)
    assert recall_at_k(scores, torch.arange(20)[None].expand(400, -1) < 4, (1,)) == {1: 1.0}


@pytest.mark.parametrize(
    ("scores", "right", "options", "said"),
    [
        (torch.zeros(2, 4), RIGHT[:1], {}, "must have one shape"),
        (torch.zeros(2, 4), RIGHT.float(), {}, "be true or false"),
        (torch.full((2, 4), torch.nan), RIGHT, {}, "a score is NaN"),
        (torch.zeros(2, 4), RIGHT, {"ties": "fair"}, "ties='fair'"),
        (torch.zeros(2, 4), RIGHT & False, {}, "no query has a right candidate"),
        (torch.zeros(2, 4), RIGHT, {"ks": [0]}, "each k is 1 or more"),
    ],
    ids=["shape", "dtype", "nan", "ties", "none right", "k"],
)
def test_what_cannot_be_is_named(scores, right, options, said):
    with pytest.raises(UserError, match=said):
        recall_at_k(scores, right, **options)
