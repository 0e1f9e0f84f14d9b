"""Contrast within groups (MCL): the same loss as in batches of one group each, and why it teaches what is new."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as torch_f

from nearfar.errors import UserError
from nearfar.losses import InfoNCE, NTXent, SupCon
from nearfar.losses import functional as F
from nearfar.losses.within_groups import groups_of, within_groups

GROUP = torch.tensor([0, 0, 0, 1, 1, 2])


def rows(n=6, d=5, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)]


def dense_info_nce(a, b, group, tau):
    """InfoNCE with the whole matrix, negatives masked to the row's own group."""
    logits = torch_f.normalize(a, dim=1) @ torch_f.normalize(b, dim=1).T / tau
    logits = logits.masked_fill(group[:, None] != group, -math.inf)
    target = torch.arange(len(a))
    return (torch_f.cross_entropy(logits, target) + torch_f.cross_entropy(logits.T, target)) / 2


def dense_nt_xent(a, b, group, tau):
    z, group = torch_f.normalize(torch.cat([a, b]), dim=1), group.repeat(2)
    n = len(a)
    hidden = (group[:, None] != group) | torch.eye(2 * n, dtype=torch.bool)
    return torch_f.cross_entropy((z @ z.T / tau).masked_fill(hidden, -math.inf), (torch.arange(2 * n) + n) % (2 * n))


@pytest.mark.parametrize(
    ("loss", "dense"),
    [
        (partial(F.info_nce, temperature=0.2), dense_info_nce),
        (partial(F.nt_xent, temperature=0.2), dense_nt_xent),
    ],
)
@pytest.mark.parametrize("group", [GROUP, GROUP[torch.tensor([3, 0, 5, 1, 4, 2])], torch.zeros(6, dtype=torch.long)])
def test_the_masked_loss_is_the_size_weighted_mean_of_pure_batches(loss, dense, group):
    a, b = rows()
    value = within_groups(loss, group, a, b)
    oracle = dense(a, b, group, 0.2)
    torch.testing.assert_close(value, oracle, atol=1e-12, rtol=0)
    ours, theirs = (torch.autograd.grad(each, (a, b)) for each in (value, oracle))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    pure = sum(loss(a[m], b[m]) * len(m) / 6 for m in groups_of(group))
    torch.testing.assert_close(value, pure, atol=1e-12, rtol=0)


def test_a_sample_alone_in_its_group_adds_nothing():
    a, b = rows()
    gradient = torch.autograd.grad(within_groups(NTXent(0.2, learnable=False), GROUP, a, b), (a, b))
    assert all((each[5] == 0).all() and (each[:5] != 0).any() for each in gradient)
    alone = within_groups(NTXent(0.2, learnable=False), torch.arange(6), a, b)
    assert alone.item() == 0
    assert all((each == 0).all() for each in torch.autograd.grad(alone, (a, b)))


def test_one_group_is_the_loss_itself_to_the_bit():
    a, b = (each.float() for each in rows(32, 8))
    same = torch.full((32,), 7)
    loss = NTXent(0.1)
    assert within_groups(loss, same, a, b).item() == loss(a, b).item()
    label = torch.arange(32) % 4
    assert within_groups(lambda z: SupCon()(z, label), same, a).item() == SupCon()(a, label).item()


def test_a_nan_shows_even_where_it_is_alone():
    a, b = (each.detach().clone() for each in rows())
    a[5] = math.nan
    assert within_groups(InfoNCE(0.2), GROUP, a, b).isnan()


def test_rows_that_do_not_fit():
    a, b = rows()
    with pytest.raises(UserError, match=r"group has 6 samples, and rows are \(5, 5\)"):
        within_groups(InfoNCE(), GROUP, a, b[:5])
    with pytest.raises(UserError, match="group must hold one integer a row"):
        within_groups(InfoNCE(), GROUP.double(), a, b)


def test_what_is_constant_in_a_batch_takes_no_gradient():
    """Why stages work: blocks u, u' that all samples of a cluster share add one constant to every logit. The loss and
    the gradients of the other blocks stay; the row-wise loss moves no u_i, the column-wise one only some against
    others."""
    generator = torch.Generator().manual_seed(4)
    v, w = (torch.randn(7, 4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    u, u_other = (torch.randn(3, generator=generator, dtype=torch.float64).expand(7, 3).clone() for _ in range(2))
    u.requires_grad_()
    target = torch.arange(7)
    plain = torch_f.cross_entropy(v @ w.T, target)
    logits = torch.cat([u, v], 1) @ torch.cat([u_other, w], 1).T
    joint = torch_f.cross_entropy(logits, target)
    torch.testing.assert_close(joint, plain, atol=1e-12, rtol=0)
    with_u, without = torch.autograd.grad(joint, (v, w, u), retain_graph=True), torch.autograd.grad(plain, (v, w))
    torch.testing.assert_close(with_u[:2], without, atol=1e-12, rtol=0)
    assert with_u[2].abs().max() < 1e-12
    columns = torch.autograd.grad(torch_f.cross_entropy(logits.T, target), u)[0]
    assert columns.abs().max() > 1e-3
    assert columns.sum(0).abs().max() < 1e-12


def code(values, kinds):
    return torch_f.one_hot(values, kinds).double()


def test_plain_batches_are_indifferent_and_pure_ones_are_not():
    """All 100 combinations of two independent factors once. Seen through either factor alone, ten views are equal: the
    loss is ln 10 = 2.302585. With one cluster of the first factor, that factor is at chance, the second solves it."""
    f, g = (each.flatten() for each in torch.meshgrid(torch.arange(10), torch.arange(10), indexing="ij"))
    tau = 0.01
    for factor in (f, g):
        z = code(factor, 10)
        assert F.info_nce(z, z, temperature=tau).item() == pytest.approx(math.log(10), abs=1e-9)
        assert F.info_nce(z, z, temperature=tau).item() == pytest.approx(2.302585, abs=1e-6)
    loss = InfoNCE(tau, learnable=False)
    assert within_groups(loss, f, code(f, 10), code(f, 10)).item() == pytest.approx(math.log(10), abs=1e-9)
    assert within_groups(loss, f, code(g, 10), code(g, 10)).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("tau", [0.05, 0.5])
def test_uniform_logits_give_the_log_of_the_batch(tau):
    z = torch.ones(16, 4)
    assert within_groups(InfoNCE(tau, learnable=False), torch.zeros(16).long(), z, z).item() == pytest.approx(
        math.log(16)
    )
