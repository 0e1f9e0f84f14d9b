"""Boxes, random boxes, NMS and RoIAlign, against numbers worked out by hand and against slow loops."""

import math

import pytest
import torch

from nearfar.errors import UserError
from nearfar.ops.regions import box_areas, box_iou, nms, rescale_boxes, roi_align, sample_random_boxes


def slow_roi_align(maps, box, size, ratio, aligned):
    """One map `[C, H, W]` and one box in its cells, sample by sample."""
    x0, y0, x1, y1 = (value - (0.5 if aligned else 0) for value in box.tolist())
    width, height = x1 - x0, y1 - y0
    if not aligned:
        width, height = max(width, 1.0), max(height, 1.0)
    rows, columns = maps.shape[1:]

    def at(y, x):
        if y < -1 or y > rows or x < -1 or x > columns:
            return maps.new_zeros(len(maps))
        y, x = min(max(y, 0.0), rows - 1), min(max(x, 0.0), columns - 1)
        low_y, low_x = math.floor(y), math.floor(x)
        high_y, high_x = min(low_y + 1, rows - 1), min(low_x + 1, columns - 1)
        fy, fx = y - low_y, x - low_x
        top = maps[:, low_y, low_x] * (1 - fx) + maps[:, low_y, high_x] * fx
        bottom = maps[:, high_y, low_x] * (1 - fx) + maps[:, high_y, high_x] * fx
        return top * (1 - fy) + bottom * fy

    out = maps.new_zeros(len(maps), size, size)
    n = size * ratio
    for i in range(n):
        for j in range(n):
            sample = at(y0 + (i + 0.5) * height / n, x0 + (j + 0.5) * width / n)
            out[:, i // ratio, j // ratio] += sample / ratio**2
    return out


BOXES = torch.tensor(
    [[1.0, 1.0, 3.0, 3.0], [0.2, 0.7, 4.9, 3.3], [-3.0, -2.0, 2.0, 8.0], [4.5, 5.5, 4.6, 5.6], [5.0, 5.0, 9.0, 9.0]],
    dtype=torch.float64,
)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("size", "ratio"), [(1, 3), (2, 2), (3, 1)])
def test_roi_align_is_that_of_a_slow_loop(aligned, size, ratio):
    maps = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    cut = roi_align(maps, BOXES.expand(2, -1, -1), size, sampling_ratio=ratio, aligned=aligned)
    assert cut.shape == (2, len(BOXES), 3, size, size)
    for b in range(2):
        for r, box in enumerate(BOXES):
            torch.testing.assert_close(cut[b, r], slow_roi_align(maps[b], box, size, ratio, aligned))


def test_roi_align_of_a_known_map():
    maps = torch.arange(25.0).view(1, 1, 5, 5)
    box = torch.tensor([[[1.0, 1.0, 3.0, 3.0]]])
    assert roi_align(maps, box, 2)[0, 0, 0].tolist() == [[6, 7], [11, 12]]
    assert roi_align(maps, box, 2, aligned=False)[0, 0, 0].tolist() == [[9, 10], [14, 15]]
    # Pixels of a picture with four to a cell.
    assert torch.equal(roi_align(maps, 4 * box, 2, stride=4), roi_align(maps, box, 2))


def test_roi_align_has_exact_gradients_of_maps_and_of_boxes():
    maps = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[[0.31, 0.4, 3.17, 2.9]]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, b: roi_align(m, b, 2), (maps, boxes))


def test_a_box_of_the_whole_picture_with_a_sample_for_each_cell_is_the_mean():
    maps = torch.randn(2, 3, 6, 6)
    whole = torch.tensor([0.0, 0.0, 48.0, 48.0]).expand(2, 1, 4)
    torch.testing.assert_close(roi_align(maps, whole, 1, stride=8, sampling_ratio=6)[:, 0, :, 0, 0], maps.mean((2, 3)))


@pytest.mark.parametrize(
    ("maps", "boxes", "size"), [((3, 4, 4), (1, 1, 4), 2), ((1, 3, 4, 4), (2, 1, 4), 2), ((1, 3, 4, 4), (1, 1, 4), 0)]
)
def test_roi_align_refuses_what_does_not_go_together(maps, boxes, size):
    with pytest.raises(UserError, match=r"maps are \[B, C, H, W\]|numbers from 1 on"):
        roi_align(torch.zeros(maps), torch.zeros(boxes), size)


def test_overlap_of_boxes():
    a = torch.tensor([0.0, 0.0, 4.0, 2.0])
    others = torch.tensor([[2.0, 0.0, 6.0, 2.0], [0.0, 0.0, 4.0, 2.0], [4.0, 0.0, 6.0, 2.0], [3.0, 1.0, 3.0, 1.0]])
    assert box_iou(a, others).tolist() == pytest.approx([1 / 3, 1, 0, 0])
    assert box_areas(others).tolist() == [8, 8, 4, 0]
    empty = torch.zeros(4)
    assert box_iou(empty, empty).item() == 0


def test_boxes_shrink_about_their_centres():
    box = torch.tensor([20.0, 10.0, 100.0, 50.0])  # (y, x, y, x) = (10, 20, 50, 100)
    assert rescale_boxes(box, (60, 120), 0.7).tolist() == pytest.approx([32, 16, 88, 44])
    assert torch.equal(rescale_boxes(box, (60, 120), 1.0), box)
    large = rescale_boxes(box, (60, 120), 3.0)
    assert large.tolist() == [0, 0, 120, 60]
    with pytest.raises(UserError, match="above 0"):
        rescale_boxes(box, (60, 120), 0.0)


def slow_nms(boxes, scores, threshold):
    kept = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if all(box_iou(boxes[i], boxes[k]) <= threshold for k in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("threshold", [0.1, 0.5, 1.0])
def test_nms_is_that_of_a_slow_loop(threshold):
    generator = torch.Generator().manual_seed(1)
    boxes = sample_random_boxes(40, size=(0.3, 0.6), generator=generator)
    scores = torch.rand(40, generator=generator)
    scores[3] = scores[7]
    label = torch.randint(3, (40,), generator=generator)
    assert nms(boxes, scores, threshold).tolist() == slow_nms(boxes, scores, threshold)
    kept = nms(boxes, scores, threshold, label).tolist()
    alone = [(label == k).nonzero().flatten() for k in range(3)]
    each = [rows[slow_nms(boxes[rows], scores[rows], threshold)] for rows in alone]
    assert sorted(kept) == sorted(torch.cat(each).tolist())
    assert nms(boxes[:0], scores[:0], threshold).tolist() == []


def test_random_boxes_are_as_drawn():
    boxes = sample_random_boxes(2000, size=(0.1, 0.2), aspect=(0.5, 2.0), generator=torch.Generator().manual_seed(0))
    sides = boxes[:, 2:] - boxes[:, :2]
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    inside = ((boxes > 0) & (boxes < 1)).all(1)
    side, aspect = (sides[inside].prod(1)).sqrt(), sides[inside, 0] / sides[inside, 1]
    assert 0.1 <= side.min() < 0.11
    assert 0.19 < side.max() <= 0.2001
    assert 0.5 <= aspect.min() < 0.52
    assert 1.98 < aspect.max() <= 2.001
    again = sample_random_boxes(2000, size=(0.1, 0.2), aspect=(0.5, 2.0), generator=torch.Generator().manual_seed(0))
    assert torch.equal(boxes, again)


@pytest.mark.parametrize("settings", [{"size": (0, 0.5)}, {"size": (0.5, 1.5)}, {"aspect": (2, 0.5)}])
def test_random_boxes_refuse_ranges_that_are_none(settings):
    with pytest.raises(UserError, match=r"size|aspect"):
        sample_random_boxes(1, **settings)


def test_aspect_is_width_over_height():
    boxes = sample_random_boxes(50, size=(0.01, 0.02), aspect=(2, 3), generator=torch.Generator().manual_seed(0))
    inside = boxes[((boxes > 0) & (boxes < 1)).all(1)]
    ratio = (inside[:, 2] - inside[:, 0]) / (inside[:, 3] - inside[:, 1])
    assert 1.99 < ratio.min() < ratio.max() < 3.01
