"""Which partners a batch's labels get."""

import pytest
import torch

from nearfar.errors import UserError
from nearfar.methods.class_pairs.pair_rules import PairRule, pair_weights

LABEL = torch.tensor([0, 0, 0, 2, 2, 5, 7])


def drawn(rule, times=300, label=LABEL, classes=8):
    torch.manual_seed(0)
    return torch.stack([rule(label, classes=classes) for _ in range(times)])


def test_arbitrary_shuffles_the_batch_s_labels():
    partners = drawn(PairRule(), 3000)
    assert torch.equal(partners.sort(1).values, LABEL.sort().values.expand_as(partners))
    # A class comes as often as it is in the batch: 3 of 7 are of class 0, also for an anchor of class 0.
    assert (partners == 0).float().mean(0).tolist() == pytest.approx([3 / 7] * 7, abs=0.03)


def test_identical_takes_the_anchor_s_class():
    assert torch.equal(PairRule("identical")(LABEL, classes=8), LABEL)


def test_distinct_draws_any_other_class_alike():
    partners = drawn(PairRule("distinct"), 2000)
    assert (partners != LABEL).all()
    counts = torch.bincount(partners[:, 0], minlength=8) / 2000
    assert counts.tolist() == pytest.approx([0] + [1 / 7] * 7, abs=0.03)


def test_distinct_of_the_classes_that_are_there():
    partners = drawn(PairRule("distinct", present_only=True))
    assert (partners != LABEL).all()
    assert set(partners.unique().tolist()) == {0, 2, 5, 7}


def test_most_rows_are_empty_where_distinct_partners_are_absent():
    """1,000 classes and a batch of 256: (1 - 1 / 1000)^255 = 77.5 % of rows have no positive."""
    torch.manual_seed(0)
    empty = []
    for _ in range(50):
        label = torch.randint(1000, (256,))
        empty.append(~torch.isin(PairRule("distinct")(label, classes=1000), label))
    assert torch.stack(empty).float().mean().item() == pytest.approx(0.775, abs=0.02)


def test_weighted_by_distance_of_the_classes_that_are_there():
    distance = torch.tensor([[0, 1, 3], [1, 0, 3], [3, 3, 0]])
    label = torch.tensor([0, 0, 1, 2])
    partners = drawn(PairRule("weighted", distance=distance), 3000, label, 3)
    shares = (partners[:, 0:1] == torch.arange(3)).float().mean(0)
    right = torch.tensor([1, 1 / 2, 1 / 4]) / 1.75
    torch.testing.assert_close(shares, right, atol=0.03, rtol=0)
    alike = drawn(PairRule("weighted", distance=distance, power=0.0), 3000, label, 3)
    torch.testing.assert_close(
        (alike[:, 0:1] == torch.arange(3)).float().mean(0), torch.full((3,), 1 / 3), atol=0.03, rtol=0
    )
    only = drawn(PairRule("weighted", distance=distance), 20, torch.tensor([0, 2, 2]), 3)
    assert set(only.unique().tolist()) == {0, 2}


def test_beyond_the_greatest_distance_nothing_is_drawn():
    distance = torch.tensor([[0, 1, 3], [1, 0, 3], [3, 3, 0]])
    label = torch.tensor([0, 1, 2])
    assert torch.equal(PairRule("weighted", distance=distance, max_distance=0)(label, classes=3), label)
    partners = drawn(PairRule("weighted", distance=distance, max_distance=2), 50, label, 3)
    assert (partners[:, 2] == 2).all()
    assert set(partners[:, 0].tolist()) == {0, 1}


def test_chance_is_torch_s_own():
    for rule in (PairRule(), PairRule("distinct"), PairRule("weighted", distance=torch.ones(8, 8))):
        assert torch.equal(drawn(rule, 3), drawn(rule, 3))


def test_an_empty_batch():
    for rule in (PairRule(), PairRule("weighted", distance=torch.ones(8, 8))):
        assert rule(LABEL[:0], classes=8).shape == (0,)


def test_what_does_not_fit_is_named():
    with pytest.raises(UserError, match="rule='any': choose arbitrary"):
        PairRule("any")
    with pytest.raises(UserError, match="present_only is for rule='distinct'"):
        PairRule("arbitrary", present_only=True)
    with pytest.raises(UserError, match="needs distances of the classes"):
        PairRule("weighted")
    with pytest.raises(UserError, match="no other rule takes them"):
        PairRule("distinct", distance=torch.ones(2, 2))
    with pytest.raises(UserError, match="needs a second class, and there is one"):
        PairRule("distinct")(torch.zeros(3, dtype=torch.long), classes=1)
    with pytest.raises(UserError, match="needs a second class, and the batch has one"):
        PairRule("distinct", present_only=True)(torch.zeros(3, dtype=torch.long), classes=4)
    with pytest.raises(UserError, match="of 8 classes, and the data have 9"):
        PairRule("weighted", distance=torch.ones(8, 8))(LABEL, classes=9)
    for distance, power in ((torch.ones(2, 3), 1.0), (-torch.ones(2, 2), 1.0), (torch.ones(2, 2), -1.0)):
        with pytest.raises(UserError, match="at least 0"):
            pair_weights(distance, power)
