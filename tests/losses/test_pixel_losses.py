"""Pixel consistency and PixContrast: numbers worked out by hand, slow loops, the released code's values, memory."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from nearfar.losses import PixContrast, PixelConsistency
from nearfar.losses.functional import pix_contrast, pixel_consistency
from nearfar.losses.near_cells import NearCells, pixel_positive_mask, view_cell_centers
from nearfar.ops import cell_pairs
from oracles import cells as oracle

FULL = torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
RELEASED = json.loads((Path(__file__).parent / "released" / "pixpro.json").read_text())
BOXES, OTHERS = (torch.tensor(RELEASED[name], dtype=torch.float64) for name in ("boxes", "others"))


def maps(n=3, channels=5, grid=(3, 4), seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, channels, *grid, generator=g, dtype=torch.float64) for _ in range(2)]


def wave(*shape, phase):
    return torch.sin(1.7 * torch.arange(math.prod(shape), dtype=torch.float64) + phase).view(shape)


def both(y, k, near):
    """The released code's total of two views that are equal."""
    return (pixel_consistency(y, k, near, scale=2.0) + pixel_consistency(y, k, near.mT, scale=2.0)).item()


def lists(grid):
    return grid.flatten(2).mT.tolist()


def test_orthogonal_cells_that_agree_with_themselves_reach_the_floor():
    y = torch.eye(4, dtype=torch.float64).view(1, 4, 2, 2)
    assert both(y, y, pixel_positive_mask(FULL, FULL, (2, 2), 0.7)) == pytest.approx(-4, abs=1e-5)
    assert both(y, y, pixel_positive_mask(FULL, FULL, (2, 2), 0.71)) == pytest.approx(-4 / 3, abs=1e-5)


def test_constant_maps_reach_the_floor_too():
    """So that the loss says nothing of collapse."""
    y = torch.ones(1, 6, 2, 2, dtype=torch.float64)
    for threshold in (0.7, 1.1, 2.0):
        assert both(y, y, pixel_positive_mask(FULL, FULL, (2, 2), threshold)) == pytest.approx(-4, abs=1e-5)


def test_pictures_count_alike_however_many_pairs_they_have():
    """One pair of cosine 1; three pairs of cosine 0: - 2 (1 + 0) / 2. Pooled over the batch it would be - 0.5."""
    e = torch.eye(2, dtype=torch.float64)
    y, k = torch.stack([e, e]), torch.stack([e, e.flip(0)])
    near = torch.zeros(2, 2, 2)
    near[0, 0, 0] = 1
    near[1, 0, 0] = near[1, 1, 1] = 1  # of cosine 0
    loss = pixel_consistency(y, k, near, scale=2.0)
    assert loss.item() == pytest.approx(-1.0, abs=1e-5)
    assert torch.equal(loss, pixel_consistency(y.flip(0), k.flip(0), near.flip(0), scale=2.0))
    parts = [pixel_consistency(y[i : i + 1], k[i : i + 1], near[i : i + 1], scale=2.0) for i in range(2)]
    torch.testing.assert_close(torch.stack(parts).mean(), loss)


def test_pictures_without_a_pair_give_nothing_and_count():
    y, k = (each.requires_grad_() for each in maps(n=2))
    near = torch.zeros(2, 12, 12)
    for loss in (pixel_consistency(y, k, near), pix_contrast(y, k, near)):
        assert loss.item() == 0
        assert torch.equal(torch.autograd.grad(loss, y)[0], torch.zeros_like(y))
    near[0] = torch.eye(12)
    one = pixel_consistency(y[:1], k[:1], near[:1])
    torch.testing.assert_close(pixel_consistency(y, k, near), one / 2)
    torch.testing.assert_close(pix_contrast(y, k, near), pix_contrast(y[:1], k[:1], near[:1]) / 2)


@pytest.mark.parametrize("loss", [pixel_consistency, pix_contrast])
@pytest.mark.parametrize("grid", [(7, 7), (2, 5)])
def test_exchanging_the_views_with_their_boxes_changes_nothing(loss, grid):
    """Of crops that are not alike: an untransposed mask would fail."""
    boxes = FULL, torch.tensor([[0.5, 0.5, 1.0, 1.0]], dtype=torch.float64)
    one, other = maps(n=1, grid=grid)
    near = pixel_positive_mask(*boxes, grid)
    forth = loss(one, other, near) + loss(other, one, near.mT)
    swapped = pixel_positive_mask(*boxes[::-1], grid)
    assert (loss(other, one, swapped) + loss(one, other, swapped.mT)).item() == pytest.approx(forth.item(), abs=1e-12)
    assert (loss(one, other, near) + loss(other, one, near)).item() != pytest.approx(forth.item(), abs=1e-3)


def test_a_mirrored_box_with_mirrored_columns_is_the_same_view():
    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.7]], dtype=torch.float64), torch.tensor([[0.3, 0.2, 0.9, 0.8]])
    mirrored = boxes[0][:, [2, 1, 0, 3]]
    one, other = maps(n=1, grid=(4, 5))
    plain = pixel_consistency(one, other, pixel_positive_mask(boxes[0], boxes[1].double(), (4, 5)))
    turned = pixel_positive_mask(mirrored, boxes[1].double(), (4, 5))
    assert pixel_consistency(one.flip(3), other, turned).item() == pytest.approx(plain.item(), abs=1e-12)
    assert pixel_consistency(one, other, turned).item() != pytest.approx(plain.item(), abs=1e-3)


def test_one_cell_is_byol_s_loss_without_predictor():
    one, other = maps(grid=(1, 1))
    near = pixel_positive_mask(BOXES, BOXES, (1, 1))
    cosine = torch.cosine_similarity(one, other).mean()
    torch.testing.assert_close(
        pixel_consistency(one, other, near) + pixel_consistency(other, one, near.mT), -2 * cosine, rtol=1e-5, atol=0
    )


@pytest.mark.parametrize(
    ("cells", "same", "expected"), [(49, False, 0.997816), (4, False, 0.101674), (49, True, math.log(49))]
)
def test_pix_contrast_worked_out(cells, same, expected):
    q = torch.ones(1, 3, cells, dtype=torch.float64) if same else torch.eye(cells, dtype=torch.float64)[None]
    assert pix_contrast(q, q, torch.eye(cells)[None]).item() == pytest.approx(expected, abs=1e-6)


def test_pix_contrast_of_cells_that_are_all_near_is_exactly_0():
    q, k = maps()
    loss = pix_contrast(q.requires_grad_(), k, torch.ones(3, 12, 12))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, q)[0].abs().max() < 1e-12


def test_cells_without_a_near_one_are_left_out_of_the_mean():
    q, k = maps(n=1, grid=(1, 3))
    near = torch.zeros(1, 3, 3)
    near[0, 1, 2] = 1
    s = (normalize(q, dim=1)[0, :, 0, 1] @ normalize(k, dim=1)[0, :, 0]) / 0.3
    assert pix_contrast(q, k, near).item() == pytest.approx((s.logsumexp(0) - s[2]).item())


@pytest.mark.parametrize("grid", [(2, 2), (3, 4)])
def test_both_losses_are_slow_loops(grid):
    y, k = maps(grid=grid)
    near = pixel_positive_mask(BOXES, OTHERS, grid, 1.5)
    expected = [oracle.consistency(*each) for each in zip(lists(y), lists(k), near.int().tolist(), strict=True)]
    assert pixel_consistency(y, k, near).item() == pytest.approx(sum(expected) / 3, abs=1e-9)
    expected = [oracle.contrast(*each, 0.2) for each in zip(lists(y), lists(k), near.int().tolist(), strict=True)]
    assert pix_contrast(y, k, near, temperature=0.2).item() == pytest.approx(sum(expected) / 3, abs=1e-6)


def test_gradients_are_those_of_the_dense_formulas():
    y, k = (each.requires_grad_() for each in maps())
    near = pixel_positive_mask(BOXES, OTHERS, (3, 4), 1.2)
    s = normalize(y, dim=1).flatten(2).mT @ normalize(k, dim=1).flatten(2).detach()
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    some = near.any(-1)
    part = (s / tau).masked_fill(~near, -torch.inf)
    ell = ((s / tau).logsumexp(-1) - part.where(some[..., None], s).logsumexp(-1)) * some
    dense = {
        "consistency": -((s * near).sum((1, 2)) / (near.sum((1, 2)) + 1e-6)).mean(),
        "contrast": (ell.sum(1) / some.sum(1).clamp(min=1)).mean(),
    }
    actual = {"consistency": pixel_consistency(y, k, near), "contrast": pix_contrast(y, k, near, temperature=tau)}
    for name, loss in actual.items():
        torch.testing.assert_close(loss, dense[name])
        inputs = [y] if name == "consistency" else [y, tau]
        expected = torch.autograd.grad(dense[name], inputs, retain_graph=True)
        for mine, true in zip(torch.autograd.grad(loss, inputs), expected, strict=True):
            torch.testing.assert_close(mine, true)


def test_no_gradient_reaches_keys_and_boxes():
    y, k = (each.requires_grad_() for each in maps())
    boxes = BOXES.clone().requires_grad_()
    near = NearCells(view_cell_centers(boxes, (3, 4)), view_cell_centers(OTHERS, (3, 4)))
    for loss in (pixel_consistency(y, k, near), pix_contrast(y, k, near)):
        loss.backward()
        assert y.grad.abs().sum() > 0
        assert k.grad is None
        assert boxes.grad is None


@pytest.mark.parametrize("case", RELEASED["loss"], ids=lambda case: f"{case['grid']}, {case['threshold']}")
def test_the_released_code_gave_these(case):
    """Its number of pairs is float32, where adding 1e-6 to it is lost."""
    grid = tuple(case["grid"])
    q, k = (normalize(wave(3, 5, *grid, phase=phase), dim=1) for phase in (0.3, 1.1))
    near = pixel_positive_mask(BOXES, OTHERS, grid, case["threshold"])
    assert pixel_consistency(q, k, near, scale=2.0).item() == pytest.approx(case["forth"], rel=1e-6)
    assert pixel_consistency(k, q, near.mT, scale=2.0).item() == pytest.approx(case["back"], rel=1e-6)


def test_strips_change_no_bit_of_the_value(monkeypatch):
    y, k = (each.requires_grad_() for each in maps(grid=(4, 5)))
    near = NearCells(view_cell_centers(BOXES, (4, 5)), view_cell_centers(OTHERS, (4, 5)), 1.2)

    def values():
        losses = [pixel_consistency(y, k, near), pix_contrast(y, k, near), pixel_consistency(y, k, near.whole())]
        return [value for loss in losses for value in (loss.detach(), torch.autograd.grad(loss, y)[0])]

    whole = values()
    for pairs in (1, 7, 60, 400):
        monkeypatch.setattr(cell_pairs, "PAIRS", pairs)
        for mine, true in zip(values(), whole, strict=True):
            torch.testing.assert_close(mine, true, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("module", [PixelConsistency(), PixContrast()])
def test_maps_of_56_by_56_cells_never_hold_their_pairs(module):
    """Ten million pairs a picture, of which a strip is made at a time."""
    from methods.test_no_matrix_of_pairs import Largest

    y, k = (torch.randn(2, 4, 56, 56, requires_grad=needs) for needs in (True, False))
    boxes = BOXES[:2].float()
    near = NearCells(view_cell_centers(boxes, (56, 56)), view_cell_centers(boxes.flip(0), (56, 56)))
    with Largest() as largest:
        module(y, k, near).backward()
    assert largest.elements <= 2 * cell_pairs.PAIRS < 3136**2, largest.where
    assert y.grad.isfinite().all()
