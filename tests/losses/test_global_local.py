"""Global to local InfoNCE (TCL's local mutual information) against a loop in float64, and its invariants."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from nearfar.losses import functional as F


def data(n=4, k=3, d=5, seed=0):
    gen = torch.Generator().manual_seed(seed)
    g = torch.randn(n, d, generator=gen, dtype=torch.float64, requires_grad=True)
    return g, normalize(torch.randn(n, k, d, generator=gen, dtype=torch.float64), dim=2)


def loop(g, local, tau, mask):
    g = normalize(g, dim=1)
    total = []
    for i in range(len(g)):
        each = []
        for k in range(local.shape[1]):
            if mask[i, k]:
                own = (g[i] @ local[i, k] / tau).exp()
                rest = [
                    (g[i] @ local[j, m] / tau).exp()
                    for j in range(len(g))
                    for m in range(local.shape[1])
                    if j != i and mask[j, m]
                ]
                each.append(-torch.log(own / (own + sum(rest))))
        total.append(torch.stack(each).mean())
    return torch.stack(total).mean()


def test_against_the_loop():
    g, local = data()
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 1, 1]])
    got, expected = F.global_local_info_nce(g, local, mask=mask, temperature=tau), loop(g, local, tau, mask)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)
    for mine, theirs in zip(torch.autograd.grad(got, [g, tau]), torch.autograd.grad(expected, [g, tau]), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(("n", "k", "value"), [(2, 3, 1.386294), (4, 16, 3.891820)])
def test_all_equal(n, k, value):
    assert F.global_local_info_nce(torch.ones(n, 4), torch.ones(n, k, 4) / 2).item() == pytest.approx(value, abs=1e-5)


def test_batch_of_one_is_zero_with_zero_gradient():
    g, local = data(n=1)
    loss = F.global_local_info_nce(g, local)
    loss.backward()
    assert loss.item() == 0
    assert g.grad.abs().max() == 0


def test_one_local_is_in_batch_info_nce():
    g, local = data(k=1)
    got = F.global_local_info_nce(g, local, temperature=0.2)
    torch.testing.assert_close(got, F.info_nce(g, local[:, 0], temperature=0.2, symmetric=False))


def test_padding_and_order_of_locals_change_nothing():
    g, local = data()
    mask = torch.ones(4, 3, dtype=torch.bool)
    value = F.global_local_info_nce(g, local, mask=mask)
    padded = torch.cat([local, 100 * torch.ones(4, 2, 5)], 1)
    more = torch.cat([mask, torch.zeros(4, 2, dtype=torch.bool)], 1)
    again = F.global_local_info_nce(g, padded, mask=more)
    torch.testing.assert_close(value, again, rtol=1e-12, atol=0)
    for a, b in zip(torch.autograd.grad(value, g), torch.autograd.grad(again, g), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(F.global_local_info_nce(g, local[:, [2, 0, 1]]), value)


def test_locals_are_not_normalised_and_own_locals_are_no_negatives():
    g, local = data()
    shorter = F.global_local_info_nce(g, local / 2)
    assert shorter.item() != pytest.approx(F.global_local_info_nce(g, local).item())
    closer = local.clone()
    closer[0, 0] = normalize(g.detach(), dim=1)[0]
    drop = F.global_local_info_nce(g, local, temperature=1.0) - F.global_local_info_nce(g, closer, temperature=1.0)
    assert drop > 0


def test_no_local_at_all_and_groups():
    g, local = data(n=2)
    assert F.global_local_info_nce(g, local, mask=torch.zeros(2, 3)).item() == 0
    assert F.global_local_info_nce(g, local, group=torch.zeros(2, dtype=torch.long)).item() == 0
    with pytest.raises(ValueError, match=r"\[N, K, D\]"):
        F.global_local_info_nce(g, local[:, 0])
    with pytest.raises(ValueError, match="mask must be"):
        F.global_local_info_nce(g, local, mask=torch.ones(2, 2))


def test_worked_number():
    eye = torch.eye(2, dtype=torch.float64)
    value = F.global_local_info_nce(eye, eye[:, None].expand(2, 3, 2), temperature=1.0).item()
    assert value == pytest.approx(math.log(1 + 3 / math.e), rel=1e-9)
