"""SugarCrepe by its strict rule and Winoground's three scores: by hand, from files, and what damaged files say."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar.data import Records
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.evaluation.compositionality.choice import ChoiceQuestion
from nearfar.evaluation.compositionality.sugarcrepe import strict_choice, sugarcrepe_cases
from nearfar.evaluation.compositionality.winoground import winoground_examples, winoground_scores


class Reds:
    """A picture is its mean red, a caption how often it says red."""

    embed_dim, image_size = 2, 4

    def preprocess(self, images):
        return torch.tensor([[np.asarray(each)[..., 0].mean() / 255, 1.0] for each in images])

    def encode_image(self, pixels, normalize=False):
        return pixels.float()

    def tokenize(self, texts):
        return torch.tensor([[float(text.split().count("red")), 1.0] for text in texts])

    def encode_text(self, tokens, normalize=False):
        return tokens


class Constant(Reds):
    def encode_text(self, tokens, normalize=False):
        return torch.ones(len(tokens), 2)


def test_the_strict_rule_by_hand():
    kinds = ["swap_obj", "swap_obj", "swap_att", "replace_rel", "add_att"]
    cases = [ChoiceQuestion(f"{i}.png", ("a red cat", "a cat red"), kind) for i, kind in enumerate(kinds)]
    scores = [[0.2, 0.1], [0.1, 0.2], [0.3, 0.3], [0.9, 0.1], [0.5, 0.4]]
    result = strict_choice(cases, scores)
    assert {kind: parts["accuracy"].value for kind, parts in result.by["kind"].items()} == {
        "swap_obj": 0.5,
        "swap_att": 0.0,
        "replace_rel": 1.0,
        "add_att": 1.0,
    }
    assert result["accuracy"] == pytest.approx(2.5 / 4)
    assert result["micro"] == pytest.approx(3 / 5)
    assert (result["swap"], result["replace"], result["add"], result["tied"]) == (0.25, 1.0, 1.0, 0.2)


def test_constant_scores_are_all_wrong_and_random_ones_half_right():
    cases = [ChoiceQuestion(f"{i}.png", ("a", "b"), "swap_obj") for i in range(2000)]
    assert strict_choice(cases, [[0.5, 0.5]] * 2000, captions=["a"])["accuracy"] == 0.0
    scores = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)).tolist()
    assert abs(strict_choice(cases, scores, captions=["a"])["accuracy"] - 0.5) < 0.04


@pytest.fixture
def copy(tmp_path):
    """A copy of both benchmarks of three pictures."""
    for folder in ("val2017", "images"):
        (tmp_path / folder).mkdir()
        for name, red in (("dark", 0), ("middle", 120), ("bright", 255)):
            Image.new("RGB", (4, 4), (red, 0, 0)).save(tmp_path / folder / f"{name}.png")
    rows = [("bright.png", "red red", "blue"), ("dark.png", "blue", "red"), ("dark.png", "red", "blue")]
    keys = ("filename", "caption", "negative_caption")
    for kind, own in (("swap_att", rows), ("add_obj", rows[:2])):
        cases = {str(i): dict(zip(keys, row, strict=True)) for i, row in enumerate(own)}
        (tmp_path / f"{kind}.json").write_text(json.dumps(cases))
    pictures = {"image_0": "bright", "image_1": "dark"}
    lines = [
        {"caption_0": "red red red", "caption_1": "blue", "collapsed_tag": "Object", **pictures},
        {"caption_0": "blue", "caption_1": "red red red", "collapsed_tag": "Both", "note": "\u2028", **pictures},
    ]
    written = (json.dumps(line, ensure_ascii=False) for line in lines)
    (tmp_path / "examples.jsonl").write_text("\n".join(written) + "\n", "utf-8")
    return tmp_path


def test_sugarcrepe_s_files_are_read(copy):
    options = {"sugarcrepe": {"folder": str(copy)}}
    result = evaluate(Reds(), None, ["sugarcrepe"], options=options)["sugarcrepe"]
    assert result.by["kind"]["swap_att"]["accuracy"].value == pytest.approx(2 / 3)
    assert result.by["kind"]["add_obj"]["accuracy"].value == 1.0
    assert result["accuracy"] == pytest.approx(5 / 6)
    assert "text_only" in result.metrics
    assert evaluate(Constant(), None, ["sugarcrepe"], options=options)["sugarcrepe"]["accuracy"] == 0.0
    moved = copy / "elsewhere"
    (copy / "val2017").rename(moved)
    with pytest.raises(UserError, match="val2017: no such folder"):
        sugarcrepe_cases(copy)
    assert len(sugarcrepe_cases(copy, moved)) == 5


def test_false_captions_of_records_are_judged_by_the_same_rule():
    bright, dark = (Image.new("RGB", (4, 4), (red, 0, 0)) for red in (255, 0))
    records = [
        {"image": bright, "text": "red", "negative_text": ["blue"], "negative_kind": ["colour"]},
        {"image": dark, "text": "blue", "negative_text": ["green"], "negative_kind": ["colour"]},
    ]
    result = evaluate(Reds(), Records(records), ["sugarcrepe"])["sugarcrepe"]
    assert result.by["kind"]["colour"]["accuracy"].value == 0.5  # the second is tied
    with pytest.raises(UserError, match="negative_text"):
        evaluate(Reds(), Records([{"image": bright, "text": "red"}]), ["sugarcrepe"])


def test_damaged_files_of_sugarcrepe_are_named(copy, tmp_path):
    damaged = (("{", "add_obj.json: not JSON"), ('{"0": {"caption": "a"}}', "add_obj.json, row 0"), ("3", "row 0"))
    for text, words in damaged:
        (copy / "add_obj.json").write_text(text)
        with pytest.raises(UserError, match=words):
            sugarcrepe_cases(copy)
    with pytest.raises(UserError, match="no file of SugarCrepe there"):
        sugarcrepe_cases(copy / "val2017")


def test_winoground_s_scores_by_hand():
    right = [[0.9, 0.1], [0.2, 0.8]]
    text_alone = [[0.5, 0.6], [0.4, 0.7]]  # the second picture is nearer to all captions
    image_alone = [[0.6, 0.5], [0.7, 0.8]]
    ties = [[0.5, 0.5], [0.5, 0.5]]
    result = winoground_scores(torch.tensor([right, text_alone, image_alone, ties]), ["a", "a", "b", "b"])
    assert (result["text"], result["image"], result["group"]) == (0.5, 0.5, 0.25)
    assert result.by["tag"]["a"]["text"].value == 1.0
    assert result.by["tag"]["b"]["image"].value == 0.5
    scores = torch.rand(6000, 2, 2, generator=torch.Generator().manual_seed(0))
    chance = winoground_scores(scores)
    for name in ("text", "image", "group"):
        assert abs(chance[name] - chance.metrics[name].chance) < 0.02
    for scores, words in ((torch.zeros(2, 2), r"\[N, 2, 2\]"), (torch.full((1, 2, 2), torch.nan), "NaN")):
        with pytest.raises(UserError, match=words):
            winoground_scores(scores)


def test_winoground_s_files_are_read(copy):
    result = evaluate(Reds(), None, ["winoground"], options={"winoground": {"examples": str(copy)}})["winoground"]
    assert (result["text"], result["image"], result["group"]) == (0.5, 0.5, 0.5)
    assert result.by["tag"]["Object"]["group"].value == 1.0
    (copy / "images" / "dark.png").unlink()
    with pytest.raises(UserError, match=r"line 1: no picture .*dark\.png; unpack images\.zip"):
        winoground_examples(copy)
    (copy / "examples.jsonl").write_text('{"caption_0": "a"}\n')
    with pytest.raises(UserError, match="line 1: not an example of Winoground"):
        winoground_examples(copy)
    with pytest.raises(UserError, match=r"examples\.jsonl: no such file"):
        winoground_examples(copy / "images")


def test_pairs_of_records_are_judged_alike():
    bright, dark = (Image.new("RGB", (4, 4), (red, 0, 0)) for red in (255, 0))
    records = [{"image": bright, "text": "red", "pair": 7}, {"image": dark, "text": "blue", "pair": 7}]
    result = evaluate(Reds(), Records(records), ["winoground"])["winoground"]
    assert result["group"] == 1.0
    with pytest.raises(UserError, match="1 records have pair=8"):
        evaluate(Reds(), Records([*records, {"image": dark, "text": "a", "pair": 8}]), ["winoground"])
