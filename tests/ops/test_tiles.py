"""The cut into tiles: every entry once, none twice, offsets without gaps, and the byte budget."""

import pytest
import torch
from torch.nn.functional import softplus

from nearfar.ops import log_partition, sigmoid
from nearfar.ops.tiling import inputs
from nearfar.ops.tiling.one_tile import is_one_tile
from nearfar.ops.tiling.tiles import Pairs, grid, own_logits, run_of, tile_shape, tiles_to_keep


@pytest.mark.parametrize(("n", "m", "tile"), [(7, 5, (3, 2)), (1, 9, (4, 4)), (600, 30, (512, 7)), (0, 4, (2, 2))])
def test_every_entry_is_covered_once(n, m, tile):
    count = torch.zeros(n, m)
    for t in grid(n, m, tile):
        count[t.rows, t.cols] += 1
    assert (count == 1).all()


@pytest.mark.parametrize(("n", "side"), [(10, 3), (700, 512), (2100, 1024), (300, 300), (1, 1)])
def test_upper_tiles_and_their_mirrors_cover_every_entry_once(n, side):
    count = torch.zeros(n, n)
    offset = 0
    for t in grid(n, n, (side, side), upper=True):
        count[t.rows, t.cols] += 1
        if not t.diagonal:
            count[t.cols, t.rows] += 1
        assert t.offset == offset
        offset += t.size
    assert (count == 1).all()


def test_one_set_costs_little_more_than_half():
    assert (
        sum(t.size for t in grid(4096, 4096, tile_shape(4096, 4096, None, one_set=True), upper=True)) < 0.54 * 4096**2
    )


def test_default_tiles_leave_no_sliver():
    rows, cols = tile_shape(1030, 5000, None)
    assert rows == 515
    assert cols == 1000
    assert tile_shape(0, 0, None) == (1, 1)
    assert [tile_shape(n, n, None, narrow=True) for n in (1024, 1025, 4096)] == [(1024, 1024), (513, 342), (1024, 512)]
    assert len(grid(1031, 2051, tile_shape(1031, 2051, None))) == 2 * 3


def test_budget_counts_whole_tiles():
    tiles = grid(8, 8, (4, 4))
    assert tiles_to_keep(tiles, 0, 4) == 0
    assert tiles_to_keep(tiles, 4 * 16 * 3 - 1, 4) == 2
    assert tiles_to_keep(tiles, 1 << 40, 4) == 4


@pytest.mark.parametrize(("side", "bytes_per_entry"), [(1024, 4), (4096, 4), (5792, 4), (8192, 2)])
def test_all_tiles_of_a_usual_batch_are_kept(side, bytes_per_entry):
    tiles = grid(side, side, (1024, 512))
    assert tiles_to_keep(tiles, None, bytes_per_entry) == len(tiles)


@pytest.mark.parametrize(("side", "bytes_per_entry"), [(8192, 4), (1 << 17, 4), (1 << 17, 2)])
def test_however_large_a_batch_its_kept_tiles_are_not(side, bytes_per_entry):
    tiles = grid(side, side, (1024, 1024))
    assert tiles_to_keep(tiles, None, bytes_per_entry) == (128 << 20) // (bytes_per_entry << 20)


def test_runs_become_slices():
    assert run_of(torch.tensor([4, 5, 6])) == slice(4, 7)
    for scattered in ([4, 6, 5], [4, 4, 6], [4, 7, 6, 7]):
        assert torch.equal(run_of(torch.tensor(scattered)), torch.tensor(scattered))


@pytest.mark.parametrize("tile", [(8, 3), (3, 8), (5, 5), (2, 7)])
@pytest.mark.parametrize("start", [0, 4])
def test_own_pairs_are_left_out_wherever_they_cross_a_tile(tile, start):
    """Also where they enter a tile from its side: tiles that are higher than wide, own keys that begin further on."""
    q, k = torch.randn(2, 13, 4, generator=torch.Generator().manual_seed(0)).unbind()
    k = torch.cat([k, k, k])
    for own in (torch.arange(13) + start, torch.arange(13).flip(0) + start):
        pairs = Pairs(q, k, torch.ones(13), own=own, tile=tile)
        for each, queries in pairs.walk():
            z = pairs.logits(each, queries, torch.empty(each.shape))
            expected = own[each.rows, None] == torch.arange(39)[None, each.cols]
            assert torch.equal(z == -torch.inf, expected)


def test_own_logits_are_summed_in_float64():
    q, k = torch.randn(2, 9, 5000, generator=torch.Generator().manual_seed(1)).unbind()
    actual = own_logits(Pairs(q, k, torch.ones(9), own=torch.arange(9)))
    torch.testing.assert_close(actual, (q * k).double().sum(1), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("scale", [300.0, -300.0])
def test_a_negative_scale_is_as_large_as_a_positive_one(scale):
    q, k = torch.nn.functional.normalize(torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(2)), dim=2)
    pairs = Pairs(q, k, torch.full((9,), scale))
    assert pairs.bound() == pytest.approx(300 * 1.442695, rel=1e-4)
    actual = log_partition(q, k, scale)
    torch.testing.assert_close(actual.double(), (scale * q.double() @ k.double().T).logsumexp(1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("backend", ["tiled", "dense"])
def test_the_sigmoid_loss_of_each_row_has_its_bias_in_every_tile(backend):
    q, k = torch.randn(7, 12, dtype=torch.float64), torch.randn(9, 12, dtype=torch.float64)
    losses = softplus(-(2 * torch.eye(7, 9) - 1) * (0.5 * q @ k.T - 5.0)).sum(1)
    rows = sigmoid(q, k, 0.5, -5.0, reduction="none", backend=backend, tile=3)
    torch.testing.assert_close(rows, losses, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("one_set", [False, True])
@pytest.mark.parametrize("tile", [None, 3, (2, 5), 300])
@pytest.mark.parametrize("n", [0, 1, 3, 5, 256, 257])
def test_one_tile_is_what_the_grid_says(n, tile, one_set):
    q = torch.zeros(n, 2)
    for m in [n] if one_set else [0, 2, 5, 6, 1024, 1025]:
        pairs = inputs.pairs(q, q if one_set else torch.zeros(m, 2), 1.0, one_set=one_set, tile=tile)
        assert is_one_tile(pairs) == (len(pairs.tiles) == 1), (n, m)
