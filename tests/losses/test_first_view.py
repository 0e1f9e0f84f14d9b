"""One direction, any number of views, any number of hard negatives a row: by hand, and as the released code has it."""

import math

import pytest
import torch

from nearfar.errors import UserError
from nearfar.losses import FirstViewInfoNCE, InfoNCE
from nearfar.losses.functional import first_view_info_nce


def vectors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def as_released(z1, z2, z3=None, *, weight=0.0, tau=0.05):
    """The loss of princeton-nlp/SimCSE (49fa580a8537) step by step: one hard negative a row, a weighted diagonal."""
    cosine = lambda x, y: torch.cosine_similarity(x[:, None], y[None], dim=-1) / tau  # noqa: E731
    logits = cosine(z1, z2)
    if z3 is not None:
        hard = cosine(z1, z3)
        logits = torch.cat([logits, hard + weight * torch.eye(len(z1), dtype=z1.dtype)], 1)
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(z1)))


def test_by_hand():
    eye = torch.eye(4, dtype=torch.float64)
    assert first_view_info_nce([eye, eye]).item() == pytest.approx(6.1835e-9, rel=1e-4)  # log(1 + 3 e^-20)
    same = torch.ones(3, 128, 8)
    assert first_view_info_nce(same[:2]).item() == pytest.approx(math.log(128), rel=1e-6)
    assert first_view_info_nce(same).item() == pytest.approx(9.7041, abs=1e-4)
    assert first_view_info_nce(same, reduction="mean").item() == pytest.approx(math.log(128), rel=1e-6)


def test_one_direction_only():
    z1, z2 = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    assert first_view_info_nce([z1, z2], temperature=1.0).item() == pytest.approx(0.442058, abs=1e-6)
    assert first_view_info_nce([z2, z1], temperature=1.0).item() == pytest.approx(0.455700, abs=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.7, -2.0, -math.inf])
def test_it_is_the_released_loss(weight):
    z1, z2, z3 = vectors(3, 6, 8)
    own = torch.arange(6)
    actual = first_view_info_nce([z1, z2], negatives=z3, negative_of=own, negative_weight=weight)
    if weight == -math.inf:  # the released code multiplies, and 0 times infinity is NaN
        expected = as_released(z1, z2, z3, weight=-1e9)
    else:
        expected = as_released(z1, z2, z3, weight=weight)
    torch.testing.assert_close(actual, expected)


def test_rows_may_have_any_number_of_hard_negatives():
    """Three, none, one, none: in a dense softmax with the weight on each row's own."""
    z1, z2 = vectors(2, 4, 8)
    hard, owner, w, tau = vectors(4, 8, seed=1), torch.tensor([0, 0, 2, 0]), 0.9, 0.2
    unit = lambda x: x / x.norm(dim=1, keepdim=True)  # noqa: E731
    logits = unit(z1) @ unit(torch.cat([z2, hard])).T / tau
    own = torch.arange(4)[:, None] == owner
    for shared in (True, False):
        marked = logits.clone()
        marked[:, 4:] += torch.where(own, w, 0.0 if shared else -math.inf)
        expected = torch.nn.functional.cross_entropy(marked, torch.arange(4))
        actual = first_view_info_nce(
            [z1, z2],
            temperature=tau,
            negatives=hard,
            negative_of=owner,
            negative_weight=w,
            negatives_for="all" if shared else "own",
        )
        torch.testing.assert_close(actual, expected)


def test_left_out_they_are_as_if_not_there():
    """Minus infinity takes the own ones out; where others' do not count either, nothing of them is left."""
    z1, z2, z3 = vectors(3, 5, 8)
    z = z1.clone().requires_grad_()
    options = {"negatives": z3, "negative_of": torch.arange(5), "negative_weight": -math.inf, "negatives_for": "own"}
    loss = first_view_info_nce([z, z2], **options)
    torch.testing.assert_close(loss.detach(), as_released(z1, z2))
    loss.backward()
    assert z.grad.isfinite().all()


def test_of_two_views_it_is_info_nce():
    z1, z2 = vectors(2, 6, 8).float()
    both = [FirstViewInfoNCE(0.05, learnable=False), InfoNCE(0.05, learnable=False, symmetric=False)]
    assert torch.equal(both[0]([z1, z2]), both[1](z1, z2))
    hard = z2.roll(1, 1)[:3]
    assert torch.equal(both[0]([z1, z2], negatives=hard), both[1](z1, z2, negatives_b=hard))


def test_the_weight_counts_a_negative_more_than_once():
    """ln 2 is a copy of it, in its own row."""
    z1, z2, z3 = vectors(3, 1, 8)
    doubled = first_view_info_nce([z1, z2], temperature=1.0, negatives=torch.cat([z3, z3]))
    own = {"negatives": z3, "negative_of": torch.zeros(1).long(), "negative_weight": math.log(2)}
    weighted = first_view_info_nce([z1, z2], temperature=1.0, **own)
    assert weighted > 0.1, "what a negative counts is above what is rounded"
    torch.testing.assert_close(weighted, doubled)


def test_an_empty_set_of_negatives_is_none():
    z1, z2 = vectors(2, 4, 8)
    empty = {"negatives": z1[:0], "negative_of": torch.zeros(0).long(), "negative_weight": 1.0}
    assert torch.equal(first_view_info_nce([z1, z2], **empty), first_view_info_nce([z1, z2]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reduction": "max"}, "reduction must be one of sum, mean"),
        ({"negatives_for": "none"}, "negatives_for must be one of all, own"),
        ({"negative_weight": math.nan}, "negative_weight is a number"),
        ({"negatives": torch.ones(2, 3)}, r"negatives must be as wide as the views: \[K, 8\]"),
        ({"negatives": torch.ones(2, 8), "negative_weight": 1.0}, "need negative_of"),
        ({"negatives": torch.ones(2, 8), "negative_of": torch.tensor([0, 4])}, "rows from 0 to 3"),
    ],
)
def test_what_does_not_fit_is_named(options, words):
    with pytest.raises(UserError, match=words):
        first_view_info_nce(torch.ones(2, 4, 8), **options)
