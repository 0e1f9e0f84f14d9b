"""Max-margin ranking: numbers by hand, a slow formula in float64, what is masked, strips, and its bounds."""

import pytest
import torch

from nearfar import losses, ops
from nearfar.errors import UserError
from nearfar.losses import functional as F
from oracles import text_contrast as oracle


def logits(*values):
    return torch.ones(1, 1, dtype=torch.float64), torch.tensor(values, dtype=torch.float64)[:, None]


def vectors(n=7, m=11, d=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, d, generator=g, dtype=torch.float64, requires_grad=True) for rows in (n, m)]


def near(n, m, seed=1):
    """A mask in which row 0 has no positive, row 1 all, and the others some."""
    mask = torch.rand(n, m, generator=torch.Generator().manual_seed(seed)) < 0.3
    mask[0], mask[1] = False, True
    return mask


def agree(actual, expected, inputs):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)
    pairs = zip(torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, inputs), strict=True)
    for mine, slow in pairs:
        torch.testing.assert_close(mine, slow, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(("positive", "negative", "loss"), [(2.0, 0.5, 0.0), (0.2, 0.5, 1.3)])
def test_a_margin_of_one_by_hand(positive, negative, loss):
    q, k = logits(positive, negative)
    for against in ("hardest", "mean"):
        actual = F.margin_ranking(q, k, margin=1.0, similarity="dot", against=against)
        assert actual.item() == pytest.approx(loss, abs=1e-12)


def test_conpono_s_weighted_distances_cost_the_sum_of_their_weights_where_nothing_is_known():
    weights = torch.tensor([0.1, 0.25, 0.5, 1, 1, 0.5, 0.25, 0.1], dtype=torch.float64)
    q, k = logits(*[0.3] * 6)  # one query of each distance, six candidates, equal logits
    hinge = F.margin_ranking(q, k, margin=1.0, similarity="dot")
    assert (weights * hinge).sum().item() == pytest.approx(3.7, abs=1e-9)
    ranked = ops.info_nce(q, k, 1.0, symmetric=False)
    assert (weights * ranked).sum().item() == pytest.approx(3.7 * torch.tensor(6.0).log().item(), rel=1e-6)


@pytest.mark.parametrize("against", ["hardest", "mean"])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("margin", [0.2, 1.5])
@pytest.mark.parametrize("grouped", [False, True])
def test_named_positives_against_the_slow_formula(against, similarity, margin, grouped):
    q, k = vectors()
    mask, groups, left_out = near(7, 11), {}, None
    if grouped:
        groups = {"q_group": torch.arange(7) // 2, "k_group": torch.arange(11) // 3}
        left_out = groups["q_group"][:, None] == groups["k_group"]
    choices = {"against": against, "similarity": similarity}
    actual = F.margin_ranking(q, k, margin=margin, positive=mask, **groups, **choices)
    agree(actual, oracle.margin_ranking(q, k, mask, margin, left_out=left_out, **choices), [q, k])


@pytest.mark.parametrize("against", ["hardest", "mean"])
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_groups_alone_are_the_positives_in_strips_of_any_height(against, rows):
    q, k = vectors()
    groups = {"q_group": torch.arange(7) // 2, "k_group": torch.arange(11) // 3}
    mask = groups["q_group"][:, None] == groups["k_group"]
    actual = ops.margin_ranking(q, k, 0.7, **groups, against=against, tile=rows)
    agree(actual, oracle.margin_ranking(q, k, mask, 0.7, against=against, similarity="dot"), [q, k])


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_named_positives_in_strips_of_any_height(rows):
    q, k = vectors()
    mask = near(7, 11)
    actual = ops.margin_ranking(q, k, 0.7, positive=mask.nonzero().flip(0), tile=rows)
    agree(actual, oracle.margin_ranking(q, k, mask, 0.7, similarity="dot"), [q, k])


def test_key_i_is_the_positive_of_query_i_and_further_keys_are_negatives():
    q, k = vectors(4, 9)
    mask = torch.arange(4)[:, None] == torch.arange(9)
    agree(F.margin_ranking(q, k), oracle.margin_ranking(q, k, mask, 0.2), [q, k])


@pytest.mark.parametrize("against", ["hardest", "mean"])
def test_equal_similarities_are_counted_as_often_as_they_stand(against):
    """Logits in steps of a half: every positive meets its margin of 0.5 exactly somewhere, where the loss bends."""
    g = torch.Generator().manual_seed(3)
    q = torch.ones(3, 1, dtype=torch.float64)
    k = (torch.randint(0, 4, (12, 1), generator=g) / 2).double()
    mask = near(3, 12, seed=4)
    settings = {"against": against, "similarity": "dot"}
    actual = F.margin_ranking(q, k, margin=0.5, positive=mask, **settings)
    torch.testing.assert_close(actual, oracle.margin_ranking(q, k, mask, 0.5, **settings))


def test_a_duplicate_that_is_masked_is_a_key_that_is_not_there():
    q, k = vectors(3, 3)
    doubled = torch.cat([k, k[:1] + 1e-3])
    own = torch.arange(3)[:, None].expand(3, 2)
    groups = {"q_group": torch.zeros(3, dtype=torch.int64), "k_group": torch.tensor([1, 1, 1, 0])}
    actual = F.margin_ranking(q, doubled, margin=1.0, positive=own, **groups)
    torch.testing.assert_close(actual, F.margin_ranking(q, k, margin=1.0), rtol=1e-12, atol=0)


def test_the_order_of_the_keys_changes_nothing():
    q, k = vectors()
    mask, order = near(7, 11), torch.randperm(11, generator=torch.Generator().manual_seed(2))
    for against in ("hardest", "mean"):
        shuffled = F.margin_ranking(q, k[order], positive=mask[:, order], against=against)
        torch.testing.assert_close(shuffled, F.margin_ranking(q, k, positive=mask, against=against))


def test_queries_without_a_positive_or_a_negative_count_for_nothing():
    q, k = vectors(2, 3)
    nothing = torch.empty(0, 2, dtype=torch.int64)
    everything = torch.ones(2, 3, dtype=torch.bool)
    for positive in (nothing, everything):
        for against in ("hardest", "mean"):
            loss = F.margin_ranking(q, k, positive=positive, against=against)
            assert loss.item() == 0
            assert all(not g.any() for g in torch.autograd.grad(loss, [q, k]))


def test_a_kept_margin_has_no_gradient():
    q, k = (torch.eye(4, dtype=torch.float64).requires_grad_() for _ in range(2))
    loss = F.margin_ranking(q, k, margin=0.9)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, q)[0].any()


def test_it_is_where_a_cold_info_nce_tends_to():
    q, k = vectors(6, 6)
    cold = F.info_nce(q, k, temperature=1e-4, symmetric=False) * 1e-4
    torch.testing.assert_close(F.margin_ranking(q, k, margin=0.0), cold, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("against", ["hardest", "mean"])
def test_second_derivatives_are_those_of_the_formula(against):
    q, k = vectors(5, 4)
    mask = near(5, 4, seed=3)
    slow = torch.autograd.functional.hessian(lambda x: oracle.margin_ranking(x, k, mask, 0.7, against=against), q)
    fast = torch.autograd.functional.hessian(
        lambda x: F.margin_ranking(x, k, margin=0.7, positive=mask, against=against), q
    )
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-9)


def test_settings_reach_the_loss():
    q, k = vectors()
    for settings in ({"against": "mean"}, {"similarity": "dot"}, {"margin": 0.9}):
        loss = losses.MarginRanking(**settings)(q, k)
        assert loss == F.margin_ranking(q, k, **settings) != F.margin_ranking(q, k)


WRONG = {
    "against": ({"against": "some"}, "against"),
    "similarity": ({"similarity": "l2"}, "similarity"),
    "margin": ({"margin": float("nan")}, "margin must be a number"),
    "a pair that is not there": ({"positive": torch.tensor([[0, 11]])}, "keys from 0 to 10"),
    "groups of another length": (
        {"q_group": torch.zeros(7).long(), "k_group": torch.zeros(7).long()},
        r"k_group must hold one integer a row, \[11\]",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named(case):
    settings, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        F.margin_ranking(*vectors(), **settings)
