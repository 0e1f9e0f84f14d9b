"""Pairs of pictures that hardly differ: figures by hand, and the protocol on models that see, and that do not."""

import pytest
import torch
from PIL import Image

from nearfar.data import Records
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.evaluation.measures.visual_contrasts import (
    likelihood_ordering_rate,
    paired_accuracy,
    visual_dependency,
)
from nearfar.evaluation.needs import missing_in_model, missing_in_source
from nearfar.models.vlm.vision_language_model import CaptionLikelihoods

SHADES = {"dark": 50.0, "light": 200.0}


class Shades(torch.nn.Module):
    """Finds "dark" the likelier the darker a picture is, as far as it looks; a text of two tokens, the second of them
    always the same. Without a picture it finds each text `habit` of them likely."""

    image_size = 8

    def __init__(self, looks=1.0, habit=None):
        super().__init__()
        self.looks, self.habit, self.prompts = looks, habit or {"dark": 0.0, "light": 0.0}, []

    def preprocess(self, pictures):
        return torch.tensor([float(picture.getpixel((0, 0))[0]) for picture in pictures])

    def tokenize(self, texts):
        return texts

    def likelihoods(self, pixels, tokens, prompt=None):
        self.prompts.append(prompt)
        shades = torch.tensor([SHADES[text] for text in tokens])
        own = -self.looks * (pixels - shades).abs() / 100 if pixels is not None else torch.full_like(shades, -0.75)
        own = own + torch.tensor([self.habit[text] for text in tokens])
        return CaptionLikelihoods(torch.stack([own, torch.full_like(own, -1.0)], 1), torch.ones(len(own), 2).bool())


def pairs(*shades, **more):
    rows = []
    for first, second in shades:
        pictures = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (first, second)]
        rows.append({"image": pictures[0], "image2": pictures[1], "text": "dark", "text2": "light"} | more)
    return Records(rows, name="shades")


def measured(model, source, **options):
    return evaluate(model, source, ["contrasts"], options={"contrasts": options})["contrasts"]


def test_figures_by_hand():
    """Of (100, 125) both texts are nearer to their own picture, but the second picture is as far from both."""
    result = measured(Shades(), pairs((50, 200), (100, 125)))
    assert result["paired_accuracy"] == 0.5, "a tie is wrong"
    assert result["accuracy"] == 0.75
    assert result["pictures"] == 1.0
    # With their own pictures 0, 0, -0.5 and -0.75; with the others -1.5, -1.5, -0.75 and -1; without -0.75.
    assert result["attend"] == 0.75
    assert result["reject"] == 0.75
    assert result["ordering"] == 0.5
    assert result["visual_dependency"] == pytest.approx((0.75 + 0.75 + 0.25 + 0) / 4 / 2)
    assert result.metrics["paired_accuracy"].chance == 0.25
    assert (result.metrics["paired_accuracy"].n, result.metrics["ordering"].n) == (2, 4)


def test_who_does_not_look_gets_nothing():
    result = measured(Shades(looks=0.0, habit={"dark": 0.5, "light": 0.0}), pairs((50, 200), (20, 220)))
    assert result["paired_accuracy"] == 0
    assert result["accuracy"] == 0.5, "one habit is right in one picture of each pair"
    assert result["pictures"] == 0


def test_batches_limits_and_kinds():
    source = pairs((50, 200), (100, 125), (200, 50))
    whole = measured(Shades(), source)
    assert measured(Shades(), source, batch_size=2)["accuracy"] == whole["accuracy"]
    assert measured(Shades(), source, limit=1)["paired_accuracy"] == 1
    kinds = Records([record | {"kind": kind} for record, kind in zip(source, "aba", strict=True)], name="kinds")
    by = measured(Shades(), kinds).by["kind"]
    assert (by["a"]["accuracy"].value, by["b"]["accuracy"].value) == (0.5, 0.5)
    assert by["a"]["paired_accuracy"].n == 2


def test_records_bring_their_prompts_unless_one_is_said():
    model = Shades()
    measured(model, pairs((50, 200), prompt="how is it?"))
    assert model.prompts == [["how is it?"] * 2] * 3
    model = Shades()
    measured(model, pairs((50, 200), prompt="how is it?"), prompt="say:")
    assert model.prompts == ["say:"] * 3


def test_what_is_missing_is_named():
    source = pairs((50, 200))
    assert missing_in_source("contrasts", source) is None
    assert missing_in_model("contrasts", Shades()) is None
    assert "does not say how likely a text is" in missing_in_model("contrasts", torch.nn.Linear(1, 1))
    alone = Records([{"image": "a.png", "text": "dark"}], name="alone")
    assert "alone has no second pictures" in missing_in_source("contrasts", alone)
    broken = Records([{**source[0], "image2": b"none"}], name="broken")
    with pytest.raises(UserError, match="broken"):
        measured(Shades(), broken)
    result = measured(Shades(), source + broken, max_skipped=0.6)
    assert (result.metrics["paired_accuracy"].n, result.details["skipped"]) == (1, 1)
    with pytest.raises(UserError, match="limit"):
        measured(Shades(), source, limit=0)


def test_measures_by_hand():
    own, alone, other = torch.tensor([[-1.0, -2.0, -1.0, -3.0], [-2.0, -2.0, -2.0, -2.0], [-3.0, -3.0, -1.5, -4.0]])
    assert likelihood_ordering_rate(own, alone, other) == 0.25
    assert likelihood_ordering_rate(own, own, own) == 0
    assert paired_accuracy(torch.tensor([[1, 1], [1, 0], [0, 0], [1, 1]])) == 0.5
    assert visual_dependency(torch.tensor([1, 1, 0]), torch.tensor([1, 0, 0])) == pytest.approx(1 / 3)
    with pytest.raises(UserError, match="three of one shape"):
        likelihood_ordering_rate(own, alone[:2], other)
    with pytest.raises(UserError, match=r"shape \[N, 2\]"):
        paired_accuracy(torch.ones(3))
    with pytest.raises(UserError, match="two of one shape"):
        visual_dependency(own[:0], own[:0])
