"""SimCLR: its loss by its formula, what its batch norm sees, and what it does at the edges."""

import math

import pytest
import torch

from methods.image_batches import APART, PAIR, TOGETHER, Identity, Normed, batch, encoder
from nearfar.errors import UserError
from nearfar.methods import SimCLR, SupCon
from nearfar.methods.parts.view_projections import apart, spread, spread_of_unit, together
from oracles import contrastive as oracle


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
    encode = Normed().project_image
    assert torch.cat(apart(encode, list(PAIR))).flatten().tolist() == pytest.approx(APART, abs=1e-4)
    assert torch.cat(together(encode, list(PAIR))).flatten().tolist() == pytest.approx(TOGETHER, abs=1e-4)


@pytest.mark.parametrize("method", [SimCLR, SupCon])
@pytest.mark.parametrize(("options", "expected"), [({}, TOGETHER), ({"normalise": "apart"}, APART)])
def test_what_batch_norm_sees_is_an_option_and_the_released_code_s_choice_its_default(method, options, expected):
    embedded = method(Normed(), **options).embed({"views": PAIR})
    assert torch.cat(list(embedded.values())).flatten().tolist() == pytest.approx(expected, abs=1e-4)


def test_no_such_way_to_normalise_is_a_sentence():
    with pytest.raises(UserError, match=r"no normalise 'batch'\. There are: together, apart"):
        SimCLR(Normed(), normalise="batch")


def test_small_views_are_compared_with_large_ones_alone():
    a, b, c, d = views(4)
    loss = SimCLR(Identity())({"views": torch.stack([a, b]), "small_views": torch.stack([c, d])})["loss"]
    pairs = [oracle.nt_xent(x, y, 0.1) for x, y in ((a, b), (a, c), (a, d), (b, c), (b, d))]
    torch.testing.assert_close(loss, torch.stack(pairs).mean())


def test_small_views_go_through_the_same_encoder():
    method = SimCLR(encoder())
    embedded = method.embed(batch(small=3))
    assert {name: tuple(z.shape) for name, z in embedded.items()} == {
        **dict.fromkeys(("view_0", "view_1"), (4, 8)),
        **dict.fromkeys(("small_view_0", "small_view_1", "small_view_2"), (4, 8)),
    }


def test_one_view_is_a_sentence():
    with pytest.raises(UserError, match="compares views of a picture, and the batch has 1: set n_views=2"):
        SimCLR(Identity())({"image": torch.randn(3, 4)})


def test_a_batch_of_one_has_nothing_to_tell_apart():
    assert SimCLR(Identity())({"views": torch.randn(2, 1, 4)})["loss"].item() == 0


def test_spread_is_0_in_a_point_and_1_on_the_whole_sphere():
    assert spread(torch.ones(9, 4)).item() == 0
    rows = torch.cat([torch.eye(64), -torch.eye(64)])
    assert spread(rows).item() == pytest.approx(1)


def test_spread_is_the_standard_deviation_of_the_unit_rows_of_the_batch_itself():
    rows = torch.randn(5, 3, dtype=torch.float64)
    unit = rows / rows.norm(dim=1, keepdim=True)
    expected = (((unit - unit.mean(0)) ** 2).sum(0) / 5).sqrt().mean() * 3**0.5
    for made in (spread(7 * rows.requires_grad_()), spread_of_unit(unit.requires_grad_())):
        torch.testing.assert_close(made.double(), expected, rtol=1e-6, atol=0)
        assert not made.requires_grad
