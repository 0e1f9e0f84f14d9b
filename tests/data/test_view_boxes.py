"""Boxes under crops and mirrors: which are left, cut where, and with their texts and masks."""

import pytest
import torch
from PIL import Image

from nearfar.data import Loader, Records
from nearfar.data.pictures.view_boxes import boxes_in_view
from nearfar.data.pictures.view_geometry import from_box, pixel_matrix
from nearfar.data.pictures.views import ViewPreset
from nearfar.errors import UserError

BOXES = torch.tensor([[1.0, 1, 3, 3], [6, 6, 9, 9], [4, 4, 7, 7]])
TEXTS = ["a", "b", "c"]


def geometry_of(box, flip=False, size=10, view=10):
    """Of a crop `(left, top, width, height)` in shares, made `view` pixels a side."""
    matrix = from_box(torch.tensor([box]), torch.tensor([flip]))
    return pixel_matrix(matrix, torch.tensor([[float(size), float(size)]]), view, cropped=False)[0]


def test_a_crop_keeps_what_it_shows_cut_to_its_edge_and_the_texts_of_these():
    boxes, shown = boxes_in_view(BOXES, torch.eye(3), (5, 10))
    assert boxes.tolist() == [[1, 1, 3, 3], [4, 4, 5, 7]]
    assert [text for text, here in zip(TEXTS, shown.tolist(), strict=True) if here] == ["a", "c"]


def test_a_box_that_only_touches_the_edge_is_not_shown():
    boxes, shown = boxes_in_view(torch.tensor([[5.0, 0, 9, 10], [0, 0, 5, 10]]), torch.eye(3), (5, 10))
    assert shown.tolist() == [False, True]
    assert boxes.tolist() == [[0, 0, 5, 10]]


def test_a_mirror_takes_edges_to_width_minus_x():
    """Of 25 pixels the edge 24.5 goes to 0.5."""
    box = torch.tensor([[20.0, 2, 24.5, 5]])
    mirrored, _ = boxes_in_view(box, geometry_of((0.0, 0.0, 1.0, 1.0), flip=True, size=25, view=25), (25, 25))
    torch.testing.assert_close(mirrored, torch.tensor([[0.5, 2, 5, 5]]), atol=1e-5, rtol=0)


def test_a_crop_that_is_made_larger_scales_its_boxes():
    """The upper left quarter of 10 pixels as 20: four times as large."""
    boxes, shown = boxes_in_view(BOXES, geometry_of((0.0, 0.0, 0.5, 0.5), view=20), (20, 20))
    torch.testing.assert_close(boxes, torch.tensor([[4.0, 4, 12, 12], [16, 16, 20, 20]]), atol=1e-4, rtol=0)
    assert shown.tolist() == [True, False, True]


@pytest.mark.parametrize("size", [(40, 40), (60, 30)])
def test_they_lie_where_the_pixels_of_a_batch_s_views_do(size):
    """A white box on black, cropped and mirrored by the loader: its first and last bright pixels, to one of them, and
    on the average of all views to less than the half of one by which a wrong idea of a pixel's place would be off."""
    box = (10, 8, 22, 19)
    picture = Image.new("RGB", size)
    picture.paste((255, 255, 255), box)
    views = ViewPreset(crop=(0.4, 1.0), flip=0.5, canvas=2.0)
    loader = Loader(
        Records([{"image": picture}] * 24), batch_size=24, image_size=40, views=views, n_views=2,
        mean=(0.0,) * 3, std=(1.0,) * 3, seed=1,
    )  # fmt: skip
    batch = next(iter(loader))
    away = []
    for view in range(2):
        for pixels, geometry in zip(batch["views"][view], batch["geometry"][view], strict=True):
            boxes, shown = boxes_in_view(torch.tensor([box]).float(), geometry, (40, 40))
            bright = pixels[0] > 0.5
            if not shown.any() or (boxes[0, 2:] - boxes[0, :2]).min() < 2:
                continue  # out of sight, or a sliver
            rows, columns = bright.any(1).nonzero().flatten(), bright.any(0).nonzero().flatten()
            edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            away.append(boxes[0] - torch.stack(edges).float())
    assert len(away) > 20
    assert torch.stack(away).abs().max() <= 1.0
    assert torch.stack(away).mean(0).abs().max() < 0.2


def test_other_shapes_are_a_sentence():
    with pytest.raises(UserError, match=r"boxes are \[N, 4\] and the geometry of a view is \[3, 3\]"):
        boxes_in_view(BOXES, torch.eye(3)[None], (5, 5))
    assert boxes_in_view(BOXES[:0], torch.eye(3), (5, 5))[0].shape == (0, 4)
