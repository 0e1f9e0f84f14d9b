"""Captions that a model writes, against those of the records: by hand, with a model that says what it is to say."""

import math

import pytest
import torch
from PIL import Image

from nearfar.data import Records
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.evaluation.language.caption_accuracy import token_f1
from nearfar.evaluation.needs import missing_in_model, missing_in_source
from nearfar.models.vlm.vision_language_model import CaptionLikelihoods

SAID = {10: "a red  Car", 20: "a dog", 30: "the old house"}
"""What it writes of pictures of these shades."""


class Parrot(torch.nn.Module):
    """A caption's tokens have a likelihood of 1/2 with a picture whose shade is the number of its letters, else 1/8."""

    image_size = 4

    def preprocess(self, pictures):
        return torch.tensor([picture.getpixel((0, 0))[0] for picture in pictures])

    def caption(self, pixels, prompt=None, *, max_tokens=None):
        return [" ".join(SAID[shade].split(" ")[:max_tokens]) for shade in pixels.tolist()]

    def tokenize(self, texts):
        return texts

    def likelihoods(self, pixels, tokens, prompt=None):
        length = max(len(text.split()) for text in tokens)
        own = pixels == torch.tensor([10 * (1 + len(text) // 6) for text in tokens])
        score = torch.where(own, math.log(0.5), math.log(0.125))[:, None].expand(-1, length)
        mask = torch.arange(length) < torch.tensor([[len(text.split())] for text in tokens])
        return CaptionLikelihoods(score.double() * mask, mask)


def photos(*rows):
    records = [{"image": Image.new("RGB", (8, 8), (shade,) * 3), "text": text} for shade, text in rows]
    return Records(records, name="photos")


def test_figures_by_hand():
    source = photos((10, ["a red car", "a blue car"]), (20, "a dog"), (30, "an old house"))
    [result] = evaluate(Parrot(), source, ["captioning"]).values()
    # Shades of 10 * (1 + letters // 6): 9 letters are 20, 5 are 10, 12 are 30.
    assert result["exact"] == pytest.approx(2 / 3)
    assert result["token_f1"] == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert result["log_likelihood"] == pytest.approx((math.log(0.125) * 2 + math.log(0.5)) / 3)
    # The next picture is another's: of the first caption it is the right one, of the third that of none.
    assert result["gain"] == pytest.approx((-math.log(4) + 0 + math.log(4)) / 3)
    assert result["own_picture"] == pytest.approx((0 + 0.5 + 1) / 3)
    assert result.metrics["own_picture"].chance == 0.5
    assert [each["row"] for each in result.details["failures"]] == [2]
    short = evaluate(Parrot(), source, ["captioning"], options={"captioning": {"max_tokens": 1, "limit": 2}})
    assert short["captioning"]["exact"] == 0
    assert short["captioning"].metrics["exact"].n == 2


def test_a_picture_with_the_same_caption_is_no_other_picture():
    [result] = evaluate(Parrot(), photos((10, "a dog"), (20, "A dog")), ["captioning"]).values()
    assert math.isnan(result["gain"])
    assert math.isnan(result["own_picture"])
    assert result["exact"] == 0.5


def test_words_count_as_often_as_they_stand_there():
    assert token_f1("a a a", "a b") == pytest.approx(2 / 5)
    assert token_f1("B  a", "a b") == 1


def test_what_is_needed():
    assert missing_in_source("captioning", photos((10, "a dog"))) is None
    assert missing_in_model("captioning", Parrot()) is None
    assert "writes no captions" in missing_in_model("captioning", torch.nn.Linear(1, 1))
    with pytest.raises(UserError, match="photos holds no picture with a caption"):
        evaluate(Parrot(), photos((10, [])), ["captioning"])
    with pytest.raises(UserError, match="limit is 0"):
        evaluate(Parrot(), photos((10, "a dog")), ["captioning"], options={"captioning": {"limit": 0}})
    with pytest.raises(UserError, match="retrieval cannot be measured: a Parrot does not embed pictures"):
        evaluate(Parrot(), photos((10, "a dog")), ["retrieval"])  # which is no fault of the photos


def test_broken_pictures_are_left_out():
    source = photos((10, "a red car"), (20, "a dog"))
    broken = Records([*source, {"image": b"no picture", "text": "a cat"}], name="photos")
    [result] = evaluate(Parrot(), broken, ["captioning"], options={"captioning": {"max_skipped": 0.5}}).values()
    assert (result.metrics["exact"].n, result.details["skipped"]) == (2, 1)
    with pytest.raises(UserError):
        evaluate(Parrot(), broken, ["captioning"])
