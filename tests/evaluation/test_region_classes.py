"""Names as classifiers of known boxes, and the pointing game, on pictures whose cells say what they show."""

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar.data.sources.source import Records
from nearfar.errors import UserError
from nearfar.evaluation import evaluate

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}


class Colours(torch.nn.Module):
    """A picture's map is its pixels, and a name's vector its colour."""

    image_size = 16

    def preprocess(self, pictures):
        arrays = [np.asarray(picture.resize((16, 16), Image.Resampling.BOX)) for picture in pictures]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255

    def tokenize(self, texts):
        return texts

    def encode_text(self, texts, normalize=False):
        return torch.tensor([COLOURS[text] for text in texts])

    def encode_image_map(self, pixels, normalize=False):
        return torch.nn.functional.avg_pool2d(pixels, 2)


def picture(*things):
    canvas = np.zeros((32, 32, 3), np.uint8)
    for name, (left, top, right, bottom) in things:
        canvas[top:bottom, left:right] = [int(255 * value) for value in COLOURS[name]]
    return Image.fromarray(canvas)


@pytest.fixture
def source():
    a, b = ("red", (0, 0, 8, 8)), ("blue", (16, 16, 32, 24))
    objects = [{"name": name, "box": box} for name, box in (a, b)]
    wrong = [{"name": "green", "box": (0, 0, 8, 8)}]  # the box of a red thing
    return Records([{"image": picture(a, b), "objects": objects}, {"image": picture(a), "objects": wrong}], name="s")


def test_boxes_are_read_in_the_frame_of_the_model(source):
    result = evaluate(Colours(), source, ["regions"], options={"regions": {"classes": list(COLOURS)}})["regions"]
    assert result["region_accuracy"] == pytest.approx(2 / 3)
    assert result.metrics["region_accuracy"].chance == pytest.approx(1 / 3)
    assert {name: each["accuracy"].value for name, each in result.by["class"].items()} == {
        "red": 1,
        "green": 0,
        "blue": 1,
    }
    assert result.details["read"] == "map"
    # Nothing is green: the first place is taken, which the box holds by chance.
    assert result["pointing"] == 1
    assert result.metrics["pointing"].chance == pytest.approx((64 + 128 + 64) / 3 / 1024)
    assert result.metrics["pointing"].n == 3


def test_a_head_is_read_where_there_is_one(source):
    class Head(Colours):
        def encode_regions(self, pixels, boxes):
            return torch.tensor(COLOURS["green"]).expand(*boxes.shape[:2], 3)

    result = evaluate(Head(), source, ["regions"])["regions"]
    assert result.details["classes"] == ["blue", "green", "red"]
    assert result["region_accuracy"] == pytest.approx(1 / 3)
    assert evaluate(Head(), source, ["regions"], options={"regions": {"read": "map"}})["regions"][
        "region_accuracy"
    ] == pytest.approx(2 / 3)


def test_what_cannot_be_measured(source):
    with pytest.raises(UserError, match="has no head over regions"):
        evaluate(Colours(), source, ["regions"], options={"regions": {"read": "head"}})
    with pytest.raises(UserError, match="'red', which is none of the classes"):
        evaluate(Colours(), source, ["regions"], options={"regions": {"classes": ["blue"]}})
    with pytest.raises(UserError, match="choose auto, head or map"):
        evaluate(Colours(), source, ["regions"], options={"regions": {"read": "all"}})
    empty = Records([{"image": picture(), "objects": []}], name="empty")
    with pytest.raises(UserError, match="empty has no box"):
        evaluate(Colours(), empty, ["regions"], options={"regions": {"classes": ["blue"]}})
    broken = Records([{"image": picture(), "objects": [{"name": "blue", "box": (1, 2)}]}], name="broken")
    with pytest.raises(UserError, match="broken"):
        evaluate(Colours(), broken, ["regions"], options={"regions": {"classes": ["blue"]}})
