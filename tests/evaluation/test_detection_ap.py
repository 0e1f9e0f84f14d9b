"""COCO's average precision of known detections, and the protocol around it."""

import math

import pytest
import torch
from PIL import Image

from nearfar.data.sources.source import Records
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.evaluation.detection.average_precision import average_precision
from nearfar.evaluation.detection.boxes_figure import boxes_figure

pytest.importorskip("pycocotools")

A, B = (0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 30.0, 30.0)


def test_right_wrong_and_half_right():
    truth = [{"boxes": [A, B], "labels": [0, 1]}, {"boxes": [A], "labels": [0]}]
    perfect = [{**each, "scores": [0.9] * len(each["labels"])} for each in truth]
    assert average_precision(truth, perfect, 3).mean() == (1, 1)
    assert math.isnan(average_precision(truth, perfect, 3).ap[2])
    # Overlap 0.8: right up to 0.8, so at seven of ten thresholds.
    narrow = [
        {"boxes": [(0, 0, 10, 8), B], "scores": [0.9, 0.8], "labels": [0, 1]},
        perfect[1] | {"boxes": [(0, 0, 8, 10)]},
    ]
    scored = average_precision(truth, narrow, 2)
    assert scored.ap.tolist() == pytest.approx([0.7, 1])
    assert scored.ap50.tolist() == pytest.approx([1, 1])
    assert scored.mean([0])[0] == pytest.approx(0.7)
    none = [{"boxes": [], "scores": [], "labels": []}] * 2
    assert average_precision(truth, none, 2).mean() == (0, 0)


def test_the_first_box_counts_as_others_do():
    truth = [{"boxes": [A], "labels": [0]}]
    assert average_precision(truth, [{"boxes": [A], "scores": [0.3], "labels": [0]}], 1).ap50.tolist() == pytest.approx(
        [1]
    )


def test_a_wrong_one_before_costs_half_and_a_crowd_nothing():
    truth = [{"boxes": [A], "labels": [0]}]
    before = [{"boxes": [B, A], "scores": [0.9, 0.8], "labels": [0, 0]}]
    assert average_precision(truth, before, 1).ap50.tolist() == pytest.approx([0.5])
    crowd = [{"boxes": [A, B], "labels": [0, 0], "crowd": [False, True]}]
    assert average_precision(crowd, before, 1).ap50.tolist() == pytest.approx([1])


def test_where_not_all_have_boxes_one_that_meets_none_is_not_wrong():
    truth = [{"boxes": [A], "labels": [0], "not_exhaustive": [0]}, {"boxes": [A], "labels": [0]}]
    both = [{"boxes": [B, A], "scores": [0.9, 0.8], "labels": [0, 0]}, {"boxes": [A], "scores": [0.7], "labels": [0]}]
    assert average_precision(truth, both, 1).ap50.tolist() == pytest.approx([1])
    assert average_precision([truth[0], truth[1]], both[::-1], 1).ap50.tolist() == pytest.approx([2 / 3], abs=0.01)
    other_class = [{**truth[0], "not_exhaustive": [1]}, truth[1]]
    assert average_precision(other_class, both, 2).ap50[0] == pytest.approx(2 / 3, abs=0.01)
    # Overlap 0.8 is right up to there, and beyond it meets no box, which costs no precision.
    narrow = [{"boxes": [(0, 0, 10, 8), A], "scores": [0.9, 0.8], "labels": [0, 0]}, both[1]]
    assert average_precision(truth, narrow, 1).ap[0] > average_precision(truth[1:] * 2, narrow, 1).ap[0]


def test_pictures_without_boxes():
    empty = [{"boxes": [], "labels": []}]
    assert math.isnan(average_precision(empty, [{"boxes": [A], "scores": [0.5], "labels": [0]}], 1).mean()[0])
    with pytest.raises(UserError, match="1 pictures, and detections of 2"):
        average_precision(empty, empty * 2, 1)


class Oracle(torch.nn.Module):
    """Detects what it was told, in the frame of 16 pixels; alone it mistakes owls for cats."""

    image_size = 16
    frozen_copy = None

    def preprocess(self, pictures):
        return torch.zeros(len(pictures), 3, 16, 16)

    def tokenize(self, texts):
        assert texts[0] == ""
        return texts

    def encode_text(self, texts, normalize=False):
        return torch.zeros(len(texts), 2)

    def encode_image_map(self, pixels, normalize=False):
        return pixels[:, :2]

    def keep_frozen(self, model):
        self.frozen_copy = model

    def detect(self, pixels, texts, *, is_base=None, proposals=0):
        owl = 0 if self.frozen_copy is None else 1
        boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [8.0, 8.0, 16.0, 16.0]])
        each = {"boxes": boxes, "scores": torch.tensor([0.9, 0.8]), "labels": torch.tensor([0, owl])}
        return [each] * len(pixels)


@pytest.fixture
def source():
    things = [
        {"name": "cat", "box": (0, 0, 16, 16)},
        {"name": "owl", "box": (16, 16, 32, 40)},
    ]  # one leaves the picture
    records = [{"image": Image.new("RGB", (32, 32), "white"), "objects": things} for _ in range(2)]
    return Records(records, name="s", classes=["cat", "owl"])


def run(source, **options):
    return evaluate(Oracle(), source, ["detection"], options={"detection": options})["detection"]


def test_base_and_novel_classes_are_measured_apart(source):
    alone, joined = run(source, base=["cat"]), run(source, base=["cat"], frozen="before")
    assert (alone["AP50_base"], alone["AP50_novel"], alone["AP50"]) == (1, 0, 0.5)
    assert (joined["AP50_base"], joined["AP50_novel"], joined["AP"]) == (1, 1, 1)
    assert joined.by["class"]["owl"]["AP50"].value == 1
    assert "AP50_novel" not in run(source).metrics


def test_only_names_that_were_looked_for_count(source):
    records = [{**record, "objects": record["objects"][1:], "checked": ["owl"]} for record in source]
    one = run(Records(records, name="s", classes=["cat", "owl"]))
    assert one["AP50"] == 0
    assert one.details["examples"][0]["detections"] == []


def test_a_record_says_of_which_names_not_all_have_boxes(source):
    first, second = source
    for extra, expected in (({}, 0.5), ({"not_exhaustive": ["owl"]}, 0.5), ({"not_exhaustive": ["cat", "bat"]}, 1.0)):
        records = [{**first, "objects": first["objects"][1:], **extra}, second]
        scored = run(Records(records, name="s", classes=["cat", "owl"]))
        assert scored.by["class"]["cat"]["AP50"].value == pytest.approx(expected, abs=0.01)


def test_boxes_around_many_need_not_be_found(source):
    many = {"name": "cat", "box": (20, 0, 32, 10), "crowd": True}
    records = [{**record, "objects": [record["objects"][0], many]} for record in source]
    assert run(Records(records, name="s", classes=["cat", "owl"]))["AP50"] == 1


def test_boxes_are_drawn(source):
    blocks = boxes_figure({"detection": run(source)}, source)
    assert len(blocks) == 1
    assert blocks[0].examples[0].pictures[0].alt == "boxes of cat, owl"
    assert blocks[0].examples[0].pictures[1].url.startswith("data:image/webp")


def test_what_cannot_be_measured(source):
    with pytest.raises(UserError, match="base has 'bat'"):
        run(source, base=["bat"])
    with pytest.raises(UserError, match="'owl', which is none of the classes"):
        run(source, classes=["cat"])
    with pytest.raises(UserError, match="names no classes"):
        run(Records(list(source), name="s"))


def test_boxes_away_from_the_corner_overlap_as_they_lie():
    # Overlap 0.8; right and bottom taken as width and height would make it 0.9.
    truth, narrow = {"boxes": [(10, 10, 20, 20)], "labels": [0]}, {"boxes": [(10, 10, 20, 18)], "labels": [0]}
    assert average_precision([truth], [{**narrow, "scores": [0.9]}], 1).ap.tolist() == pytest.approx([0.7])
