"""Things of records: names and boxes, cut to the picture and to what a model sees of it."""

import pytest

from nearfar.data.boxes.objects import in_frame, things_in
from nearfar.data.sources.skipped import BadRecord


def test_boxes_are_cut_to_the_picture_and_those_outside_counted():
    record = {
        "objects": [
            {"name": "a", "box": [1, 1, 3, 3]},
            {"phrase": "b", "box": (6, 6, 9, 99)},
            {"name": "c", "box": (10, 1, 12, 3), "crowd": True},
            {"name": "d", "box": (4, 4, 4, 8)},
        ]
    }
    things, outside = things_in(record, 10, 10)
    assert [(each.name, each.box) for each in things] == [("a", (1, 1, 3, 3)), ("b", (6, 6, 9, 10))]
    assert outside == 2
    assert things_in({"objects": []}, 4, 4) == ([], 0)


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (None, "no list of objects"),
        ([{"box": (0, 0, 1, 1)}], "has no name"),
        (["cat"], "has no name"),
        ([{"name": "cat"}], "is no left, top, right and bottom"),
        ([{"name": "cat", "box": (0, 0, 1)}], "is no left, top, right and bottom"),
        ([{"name": "cat", "box": (0, 0, float("nan"), 1)}], "not finite"),
    ],
)
def test_objects_that_are_none(objects, message):
    with pytest.raises(BadRecord, match=message):
        things_in({"objects": objects}, 4, 4)


def test_a_padded_picture_keeps_its_boxes_in_place():
    # 1920 x 1080 in the middle of a square of 1920: unit box (0, 0, .5, .5) of the square ends at the height of 960.
    window = (0.0, -420.0, 1920.0, 1500.0)
    assert in_frame((0, 0, 960, 540), window, 1920) == (0, 420, 960, 960)
    # Padded to the right and below.
    assert in_frame((0, 960, 1920, 1080), (0, 0, 1920, 1920), 1920) == (0, 960, 1920, 1080)
    assert in_frame((0, 0, 960, 960), (0, 0, 1920, 1920), 1) == (0, 0, 0.5, 0.5)


def test_what_a_model_does_not_see_has_no_box():
    assert in_frame((0, 0, 4, 10), (5, 0, 15, 10), 20) is None
    assert in_frame((0, 0, 6, 10), (5, 0, 15, 10), 20) == (0, 0, 2, 20)


def test_a_box_around_many_stays_one():
    record = {"objects": [{"name": "a", "box": (0, 0, 4, 4), "crowd": True}, {"name": "a", "box": (0, 0, 2, 2)}]}
    assert [thing.crowd for thing in things_in(record, 8, 8)[0]] == [True, False]
