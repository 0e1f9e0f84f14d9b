"""SimCLR: its loss by its formula, what its batch norm sees, and what it does at the edges."""

import math

import pytest
import torch
from torch import nn

from nearfar.errors import UserError
from nearfar.methods import SimCLR
from nearfar.methods.parts.view_projections import project_apart, project_together, spread
from oracles import contrastive as oracle


class Identity(nn.Module):
    def encode_image(self, pixels):
        return pixels


class Normed(nn.Module):
    """A backbone that is one batch norm without weights, so that what it normalises by shows."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1, affine=False)

    def project_image(self, pixels):
        return self.norm(pixels)


def views(count=2, n=5, seed=0):
    return torch.randn(count, n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_it_is_nt_xent(tau):
    a, b = views()
    loss = SimCLR(Identity(), temperature=tau)({"views": torch.stack([a, b])})["loss"]
    torch.testing.assert_close(loss, oracle.nt_xent(a, b, tau))


def test_of_three_views_every_pair_counts_alike():
    a, b, c = views(3)
    loss = SimCLR(Identity())({"views": torch.stack([a, b, c])})["loss"]
    pairs = [oracle.nt_xent(x, y, 0.1) for x, y in ((a, b), (a, c), (b, c))]
    torch.testing.assert_close(loss, torch.stack(pairs).mean())


@pytest.mark.parametrize("tau", [0.01, 0.005])
def test_equal_rows_at_small_temperatures(tau):
    """The pair with itself is masked, not subtracted: with four equal rows ln 3, and a finite gradient."""
    rows = torch.ones(2, 2, 3, requires_grad=True)
    loss = SimCLR(Identity(), temperature=tau)({"views": rows})["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3), rel=1e-5)  # cosines in float32, times 200
    assert rows.grad.isfinite().all()


def test_a_solved_batch_at_a_small_temperature():
    rows = torch.eye(2).expand(2, 2, 2)
    assert SimCLR(Identity(), temperature=0.01)({"views": rows})["loss"].item() < 1e-6


def test_the_views_of_a_batch_share_their_statistics():
    pair = [torch.tensor([[0.0], [2.0]]), torch.tensor([[10.0], [14.0]])]
    apart, together = project_apart(Normed(), pair), project_together(Normed(), pair)
    assert torch.cat(apart).flatten().tolist() == pytest.approx([-1, 1, -1, 1], abs=1e-4)
    assert torch.cat(together).flatten().tolist() == pytest.approx([-1.1358, -0.7863, 0.6116, 1.3106], abs=1e-4)
    embedded = SimCLR(Normed()).embed({"views": torch.stack(pair)})
    assert embedded["view_0"].flatten().tolist() == pytest.approx([-1.1358, -0.7863], abs=1e-4)


def test_one_view_is_a_sentence():
    with pytest.raises(UserError, match="compares views of a picture, and the batch has 1: set n_views=2"):
        SimCLR(Identity())({"image": torch.randn(3, 4)})


def test_a_batch_of_one_has_nothing_to_tell_apart():
    assert SimCLR(Identity())({"views": torch.randn(2, 1, 4)})["loss"].item() == 0


def test_spread_is_0_in_a_point_and_1_on_the_whole_sphere():
    assert spread(torch.ones(9, 4)).item() == 0
    rows = torch.cat([torch.eye(64), -torch.eye(64)])
    assert spread(rows).item() == pytest.approx(1)
