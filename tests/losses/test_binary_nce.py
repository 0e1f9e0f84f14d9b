"""Binary NCE: numbers worked out by hand, a slow formula in float64, what is masked, and what ranking has not."""

import math

import pytest
import torch
from torch.nn.functional import softplus

from nearfar import losses, ops
from nearfar.errors import UserError
from nearfar.losses import functional as F
from oracles import text_contrast as oracle

PLAIN = {"temperature": 1.0, "similarity": "dot"}


def logits(*values):
    """One query and keys whose products with it are these logits."""
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


@pytest.mark.parametrize("positives", [1, 2, 5])
@pytest.mark.parametrize("negatives", [1, 4])
def test_logits_of_zero_cost_log_two_each(positives, negatives):
    q, k = logits(*[0.0] * (positives + negatives))
    mask = torch.arange(positives + negatives)[None] < positives
    assert F.binary_nce(q, k, positive=mask, **PLAIN).item() == pytest.approx(math.log(2), abs=1e-12)
    total = F.binary_nce(q, k, positive=mask, reduction="sum", **PLAIN).item()
    assert total == pytest.approx((positives + negatives) * math.log(2), abs=1e-12)


def test_five_logits_by_hand_and_with_five_added_to_each():
    q, k = logits(2.0, 1.0, 0.0, -1.0, 0.5)
    mask = torch.tensor([[True, True, False, False, False]])
    assert F.binary_nce(q, k, positive=mask, **PLAIN).item() == pytest.approx(0.484135, abs=1e-6)
    assert F.binary_nce(q, k, positive=mask, bias=5.0, **PLAIN).item() == pytest.approx(2.906466, abs=1e-6)


def test_ranking_does_not_change_where_five_is_added_to_every_logit():
    q, k = logits(2.0, 0.0, -1.0, 0.5)
    higher = [torch.cat([x, torch.full((len(x), 1), five)], 1) for x, five in ((q, 5.0), (k, 1.0))]
    ranked = [ops.info_nce(*pair, 1.0, symmetric=False).item() for pair in ((q, k), higher)]
    assert ranked[1] == pytest.approx(ranked[0], abs=1e-12)
    binary = [F.binary_nce(*pair, **PLAIN).item() for pair in ((q, k), higher)]
    assert binary[1] > binary[0] + 3


def test_true_nce_takes_off_the_log_of_how_often_a_key_is_drawn():
    """Two negatives a positive, each drawn with a probability of 1/4: the logit 0 becomes log 2."""
    q, k = logits(0.0, 0.0, 0.0)
    log_q = torch.full((3,), math.log(0.25), dtype=torch.float64)
    terms = [softplus(torch.tensor(each)).item() for each in (-math.log(2), math.log(2))]
    assert terms[0] == pytest.approx(0.405465, abs=1e-6)
    actual = F.binary_nce(q, k, log_q=log_q, reduction="sum", **PLAIN).item()
    assert actual == pytest.approx(terms[0] + 2 * terms[1], abs=1e-6)


@pytest.mark.parametrize("temperature", ["number", "scalar", "a row"])
def test_the_correction_is_an_offset_of_each_key_whatever_the_temperature(temperature):
    q, k = vectors()
    mask = near(7, 11)
    tau = {"number": 0.3, "scalar": torch.tensor(0.3).double(), "a row": torch.linspace(0.2, 0.5, 7).double()}[
        temperature
    ]
    log_q = torch.linspace(-3, -1, 11, dtype=torch.float64)
    actual = F.binary_nce(q, k, temperature=tau, positive=mask, log_q=log_q)
    drawn = math.log((~mask).sum().item() / mask.sum().item())
    expected = oracle.binary_nce(q, k, mask, tau, offset=-(log_q + drawn))
    agree(actual, expected, [q, k])


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("grouped", [False, True])
def test_named_positives_against_the_slow_formula(similarity, reduction, grouped):
    q, k = vectors()
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
    mask, groups, same = near(7, 11), {}, None
    if grouped:
        groups = {"q_group": torch.arange(7) // 2, "k_group": torch.arange(11) // 3}
        same = groups["q_group"][:, None] == groups["k_group"]
    choices = {"similarity": similarity, "reduction": reduction}
    actual = F.binary_nce(q, k, temperature=tau, bias=bias, positive=mask.nonzero(), **groups, **choices)
    left_out = None if same is None else same & ~mask
    expected = oracle.binary_nce(q, k, mask, tau, bias=bias, left_out=left_out, **choices)
    agree(actual, expected, [q, k, tau, bias])


def test_groups_alone_are_the_positives():
    q, k = vectors()
    groups = {"q_group": torch.arange(7) // 2, "k_group": torch.arange(11) // 3}
    mask = groups["q_group"][:, None] == groups["k_group"]
    torch.testing.assert_close(F.binary_nce(q, k, **groups), F.binary_nce(q, k, positive=mask), rtol=1e-9, atol=0)


def test_one_positive_each_and_the_sum_is_the_sigmoid_loss_bit_for_bit():
    a, b = vectors(9, 9)
    settings = {"temperature": 0.1, "bias": -10.0}
    assert F.binary_nce(a, b, reduction="sum", **settings).item() == F.sigmoid_loss(a, b, **settings).item()
    group = torch.arange(9) // 2
    actual = F.binary_nce(a, b, reduction="sum", q_group=group, k_group=group, **settings)
    assert actual.item() == F.sigmoid_loss(a, b, group=group, **settings).item()


def test_a_duplicate_that_is_masked_is_a_key_that_is_not_there():
    q, k = vectors(3, 3)
    own = torch.eye(3, dtype=torch.bool)
    doubled = torch.cat([k, k[:1]])  # the fourth key is the first one's duplicate: wrong for query 0 it must not be
    groups = {"q_group": torch.arange(3), "k_group": torch.tensor([0, 1, 2, 0])}
    actual = F.binary_nce(q, doubled, positive=own.nonzero(), **groups, reduction="sum")
    alone = F.binary_nce(q, k, reduction="sum")
    others = F.binary_nce(q[1:], k[:1], positive=torch.empty(0, 2, dtype=torch.int64), reduction="sum")
    torch.testing.assert_close(actual * 3, alone * 3 + others * 2)


def test_the_order_of_the_keys_changes_nothing():
    q, k = vectors()
    mask, order = near(7, 11), torch.randperm(11, generator=torch.Generator().manual_seed(2))
    log_q = torch.linspace(-3, -1, 11, dtype=torch.float64)
    settings = {"temperature": 0.3, "bias": 0.2}
    actual = F.binary_nce(q, k[order], positive=mask[:, order], log_q=log_q[order], **settings)
    torch.testing.assert_close(actual, F.binary_nce(q, k, positive=mask, log_q=log_q, **settings))


def test_the_order_of_the_pairs_changes_nothing():
    q, k = vectors()
    pairs = near(7, 11).nonzero()
    torch.testing.assert_close(F.binary_nce(q, k, positive=pairs.flip(0)), F.binary_nce(q, k, positive=pairs))


def test_its_zero_is_a_threshold():
    """Trained on logits of its own, the sign of the logit says near or far; of a ranking loss only the order counts."""
    g = torch.Generator().manual_seed(0)
    mask = torch.rand(6, 8, generator=g) < 0.25
    q, k = (torch.randn(rows, 8, generator=g).requires_grad_() for rows in (6, 8))
    loss = losses.BinaryNCE(1.0, similarity="dot")
    optimizer = torch.optim.Adam([q, k, *loss.parameters()], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        loss(q, k, positive=mask).backward()
        optimizer.step()
    assert torch.equal(q @ k.T / loss.temperature() + loss.bias > 0, mask)


def test_second_derivatives_are_those_of_the_formula():
    q, k = vectors(3, 4)
    mask = near(3, 4)
    expected = torch.autograd.functional.hessian(lambda x: oracle.binary_nce(x, k, mask, 0.5), q)
    actual = torch.autograd.functional.hessian(lambda x: F.binary_nce(x, k, positive=mask, temperature=0.5), q)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-9)


WRONG = {
    "similarity": ({"similarity": "bilinear"}, "similarity"),
    "reduction": ({"reduction": "max"}, "reduction"),
    "a mask of another shape": (
        {"positive": torch.ones(7, 10, dtype=torch.bool)},
        r"positive as a mask must be \[7, 11\]",
    ),
    "a mask of numbers": ({"positive": torch.ones(7, 11)}, r"integers \[P, 2\]"),
    "a query that is not there": ({"positive": torch.tensor([[7, 0]])}, "queries from 0 to 6 and keys from 0 to 10"),
    "a pair twice": ({"positive": torch.tensor([[1, 2], [0, 0], [1, 2]])}, "twice"),
    "one group of two": ({"q_group": torch.zeros(7, dtype=torch.int64)}, "both q_group"),
    "log_q of another length": ({"log_q": torch.zeros(7)}, r"log_q .*\[11\]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named(case):
    settings, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        F.binary_nce(*vectors(), **settings)


def test_fewer_keys_than_queries_need_named_positives():
    q, k = vectors(5, 2)
    with pytest.raises(UserError, match="k needs at least the 5 rows"):
        F.binary_nce(q, k)
    assert F.binary_nce(q, k, positive=torch.tensor([[4, 1]])).isfinite()


def test_bias_is_one_number_and_trained():
    with pytest.raises(UserError, match="bias must be one number"):
        losses.BinaryNCE(bias=torch.zeros(2))
    loss = losses.BinaryNCE(0.2, -1.0)
    loss(*vectors()).backward()
    assert loss.bias.grad.abs() > 1e-3
    assert loss.temperature.value.grad.abs() > 1e-3
    assert not any(p.requires_grad for p in losses.BinaryNCE(learnable=False).parameters())
