"""Files of boxes as COCO and LVIS publish them, and what real ones have wrong."""

import json

import pytest
from PIL import Image

from nearfar.data import open_source
from nearfar.data.boxes.box_files import box_file, holds_boxes
from nearfar.errors import UserError

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 2, "name": "cat", "frequency": "r"}]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "val2017").mkdir()
    for i in range(3):
        Image.new("RGB", (20, 10), (i, 0, 0)).save(tmp_path / "val2017" / f"{i}.png")
    return tmp_path


def write(folder, annotations, **changes):
    images = [{"id": 10 + i, "file_name": f"{i}.png", "width": 20, "height": 10} for i in range(3)]
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES} | changes
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_coco(folder):
    annotations = [
        {"id": 0, "image_id": 10, "category_id": 7, "bbox": [1, 2, 3, 4]},  # no area, and id 0
        {"id": 5, "image_id": 12, "category_id": 2, "bbox": [15, 5, 10, 10], "area": 9, "iscrowd": 1},
    ]
    source = open_source(str(write(folder, annotations)))
    assert source.classes == ["cat", "dog"]
    assert [record["objects"] for record in source] == [
        [{"name": "dog", "box": (1, 2, 4, 6)}],
        [],
        [{"name": "cat", "box": (15, 5, 25, 15), "crowd": True}],
    ]
    assert source[1]["width"] == 20
    assert Image.open(source[2]["image"]).getpixel((0, 0)) == (2, 0, 0)
    assert source.skipped.count == 0


def test_what_cannot_be_used_is_counted_and_said(folder):
    bad = [
        {"image_id": 99, "category_id": 7, "bbox": [1, 2, 3, 4]},
        {"image_id": 10, "category_id": 1, "bbox": [1, 2, 3, 4]},
        {"image_id": 10, "category_id": 7, "bbox": [1, 2, 0, 4]},
        {"image_id": 10, "category_id": 7, "bbox": [1, 2, 4]},
        {"image_id": 10, "category_id": 7},
        {"image_id": 10, "category_id": 7, "bbox": [1, 2, float("nan"), 4]},
        3,
    ]
    source = box_file(write(folder, bad))
    assert [record["objects"] for record in source] == [[], [], []]
    assert source.skipped.count == 7
    reasons = [problem.why for problem in source.skipped.problems]
    assert reasons[:3] == [
        "it is of picture 99, which is not there",
        "it is of category 1, which is not there",
        "its bbox [1, 2, 0, 4] is empty",
    ]
    assert "annotation 1" in source.skipped.problems[0].where


def test_lvis_names_its_pictures_otherwise_and_says_what_was_looked_for(folder):
    images = [{"id": 1, "coco_url": "http://images/val2017/1.png", "neg_category_ids": [2], "height": 10, "width": 20}]
    annotations = [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 2, 2], "area": 4}]
    record = box_file(write(folder, annotations, images=images))[0]
    assert record["checked"] == ["cat", "dog"]
    assert Image.open(record["image"]).getpixel((0, 0)) == (1, 0, 0)


def test_other_files_are_none_of_these(folder):
    captions = {"images": [{"id": 1, "file_name": "1.png"}], "annotations": [{"image_id": 1, "caption": "a cat"}]}
    (folder / "captions.json").write_text(json.dumps(captions))
    assert not holds_boxes(folder / "captions.json")
    assert holds_boxes(write(folder, []))
    with pytest.raises(UserError, match="it is no file of boxes"):
        box_file(folder / "captions.json")
    with pytest.raises(UserError, match="no such file"):
        box_file(folder / "none.json")
    (folder / "cut.json").write_text('{"images": [')
    with pytest.raises(UserError, match="is not JSON"):
        box_file(folder / "cut.json")
