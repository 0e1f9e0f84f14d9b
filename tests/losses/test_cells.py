"""Where cells lie, and which are near: on squares and oblongs, cropped, mirrored and turned, by several conventions."""

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar.data.pictures.views import PRESETS, ViewPreset, Views
from nearfar.errors import UserError
from nearfar.losses.near_cells import (
    NearCells,
    cells_of_map,
    cells_of_views,
    corner_boxes,
    pixel_positive_mask,
    view_cell_centers,
)
from nearfar.ops import cell_pairs
from oracles import cells as oracle

FULL = (0.0, 0.0, 1.0, 1.0)
FLIPPED = (1.0, 0.0, 0.0, 1.0)


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def mask(q, k, grid, threshold=0.7):
    return pixel_positive_mask(boxes(q), boxes(k), grid, threshold)[0]


def rows_of(near):
    return ["".join(str(int(value)) for value in row) for row in near]


def named(near):
    return [row.nonzero().flatten().tolist() for row in near]


@pytest.mark.parametrize(("threshold", "pairs"), [(0.7, 49), (0.71, 217), (1.0, 269), (1.4, 361), (2.8, 1305)])
def test_pairs_of_one_crop_with_itself(threshold, pairs):
    """At 1.0 neighbours across a corner are just at the threshold, and rounding decides: 269 is what the released
    code's order of operations gives in float64 (281 in float32)."""
    near = mask(FULL, FULL, (7, 7), threshold)
    assert near.sum() == pairs
    assert torch.equal(near, torch.eye(49, dtype=torch.bool)) == (threshold == 0.7)


def test_a_mirror_image_has_its_columns_the_other_way_round():
    near = mask(FULL, FLIPPED, (7, 7))
    assert named(near) == [[7 * (i // 7) + 6 - i % 7] for i in range(49)]


def test_a_quarter_of_the_picture():
    near = mask(FULL, (0.5, 0.5, 1.0, 1.0), (7, 7))
    assert (near.sum(), near.any(1).sum(), near.any(0).sum()) == (133, 16, 49)
    assert torch.equal(mask((0.5, 0.5, 1.0, 1.0), FULL, (7, 7)), near.T)


def test_a_grid_that_is_not_square():
    """Neighbours in a column, at 0.894, are out, and those in a row are in."""
    near = mask(FULL, FULL, (2, 4))
    assert near.sum() == 20
    assert named(near)[0] == [0, 1]
    expected = [[2, 3], [1, 2, 3], [0, 1, 2], [0, 1], [6, 7], [5, 6, 7], [4, 5, 6], [4, 5]]
    assert named(mask(FULL, FLIPPED, (2, 4))) == expected
    assert rows_of(mask(FULL, (0, 0, 0.5, 0.5), (2, 2))) == ["1111", "0101", "0011", "0000"]
    assert rows_of(mask(FULL, (0.25, 0.25, 0.75, 0.75), (2, 2))) == ["1110", "1101", "1011", "0111"]


def test_crops_that_are_apart_and_crops_that_touch():
    assert mask((0, 0, 0.4, 0.4), (0.6, 0.6, 1, 1), (7, 7)).sum() == 0
    assert mask((0, 0, 0.5, 1), (0.5, 0, 1, 1), (7, 7)).sum() == 7, "no overlap is needed"


@pytest.mark.parametrize("grid", [(7, 7), (3, 5)])
def test_moving_or_scaling_both_crops_changes_nothing(grid):
    one, other = boxes((0.11, 0.21, 0.52, 0.83)), boxes((0.63, 0.13, 0.27, 0.71))
    near = pixel_positive_mask(one, other, grid)
    assert 0 < near.sum() < near.numel() / 2
    shift = boxes((0.2, -0.1, 0.2, -0.1))
    assert torch.equal(pixel_positive_mask(one + shift, other + shift, grid), near)
    assert torch.equal(pixel_positive_mask(one * 0.3, other * 0.3, grid), near)


def test_the_threshold_counts_cell_diagonals_and_not_the_picture():
    """In shares of the picture's diagonal nearly all pairs would be within 0.7."""
    assert mask(FULL, FULL, (7, 7)).float().mean() < 0.03
    small = tuple(0.01 * edge for edge in FULL)
    assert mask(small, small, (7, 7)).sum() == 49


@pytest.mark.parametrize("size", [(64, 64), (80, 40), (33, 95)])
@pytest.mark.parametrize("grid", [(4, 4), (2, 5)])
@pytest.mark.parametrize("preset", ["byol", "moco", ViewPreset(crop=(0.2, 1.0), flip=1.0, canvas=1.5)])
def test_cells_of_made_views_are_those_of_what_was_done(size, grid, preset):
    """Square and oblong pictures; the crop is read back from where the view's corners lie, in float64."""
    n, threshold = 40, 0.7
    views = Views(preset, size=24, n_views=2)
    images = torch.zeros(n, 3, views.canvas, views.canvas)
    sizes = torch.tensor([size] * n)
    _, geometry = views(images, views.draw(n, torch.Generator().manual_seed(3)), sizes=sizes)
    q, k = (cells_of_views(each, grid, view_size=(24, 24), picture_size=sizes) for each in geometry)
    actual = NearCells(q, k, threshold).whole()
    differing = 0
    for row in range(n):
        made = []
        for view in range(2):
            back = np.linalg.inv(geometry[view, row].double().numpy())
            corners = back @ np.array([[-0.5, 23.5], [-0.5, 23.5], [1, 1]])
            (x0, x1), (y0, y1) = ((corners[axis] + 0.5) / size[axis] for axis in range(2))
            made.append(oracle.cell_centers((min(x0, x1), y0, abs(x1 - x0), y1 - y0), x1 < x0, grid))
        for cells, (centers, diagonal) in zip((q, k), made, strict=True):
            np.testing.assert_allclose(cells.centers[row], centers, atol=2e-5)
            assert cells.diagonal[row].item() == pytest.approx(diagonal, abs=1e-5)
        expected = torch.tensor(oracle.near(*made, threshold), dtype=torch.bool)
        differing += int((expected != actual[row]).sum())
    assert differing <= 2, "pairs just at the threshold"
    assert 0.005 < actual.float().mean() < 0.5


def painted(size):
    """A picture whose pixels say where they are, in shares, in red (x) and green (y)."""
    width, height = size
    x = (torch.arange(width) + 0.5) / width
    y = (torch.arange(height) + 0.5) / height
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width), torch.zeros(height, width)])


@pytest.mark.parametrize("preset", ["moco", "beclr"])
def test_the_pixels_of_a_view_say_the_same_as_its_matrix(preset):
    """Each pixel is painted with its own place: a complete check of crop, mirror, shear, shift and turn. The canvas is
    linear in the place, so that sampling it is exact away from its edge."""
    preset = ViewPreset(
        crop=PRESETS[preset].crop, flip=0.5, upturn=PRESETS[preset].upturn, randaugment=PRESETS[preset].randaugment
    )
    views = Views(preset, size=32, n_views=1)
    n, grid = 60, (4, 4)
    images = painted((96, 96)).expand(n, 3, 96, 96)
    # Moves alone: RandAugment's colours would repaint the places.
    draws = views.draw(n, torch.Generator().manual_seed(0))
    pixels, matrix = views._move(images, draws.uniform[0], torch.tensor([[96.0, 96.0]] * n))
    from nearfar.data.pictures.view_geometry import pixel_matrix

    geometry = pixel_matrix(matrix, torch.full((n, 2), 96.0), 32, cropped=False)
    cells = cells_of_views(geometry, grid, view_size=(32, 32), picture_size=torch.full((n, 2), 96.0))
    mapped = cells_of_map(pixels[:, :2], grid)
    margin = cells.diagonal[:, None, None] / 2 + 0.02  # where all of a cell lies in the picture
    inside = ((cells.centers > margin) & (cells.centers < 1 - margin)).all(-1)
    assert inside.float().mean() > 0.2
    torch.testing.assert_close(mapped.centers[inside], cells.centers[inside], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(60, 60), (90, 50)])
def test_a_crop_by_pil_says_the_same_as_its_box(size):
    """Crop, mirror and resize by Pillow, box by the formula: to half a pixel of the picture, and interpolation."""
    place = (painted(size)[:2].permute(1, 2, 0).numpy() * 255).astype(np.float32)
    left, top, width, height = 9, 4, 36, 28
    grid, side = (4, 4), 32
    box = boxes(((left + width) / size[0], top / size[1], left / size[0], (top + height) / size[1]))
    coordinates = []
    for channel in range(2):
        cut = Image.fromarray(place[..., channel]).crop((left, top, left + width, top + height))
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((side, side), Image.Resampling.BILINEAR)
        coordinates.append(torch.from_numpy(np.array(cut)) / 255)
    mapped = cells_of_map(torch.stack(coordinates)[None], grid)
    exact = view_cell_centers(box, grid)
    away = (mapped.centers - exact.centers).abs() * torch.tensor(size)
    assert away.max() < 0.5
    assert torch.equal(
        NearCells(mapped, view_cell_centers(boxes(FULL), grid)).whole(), pixel_positive_mask(box, boxes(FULL), grid)
    )


def test_kornia_s_crops_say_the_same():
    """kornia counts boxes in pixel centres, we in edges: half a pixel between them, made up for."""
    kornia = pytest.importorskip("kornia")
    picture = painted((50, 40))[None]
    left, top, width, height = 10, 6, 20, 16
    corners = torch.tensor(
        [[[left, top], [left + width - 1, top], [left + width - 1, top + height - 1], [left, top + height - 1]]]
    ).float()
    cut = kornia.geometry.transform.crop_by_boxes(
        picture, corners, torch.tensor([[[0.0, 0.0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]])
    )
    mapped = cells_of_map(cut[:, :2, :height, :width], (4, 4))
    exact = view_cell_centers(boxes((left / 50, top / 40, (left + width) / 50, (top + height) / 40)), (4, 4))
    torch.testing.assert_close(mapped.centers, exact.centers.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("flip", [False, True])
def test_the_released_code_s_corners_are_at_most_half_a_pixel_off(flip):
    """c = (j / (W - 1), i / (H - 1), (j + w - 1) / (W - 1), ...), the ends of x exchanged for a mirror image."""
    (width, height), (j, i, w, h), side, grid = (90, 50), (12, 7, 40, 30), 20, (4, 5)
    to_view = torch.tensor([[side / w, 0, (0.5 - j) * side / w - 0.5], [0, side / h, (0.5 - i) * side / h - 0.5]])
    geometry = torch.cat([to_view, torch.tensor([[0.0, 0.0, 1.0]])])
    geometry = (torch.tensor([[-1.0, 0, side - 1], [0, 1, 0], [0, 0, 1]]) @ geometry) if flip else geometry
    size = torch.tensor([[width, height]])
    official = corner_boxes(geometry[None], view_size=(side, side), picture_size=size)
    x0, x1 = j / (width - 1), (j + w - 1) / (width - 1)
    x0, x1 = (x1, x0) if flip else (x0, x1)
    expected = boxes((x0, i / (height - 1), x1, (i + h - 1) / (height - 1)))
    torch.testing.assert_close(official, expected.float(), atol=1e-5, rtol=0)
    exact = cells_of_views(geometry[None], grid, view_size=(side, side), picture_size=size).centers
    in_pixels = view_cell_centers(official, grid).centers * (size - 1)  # pixel centres from 0 to W - 1
    away = (in_pixels - (exact * size - 0.5)).abs()
    assert away[..., 0].max() <= 0.5 - 0.5 / grid[1] + 1e-4
    assert away[..., 1].max() <= 0.5 - 0.5 / grid[0] + 1e-4


def test_pictures_of_one_pixel_and_turned_views_have_no_such_box():
    with pytest.raises(UserError, match="two pixels"):
        corner_boxes(torch.eye(3)[None], view_size=(4, 4), picture_size=torch.tensor([[1, 9]]))
    turn = torch.tensor([[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, 1.0]])
    with pytest.raises(UserError, match="turned"):
        corner_boxes(turn[None], view_size=(4, 4), picture_size=torch.tensor([[9, 9]]))


def test_a_turned_cell_keeps_its_diagonal():
    turn = torch.tensor([[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, 1.0]])
    plain, turned = (cells_of_views(m[None], (2, 2), view_size=(8, 8)) for m in (torch.eye(3), turn))
    torch.testing.assert_close(plain.diagonal, turned.diagonal)
    assert plain.diagonal.item() == pytest.approx(32**0.5)


def test_a_picture_s_size_makes_shares_of_pixels():
    """Twice as wide as high: two pixels to the right are as far as one down."""
    cells = cells_of_views(torch.eye(3)[None], (2, 2), view_size=(8, 16), picture_size=torch.tensor([[16, 8]]))
    torch.testing.assert_close(cells.centers, view_cell_centers(torch.tensor([FULL]), (2, 2)).centers)
    assert cells.diagonal.item() == pytest.approx(0.5**0.5)


def test_a_mask_in_strips_is_the_whole(monkeypatch):
    one, other = (
        boxes((0.1, 0.2, 0.5, 0.8), FULL, (0, 0, 0.3, 0.3)),
        boxes((0.6, 0.1, 0.2, 0.7), FULL, (0.5, 0.5, 1, 1)),
    )
    near = NearCells(view_cell_centers(one, (5, 4)), view_cell_centers(other, (3, 6)))
    whole, counts = near.whole(), near.counts()
    assert near.shape == whole.shape == (3, 20, 18)
    assert torch.equal(near.mT.whole(), whole.mT)
    monkeypatch.setattr(cell_pairs, "PAIRS", 50)  # two rows at a time
    assert torch.equal(near.counts(), counts)
    assert torch.equal(counts, whole.sum(-1))
    parts = [(p, r) for p, r in cell_pairs.strips(*near.shape)]
    assert len(parts) == 3 * 10
    assert torch.equal(torch.cat([near.strip(p, r) for p, r in parts], 1).view(3, 20, 18), whole)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: view_cell_centers(torch.zeros(2, 3), (7, 7)), "boxes"),
        (lambda: view_cell_centers(torch.zeros(2, 4), (7, 0)), "grid"),
        (lambda: cells_of_views(torch.zeros(2, 2, 3), (7, 7), view_size=(8, 8)), "geometry"),
        (
            lambda: cells_of_views(torch.eye(3)[None], (2, 2), view_size=(8, 8), picture_size=torch.ones(3)),
            "picture_size",
        ),
        (lambda: cells_of_map(torch.zeros(1, 3, 4, 4), (2, 2)), "coordinates"),
        (lambda: pixel_positive_mask(torch.ones(1, 4), torch.ones(1, 4), (2, 2), 0.0), "threshold"),
        (lambda: pixel_positive_mask(torch.ones(1, 4), torch.ones(2, 4), (2, 2)), "same pictures"),
    ],
)
def test_mistakes_are_sentences(call, message):
    with pytest.raises(UserError, match=message):
        call()
