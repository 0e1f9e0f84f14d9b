"""Losses with a self pair at small temperatures: it is left out, not subtracted.

With all rows equal every candidate is as near as the positive, so that the loss is the logarithm of their number at any
temperature: whoever subtracts exp(1 / t) from a sum has infinity there, and whoever leaves it in one candidate more.
"""

import math

import pytest
import torch

from nearfar.losses import NTXent, PairwiseViews
from nearfar.losses.functional import gated_pairs, mv_dhel, mv_info_nce, nt_xent, poly_view, supcon

LABEL = torch.tensor([0, 1, 0, 1])
ALL_BUT_ITSELF, OTHER_VIEW = math.log(3), math.log(2)

LOSSES = {
    "NTXent": (lambda z, t: nt_xent(*z, temperature=t), ALL_BUT_ITSELF),
    "SupCon": (lambda z, t: supcon(z.flatten(0, 1), LABEL, temperature=t), ALL_BUT_ITSELF),
    "PairwiseViews": (lambda z, t: PairwiseViews(NTXent(t, learnable=False))(z), ALL_BUT_ITSELF),
    "PolyView": (lambda z, t: poly_view(z, temperature=t), ALL_BUT_ITSELF),
    "MVInfoNCE": (lambda z, t: mv_info_nce(z, temperature=t), OTHER_VIEW),
    "MVInfoNCE, same view": (
        lambda z, t: mv_info_nce(z, temperature=t, same_view_negatives=True),
        ALL_BUT_ITSELF,
    ),
    "GatedPairs": (
        lambda z, t: gated_pairs(
            z.flatten(0, 1), z.flatten(0, 1), None, LABEL, LABEL, LABEL, temperature=t, exclude_self=True
        ),
        ALL_BUT_ITSELF,
    ),
}


@pytest.mark.parametrize("tau", [0.01, 0.005])
@pytest.mark.parametrize("name", LOSSES)
def test_equal_rows(name, tau):
    loss_of, expected = LOSSES[name]
    rows = torch.ones(2, 2, 3, requires_grad=True)  # two views of two samples
    loss = loss_of(rows, tau)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=2e-5)  # cosines in float32, times 200
    assert rows.grad.isfinite().all()
    assert rows.grad.abs().max() < 1e-6


@pytest.mark.parametrize("name", LOSSES)
def test_a_solved_batch(name):
    rows = torch.eye(2).expand(2, 2, 2)
    assert LOSSES[name][0](rows, 0.01).item() < 1e-6


@pytest.mark.parametrize("tau", [0.01, 0.005])
def test_equal_rows_of_mv_dhel(tau):
    """It spreads each view by itself: the one other sample there lies at cosine 1, 1 / t above its uniformity's zero,
    in both views; what is pulled is at 1 / t, once."""
    rows = torch.ones(2, 2, 3, requires_grad=True)
    loss = mv_dhel(rows, temperature=tau)
    loss.backward()
    assert loss.item() == pytest.approx(2 / tau - 1 / tau, rel=1e-5)
    assert rows.grad.isfinite().all()
