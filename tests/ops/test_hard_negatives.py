"""Hard negatives are drawn as from the whole softmax over keys of other groups, without the matrix."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from nearfar.errors import UserError
from nearfar.ops import hard_negatives, sample_hard_negatives


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def unit(n, dim=6, seed=0, dtype=torch.float32):
    return normalize(torch.randn(n, dim, generator=generator(seed), dtype=torch.float64), dim=1).to(dtype)


@settings(deadline=None, max_examples=40)
@given(
    groups=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    scale=st.sampled_from([0.0, 1.0, 100.0, 1e6, -50.0]),
    block=st.sampled_from([1, 2, 1024]),
    seed=st.integers(0, 100),
)
def test_never_of_the_same_group(groups, scale, block, seed):
    group = torch.tensor(groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hard_negatives, "BLOCK", block)
        q = unit(len(group), seed=seed)
        drawn = sample_hard_negatives(
            q, q.roll(1, 0), scale, q_group=group, k_group=group, generator=generator(seed), tile=2
        )
    for row, key in enumerate(drawn.tolist()):
        assert (key == -1) == bool((group == group[row]).all())
        assert key == -1 or group[key] != group[row]


@pytest.mark.parametrize("block", [1, 3, 1024])
@pytest.mark.parametrize("scale", [0.0, 2.0, 14.3])
def test_the_draws_are_those_of_the_softmax(block, scale, monkeypatch):
    """60,000 draws of each of two queries among 11 keys, two of them of its own group."""
    monkeypatch.setattr(hard_negatives, "BLOCK", block)
    n, q, k = 60_000, unit(2, seed=1), unit(11, seed=2)
    k_group = torch.tensor([0, 1, 2, 3, 0, 1, 4, 5, 6, 7, 8])
    q_group = torch.arange(2).repeat_interleave(n)
    drawn = sample_hard_negatives(
        q.repeat_interleave(n, 0), k, scale, q_group=q_group, k_group=k_group, generator=generator(3)
    )
    logits = (q @ k.T * scale).double().masked_fill(torch.arange(2)[:, None] == k_group, -torch.inf)
    for mine, expected in zip(drawn.view(2, n), logits.softmax(1), strict=True):
        counts, possible = mine.bincount(minlength=11), expected > 0
        assert counts[~possible].sum() == 0
        likely = possible & (expected * n > 5)  # rarer ones do not make a chi-square
        rest = [counts[~likely].sum().item()], [expected[~likely].sum().item() * n]
        counted = counts[likely].tolist() + (rest[0] if rest[1][0] > 5 else [])
        awaited = (expected[likely] * n).tolist() + (rest[1] if rest[1][0] > 5 else [])
        awaited = [value * sum(counted) / sum(awaited) for value in awaited]
        assert chisquare(counted, awaited).pvalue > 1e-3


def test_shares_of_albefs_example():
    """Similarities (.8, .2, .5) at temperature .07, the first the positive: the third has share 0.98642."""
    share = math.exp(0.5 / 0.07) / (math.exp(0.5 / 0.07) + math.exp(0.2 / 0.07))
    assert share == pytest.approx(0.98642, abs=1e-5)
    n = 20_000
    q, k = torch.tensor([[0.8, 0.2, 0.5]]).repeat(n, 1), torch.eye(3)
    nobody = torch.zeros(n, dtype=torch.long)
    drawn = sample_hard_negatives(
        q, k, 1 / 0.07, q_group=nobody, k_group=torch.tensor([0, 1, 2]), generator=generator()
    )
    assert set(drawn.unique().tolist()) == {1, 2}
    assert (drawn == 2).float().mean().item() == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / n))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_underflow_against_the_positive_still_rank(dtype):
    q = torch.tensor([[1.0, 0.25, 0.5], [0.25, 1.0, 0.125], [0.5, 0.125, 1.0]], dtype=dtype)
    drawn = sample_hard_negatives(q, torch.eye(3, dtype=dtype), 1e4)
    assert drawn.tolist() == [2, 0, 0]


def test_sharp_scales_keep_the_odds_of_near_ties(monkeypatch):
    """At scale 10,000 two keys 0.0001 apart have odds of e, wherever the blocks are cut; the own key weighs e^5000."""
    monkeypatch.setattr(hard_negatives, "BLOCK", 2)
    n = 20_000
    q = torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(n, 1)
    k = torch.tensor([[1.0, 0.0], [0.4999, 0.0], [0.1, 0.0], [0.5, 0.0]], dtype=torch.float64)
    drawn = sample_hard_negatives(
        q, k, 1e4, q_group=torch.zeros(n, dtype=torch.long), k_group=torch.arange(4), generator=generator()
    )
    assert set(drawn.unique().tolist()) == {1, 3}
    share = math.e / (1 + math.e)
    assert (drawn == 3).float().mean().item() == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / n))


def test_a_batch_of_one_and_of_duplicates_has_none():
    assert sample_hard_negatives(unit(1), unit(1), 1.0).tolist() == [-1]
    same = torch.zeros(3, dtype=torch.long)
    assert sample_hard_negatives(unit(3), unit(3), 1.0, q_group=same, k_group=same).tolist() == [-1] * 3


def test_keys_beyond_the_queries_are_negatives_of_all():
    drawn = sample_hard_negatives(unit(500)[:1].expand(1, -1), unit(3), 0.0, generator=generator())
    assert drawn.item() in (1, 2)
    assert set(sample_hard_negatives(unit(2), unit(9), 0.0, generator=generator(4)).tolist()) <= set(range(9))


@pytest.mark.parametrize("grouped", [True, False])
def test_the_draws_do_not_depend_on_the_tile(grouped):
    q, k = unit(300, dtype=torch.float64), unit(2500, seed=1, dtype=torch.float64)
    groups = {"q_group": torch.arange(300) % 7, "k_group": torch.arange(2500) % 7} if grouped else {}
    draws = [
        sample_hard_negatives(q, k, 20.0, **groups, generator=generator(), tile=tile) for tile in (None, 1, 64, 299)
    ]
    assert all(torch.equal(draws[0], other) for other in draws[1:])


def test_a_generator_repeats_the_draws_and_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    first, second, other = (sample_hard_negatives(unit(64), unit(64), 1.0, generator=generator(s)) for s in (5, 5, 6))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_scale_a_row_and_half_precision():
    q, k = unit(40), unit(40, seed=1)
    each = torch.linspace(0, 50, 40)
    drawn = sample_hard_negatives(q, k, each, generator=generator())
    alone = torch.stack([sample_hard_negatives(q, k, float(s), generator=generator())[i] for i, s in enumerate(each)])
    assert torch.equal(drawn, alone)
    for dtype in (torch.float16, torch.bfloat16):
        half = sample_hard_negatives(q.to(dtype), k.to(dtype), 20.0, generator=generator())
        whole = sample_hard_negatives(q.to(dtype).float(), k.to(dtype).float(), 20.0, generator=generator())
        with torch.autocast("cpu", torch.bfloat16):
            under = sample_hard_negatives(q.to(dtype).float(), k.to(dtype).float(), 20.0, generator=generator())
        assert torch.equal(half, whole)
        assert torch.equal(under, whole)


def test_no_matrix_of_all_pairs():
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else (out,):
                largest = max(largest, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
            return out

    q, group = unit(6000), torch.arange(6000) // 2
    with Watch():
        sample_hard_negatives(q, q, 14.3, q_group=group, k_group=group)
    assert largest <= 512 * 1024


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: sample_hard_negatives(z * torch.nan, z, 1.0), "NaN or infinity"),
        (lambda z: sample_hard_negatives(z, z / 0, 1.0), "NaN or infinity"),
        (lambda z: sample_hard_negatives(z, z, torch.tensor(torch.nan)), "NaN or infinity"),
        (lambda z: sample_hard_negatives(z, z, math.inf), "NaN or infinity"),
        (lambda z: sample_hard_negatives(z, z[:2], 1.0), "at least the 3 rows"),
        (lambda z: sample_hard_negatives(z, z, 1.0, q_group=torch.arange(3)), "both q_group"),
        (lambda z: sample_hard_negatives(z, z, 1.0, q_group=torch.arange(3), k_group=torch.arange(2)), "k_group must"),
        (lambda z: sample_hard_negatives(z, z[:, :2], 1.0), "same width"),
        (lambda z: sample_hard_negatives(z, z, 1.0, tile=-1), "tile must be"),
    ],
)
def test_mistakes_are_explained(call, message):
    with pytest.raises(UserError, match=message):
        call(unit(3))
