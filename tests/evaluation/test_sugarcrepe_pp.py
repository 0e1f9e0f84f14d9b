"""SugarCrepe++: both true captions before the false one, with a picture, with a text in its place, and without."""

import json

import pytest
import torch
from PIL import Image

from nearfar.data import Records
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.evaluation.compositionality.sugarcrepe_pp import CHANCE, sugarcrepe_pp, sugarcrepe_pp_scores

WORDS = ("red", "blue", "cat", "dog")


class Counts:
    """Counts of four words."""

    embed_dim = 4

    def tokenize(self, texts):
        return torch.tensor([[text.count(word) + 0.01 for word in WORDS] for text in texts])

    def encode_text(self, tokens, normalize=False):
        return tokens


class Seeing(Counts):
    """Sees red and blue."""

    image_size = 4

    def preprocess(self, images):
        return torch.stack([torch.tensor(image.getpixel((0, 0))) for image in images]).float()

    def encode_image(self, pixels, normalize=False):
        return torch.stack([pixels[:, 0], pixels[:, 2], pixels[:, 0] * 0, pixels[:, 0] * 0], 1) / 255 + 0.01


CASES = [
    {"text": ["red cat", "a cat, red"], "negative_text": ["blue cat"], "negative_kind": ["replace_attribute"]},
    {"text": ["red cat", "red"], "negative_text": ["red cat"], "negative_kind": ["swap_attribute"]},
]


def test_a_text_stands_for_the_picture():
    records = [case | {"text2": "red red cat"} for case in CASES]
    result = sugarcrepe_pp(Counts(), Records(records, name="cases"))
    assert {name: result[name] for name in ("both", "first", "second", "text")} == {
        "both": 0.5, "first": 0.5, "second": 0.5, "text": 0.5,
    }  # fmt: skip
    assert result.by["kind"]["replace_attribute"]["both"].value == 1
    assert result.by["kind"]["swap_attribute"]["both"].value == 0


def test_without_pictures_the_texts_are_compared_alone():
    result = sugarcrepe_pp(Counts(), Records(CASES, name="cases"))
    assert set(result.metrics) == {"text"}
    assert result["text"] == 0.5
    assert set(evaluate(Counts(), Records(CASES, name="cases"), ["sugarcrepe_pp"])) == {"sugarcrepe_pp"}


def test_a_picture_goes_before_its_text_where_the_model_sees():
    blue = Image.new("RGB", (4, 4), (0, 0, 255))
    records = [CASES[0] | {"image": blue, "text2": "red red cat"}]
    assert sugarcrepe_pp(Seeing(), Records(records, name="cases"))["both"] == 0
    assert sugarcrepe_pp(Counts(), Records(records, name="cases"))["both"] == 1


def test_published_files(tmp_path):
    row = {"filename": "a.png", "caption": "red cat", "caption2": "a cat, red", "negative_caption": "blue cat"}
    (tmp_path / "swap_attribute.json").write_text(json.dumps([row]))
    second = row | {"negative_caption": "red cat", "note": "\u2028"}
    (tmp_path / "replace_object.jsonl").write_text(json.dumps(second, ensure_ascii=False) + "\n", "utf-8")
    alone = sugarcrepe_pp(Seeing(), None, folder=tmp_path)
    assert (set(alone.metrics), alone["text"]) == ({"text"}, 0.5)
    (tmp_path / "val2017").mkdir()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "val2017" / "a.png")
    result = sugarcrepe_pp(Seeing(), None, folder=tmp_path)
    assert (result["both"], result.by["kind"]["swap_attribute"]["both"].value) == (0.5, 1)
    assert set(sugarcrepe_pp(Counts(), None, folder=tmp_path).metrics) == {"text"}
    (tmp_path / "swap_object.json").write_text("[{}]")
    with pytest.raises(UserError, match=r"row 0: not a row of SugarCrepe\+\+"):
        sugarcrepe_pp(Seeing(), None, folder=tmp_path)
    with pytest.raises(UserError, match=r"no file of SugarCrepe\+\+ there"):
        sugarcrepe_pp(Seeing(), None, folder=tmp_path / "val2017")


def test_both_is_never_above_one_alone_and_chance_is_that_of_scores_at_random():
    draw = torch.Generator().manual_seed(0)
    result = sugarcrepe_pp_scores(torch.randn(20_000, 3, generator=draw), torch.randn(20_000, 3, generator=draw))
    assert result["both"] <= min(result["first"], result["second"])
    for name, chance in CHANCE.items():
        assert result[name] == pytest.approx(chance, abs=0.015)
        assert result.metrics[name].chance == chance


def test_ties_are_wrong():
    same = torch.ones(3, 3)
    result = sugarcrepe_pp_scores(same, same)
    assert [metric.value for metric in result.metrics.values()] == [0, 0, 0, 0]
    text = torch.tensor([[0.9, 0.9, 0.1], [0.9, 0.1, 0.9], [0.9, 0.8, 0.8]])
    assert sugarcrepe_pp_scores(None, text)["text"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("image", "text", "kinds", "said"),
    [
        (None, torch.zeros(2, 2), None, "text: scores of cases must be"),
        (torch.zeros(1, 3), torch.zeros(2, 3), None, "image: scores of cases must be"),
        (None, torch.full((2, 3), torch.nan), None, "a score is NaN"),
        (None, torch.zeros(2, 3), ["a"], "1 kinds for 2 cases"),
    ],
    ids=["shape", "length", "nan", "kinds"],
)
def test_what_cannot_be_is_named(image, text, kinds, said):
    with pytest.raises(UserError, match=said):
        sugarcrepe_pp_scores(image, text, kinds)


def test_records_without_two_true_captions_are_no_cases():
    mixed = [CASES[0] | {"text2": "red"}, CASES[0] | {"image": Image.new("RGB", (4, 4))}]
    with pytest.raises(UserError, match="1 of 2 cases have a text in the place of a picture"):
        sugarcrepe_pp(Seeing(), Records(mixed, name="cases"))
    with pytest.raises(UserError, match="there is none"):
        sugarcrepe_pp(Counts(), Records([{"text": "a", "negative_text": "b"}], name="cases"))
