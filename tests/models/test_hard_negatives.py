from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.errors import UserError
from nearfar.models import sample_hard_negatives


@settings(deadline=None, max_examples=40)
@given(
    ids=st.lists(st.integers(0, 3), min_size=1, max_size=7),
    scale=st.sampled_from([0.0, 1.0, 100.0, 1e6]),
    seed=st.integers(0, 1000),
)
def test_never_of_the_same_id(ids, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.tensor(ids)
    similarity = torch.randn(len(ids), len(ids), generator=generator) * scale
    index = sample_hard_negatives(similarity, ids, generator)
    for row, column in enumerate(index.tolist()):
        if bool((ids != ids[row]).any()):
            assert ids[column] != ids[row]
            assert column >= 0
        else:
            assert column == -1


def test_share_of_the_example():
    """Row 0 of similarities (.8, .2, .5) at temperature .07: without the diagonal, column 2 has share 0.98642."""
    share = math.exp(0.5 / 0.07) / (math.exp(0.5 / 0.07) + math.exp(0.2 / 0.07))
    assert share == pytest.approx(0.98642, abs=1e-5)
    n = 20_000
    similarity = torch.tensor([0.8, 0.2, 0.5]).repeat(n, 1) / 0.07
    drawn = sample_hard_negatives(similarity, torch.zeros(n, dtype=torch.long), key_ids=torch.tensor([0, 1, 2]))
    assert set(drawn.unique().tolist()) == {1, 2}
    spread = math.sqrt(share * (1 - share) / n)
    assert (drawn == 2).float().mean().item() == pytest.approx(share, abs=5 * spread)


def test_weights_that_underflow_against_the_positive_still_rank():
    similarity = torch.tensor([[1.0, 0.2, 0.5], [0.2, 1.0, 0.1], [0.5, 0.1, 1.0]]) / 1e-4
    assert torch.equal(sample_hard_negatives(similarity), torch.tensor([2, 0, 0]))
    assert torch.equal(sample_hard_negatives(similarity.half()), torch.tensor([2, 0, 0]))


def test_minus_infinity_alone_falls_back_to_uniform():
    similarity = torch.full((2000, 3), -torch.inf)
    drawn = sample_hard_negatives(similarity, torch.zeros(2000, dtype=torch.long), key_ids=torch.tensor([0, 1, 1]))
    assert (drawn == 1).float().mean().item() == pytest.approx(0.5, abs=0.06)
    assert (drawn > 0).all()


def test_batch_of_one_and_of_duplicates_have_none():
    assert torch.equal(sample_hard_negatives(torch.ones(1, 1)), torch.tensor([-1]))
    assert torch.equal(sample_hard_negatives(torch.ones(3, 3), torch.zeros(3, dtype=torch.long)), torch.full((3,), -1))


def test_the_generator_repeats_the_draw():
    similarity = torch.zeros(64, 64)
    draws = [sample_hard_negatives(similarity, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*draws)


def test_mistakes_are_explained():
    with pytest.raises(UserError, match="need 2 ids and 3 key_ids"):
        sample_hard_negatives(torch.zeros(2, 3))
    with pytest.raises(UserError, match="NaN"):
        sample_hard_negatives(torch.full((2, 2), torch.nan))
