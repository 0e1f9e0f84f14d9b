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
    good = {"image_id": 11, "category_id": 2, "bbox": [0, 0, 2, 2]}
    source = box_file(write(folder, [*bad, good]))
    assert [record["objects"] for record in source] == [[], [{"name": "cat", "box": (0, 0, 2, 2)}], []]
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
    assert "not_exhaustive" not in record
    images[0]["not_exhaustive_category_ids"] = [7, 99]
    assert box_file(write(folder, annotations, images=images))[0]["not_exhaustive"] == ["dog"]
    assert Image.open(record["image"]).getpixel((0, 0)) == (1, 0, 0)


@pytest.mark.parametrize("named", ["instances.json", "../annotations/instances.json", "./instances.json"])
def test_pictures_beside_the_folder_are_found_from_within_it(folder, monkeypatch, named):
    (folder / "annotations" / "deeper").mkdir(parents=True)
    write(folder, []).rename(folder / "annotations" / "instances.json")
    monkeypatch.chdir(folder / "annotations")
    assert Image.open(open_source(named)[2]["image"]).getpixel((0, 0)) == (2, 0, 0)


def test_a_parent_that_is_written_as_dots_is_the_parent(folder, monkeypatch):
    (folder / "annotations" / "deeper").mkdir(parents=True)
    write(folder, []).rename(folder / "annotations" / "instances.json")
    monkeypatch.chdir(folder / "annotations" / "deeper")
    assert Image.open(open_source("../instances.json")[2]["image"]).getpixel((0, 0)) == (2, 0, 0)


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


def test_a_file_none_of_whose_annotations_can_be_used_is_no_file_of_empty_pictures(folder):
    with pytest.raises(UserError, match=r"none of its 2 annotations can be used:\n.*of category 1, which is not there"):
        box_file(write(folder, [{"image_id": 10, "category_id": 1, "bbox": [1, 2, 3, 4]}] * 2))
    assert len(box_file(write(folder, []))) == 3, "pictures without boxes may be all there are"


def test_two_pictures_with_one_id_are_not_told_apart(folder):
    images = [{"id": 4, "file_name": f"{i}.png"} for i in range(2)]
    with pytest.raises(UserError, match="several pictures have the id 4: number them apart"):
        box_file(write(folder, [], images=images))


def test_two_categories_of_one_name_are_one_class(folder):
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 5, "name": "cat"}]
    annotations = [{"image_id": 10, "category_id": i, "bbox": [1, 2, 3, 4]} for i in (0, 5)]
    source = box_file(write(folder, annotations, categories=categories))
    assert source.classes == ["cat", "dog"]
    assert [thing["name"] for thing in source[0]["objects"]] == ["cat", "cat"]


def test_boxes_of_pictures_that_were_resized_are_not_used(folder):
    from nearfar.data.boxes.boxes_field import BoxesField

    source = box_file(write(folder, [{"image_id": 11, "category_id": 7, "bbox": [1, 2, 3, 4]}]))
    field = BoxesField(source.classes)
    assert field.prepare(source[1], None)[0].tolist() == [[1, 2, 4, 6]]
    Image.new("RGB", (10, 5)).save(folder / "val2017" / "1.png")
    with pytest.raises(UserError, match="were drawn on 20 x 10 pixels, and the picture has 10 x 5"):
        field.prepare(source[1], None)
