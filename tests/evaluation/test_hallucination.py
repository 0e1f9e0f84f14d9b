"""POPE, MME and CHAIR: figures by hand, and as protocols with a model that says what it is to say."""

import json
import math

import pytest
import torch
from PIL import Image

from nearfar.data import Records
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.evaluation.hallucination.chair_scores import ObjectNames, chair_scores
from nearfar.evaluation.hallucination.yes_no_scores import mme_score, pope_scores, says_yes
from nearfar.evaluation.measures.bootstrap import ratio_interval
from nearfar.evaluation.needs import missing_in_model, missing_in_source


@pytest.mark.parametrize(
    ("text", "yes"),
    [("Yes, there is a dog.", True), ("No", False), ("no.", False), ("NO!", False), ("There is not.", False),
     ("It isn't there", False), ("It isn\u2019t", False), ("I know nothing", True), ("nobody", True), ("", True),
     ("A dog.\nNo cat.", False), ("cannot", True), ("knot", True)],
)  # fmt: skip
def test_an_answer_is_no_by_its_words(text, yes):
    assert says_yes(text) is yes


def test_pope_by_hand():
    said = [True] * 3 + [False] * 5
    truth = [True, True, False, True, False, False, False, True]
    scores = pope_scores(said, truth)
    assert scores == pytest.approx(
        {"accuracy": 5 / 8, "precision": 2 / 3, "recall": 2 / 4, "f1": 4 / 7, "yes_ratio": 3 / 8}
    )
    never = pope_scores([False, False], [True, False])
    assert (never["f1"], never["recall"], never["yes_ratio"]) == (0, 0, 0)
    assert math.isnan(never["precision"])
    assert math.isnan(pope_scores([False], [False])["f1"])
    for wrong in (([], []), ([True], [True, False])):
        with pytest.raises(UserError, match="give one for each question"):
            pope_scores(*wrong)


def test_mme_by_hand():
    assert mme_score([True, True, True, False], [1, 1, 2, 2]) == 125
    assert mme_score([True, True], [1, 1]) == 200
    assert mme_score([False, True, True, False], [1, 2, 1, 2]) == 50
    with pytest.raises(UserError, match="name the picture of each question"):
        mme_score([True], [])


def test_chair_by_hand():
    names = ObjectNames({"dog": [], "cat": []})
    scores = chair_scores(["a dog and a cat", "a dog"], [{"dog"}, {"dog"}], names)
    assert (scores.chair_s, scores.chair_i, scores.recall) == (0.5, pytest.approx(1 / 3), 1)
    # Each mention counts, each thing that is there once.
    scores = chair_scores(["cats, a cat and a dog"], [["dog", "dog"]], names)
    assert (scores.mentioned, scores.invented, scores.present, scores.recalled) == ([3], [2], [1], [1])
    silent = chair_scores(["nothing at all"], [{"dog"}], names)
    assert (silent.chair_s, silent.recall) == (0, 0)
    assert math.isnan(silent.chair_i)
    with pytest.raises(UserError, match="1 captions for 2 pictures"):
        chair_scores(["a"], [set(), set()], names)


@pytest.mark.parametrize(
    ("text", "things"),
    [("Two puppies", ["dog"]), ("hot dogs", ["hot dog"]), ("a hot, dog", ["hot dog"]), ("hot-dog", ["hot dog"]),
     ("men, women & children", ["person"] * 3), ("knives and wolves", ["knife", "wolf"]), ("buses", ["bus"]),
     ("the dog's man\u2019s", ["dog", "person"]), ("dogma", []), ("glasses", ["glass"]), ("geese", ["goose"]),
     ("a dog house", ["dog house"])],
)  # fmt: skip
def test_names_in_texts(text, things):
    table = {"dog": ["puppy"], "hot dog": [], "person": ["man", "woman", "child"], "knife": [], "wolf": [], "bus": []}
    assert ObjectNames(table | {"glass": [], "goose": [], "dog house": []}).mentions(text) == things


def test_files_of_names(tmp_path):
    file = tmp_path / "names.json"
    file.write_text(json.dumps({"dog": ["puppy"], "cat": []}))
    assert ObjectNames.load(file).thing("puppies") == "dog"
    for content, words in (
        ("[1]", "maps each thing to a list"),
        ('{"dog": "puppy"}', "maps each thing to a list"),
        ('{"dog"', "no JSON file of things"),
        ("{}", "nothing to look for"),
        ('{"dog": ["pet"], "cat": ["pet"]}', "'pet' is a name of 'dog' and of 'cat'"),
        ('{"dog": ["!"]}', "a name without a word"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=words):
            ObjectNames.load(file)
    with pytest.raises(UserError, match=r"none\.json"):
        ObjectNames.load(tmp_path / "none.json")


class Parrot(torch.nn.Module):
    """Says of a picture what stands under its shade, of a question what stands under both."""

    image_size = 4

    def __init__(self, says):
        super().__init__()
        self.says = says

    def preprocess(self, pictures):
        return torch.tensor([picture.getpixel((0, 0))[0] for picture in pictures])

    def caption(self, pixels, prompt=None, *, max_tokens=None):
        prompts = [prompt] * len(pixels) if prompt is None or isinstance(prompt, str) else prompt
        shades = pixels.tolist()
        return [
            self.says[shade] if p is None else self.says[shade, p] for shade, p in zip(shades, prompts, strict=True)
        ]


def photos(*rows, **columns):
    records = [{"image": Image.new("RGB", (8, 8), (shade,) * 3), **row} for shade, row in rows]
    return Records(records, name="photos")


def question(shade, text, answer, kind=None, **more):
    return shade, {"text": text, "answers": answer, **({"question_type": kind} if kind else {}), **more}


QUESTIONS = photos(
    question(10, "a dog?", "yes", "random", group=1),
    question(10, "a cat?", "no", "adversarial", group=1),
    question(20, "a dog?", ["yes", "No", "no"], "random", group=2),
    question(20, "a cat?", "Yes.", "adversarial", group=2),
    question(20, "how many?", "two", "count", group=2),
    question(20, "why?", [], group=2),
)
ANSWERS = {
    (10, "Q: a dog?"): "yes", (10, "Q: a cat?"): "yes it is", (20, "Q: a dog?"): "there isn't", (20, "Q: a cat?"): "yes"
}  # fmt: skip


def test_yes_no_questions_are_measured():
    options = {"yes_no": {"prompt": "Q: {}", "batch_size": 3}}
    [result] = evaluate(Parrot(ANSWERS), QUESTIONS, ["yes_no"], options=options).values()
    assert {name: result[name] for name in ("accuracy", "precision", "recall", "yes_ratio")} == pytest.approx(
        {"accuracy": 3 / 4, "precision": 2 / 3, "recall": 1, "yes_ratio": 3 / 4}
    )
    assert result["f1"] == pytest.approx(4 / 5)
    assert result["mme"] == 75 + 50
    assert result.metrics["accuracy"].chance == 0.5
    assert result.by["question_type"]["random"]["accuracy"].value == 1
    assert result.by["question_type"]["adversarial"]["accuracy"].value == 0.5
    assert result.details["left_out"] == {"with another answer than yes or no": 1}
    assert [each["question"] for each in result.details["failures"]] == ["a cat?"]
    assert 0 <= result.metrics["f1"].low < result.metrics["f1"].value <= result.metrics["f1"].high
    [one] = evaluate(
        Parrot(ANSWERS), QUESTIONS, ["yes_no"], options={"yes_no": {"prompt": "Q: {}", "limit": 1}}
    ).values()
    assert one.metrics["accuracy"].n == 1
    assert "mme" not in one.metrics
    assert one.by == {}


def test_what_a_yes_no_question_needs():
    with pytest.raises(UserError, match="photos holds no question whose answer is yes or no"):
        evaluate(Parrot({}), photos(question(1, "how many?", "two")), ["yes_no"])
    with pytest.raises(UserError, match="must stand where the question is to be"):
        evaluate(Parrot({}), QUESTIONS, ["yes_no"], options={"yes_no": {"prompt": "is it?"}})
    with pytest.raises(UserError, match="limit is 0"):
        evaluate(Parrot({}), QUESTIONS, ["yes_no"], options={"yes_no": {"limit": 0}})
    assert missing_in_source("yes_no", QUESTIONS) is None
    assert "no answers" in missing_in_source("yes_no", photos((1, {"text": "a dog?"})))
    assert "writes no captions" in missing_in_model("yes_no", torch.nn.Linear(1, 1))


def thing(name):
    return {"name": name, "box": (0, 0, 1, 1)}


SCENES = photos(
    (10, {"objects": [thing("dog"), thing("hot_dog")]}),
    (20, {"objects": [thing("dog")], "text": "a cat is here, too"}),
    (30, {"objects": [thing("cat")]}),
)
SAID = {10: "dogs and a cat", 20: "a dog, a cat", 30: "hot dogs"}


def test_things_in_captions_are_measured(tmp_path):
    [result] = evaluate(Parrot(SAID), SCENES, ["chair"]).values()
    # The cat of the first and the hot dog of the third are not there; the second's cat stands in its text.
    assert (result["chair_s"], result["chair_i"]) == (pytest.approx(2 / 3), pytest.approx(2 / 5))
    assert result["recall"] == pytest.approx(3 / 5)
    assert [each["row"] for each in result.details["failures"]] == [0, 2]
    file = tmp_path / "names.json"
    file.write_text(json.dumps({"animal": ["dog", "cat"], "hot dog": []}))
    options = {"chair": {"synonyms": str(file)}}
    [result] = evaluate(Parrot(SAID), SCENES, ["chair"], options=options).values()
    figures = {name: result[name] for name in ("chair_s", "chair_i", "recall")}
    assert figures == pytest.approx({"chair_s": 1 / 3, "chair_i": 1 / 5, "recall": 2 / 4})
    [two] = evaluate(Parrot(SAID), SCENES, ["chair"], options={"chair": {"limit": 2}}).values()
    assert two.metrics["chair_s"].n == 2


def test_what_things_in_captions_need():
    with pytest.raises(UserError, match="photos holds no picture with objects"):
        evaluate(Parrot(SAID), photos((1, {"objects": []})), ["chair"])
    assert "writes no captions" in missing_in_model("chair", torch.nn.Linear(1, 1))
    broken = Records([*SCENES, {"image": b"no picture", "objects": [thing("cat")]}], name="photos")
    [result] = evaluate(Parrot(SAID), broken, ["chair"], options={"chair": {"max_skipped": 0.5}}).values()
    assert (result.details["skipped"], result.metrics["chair_s"].n) == (1, 3)


def test_an_interval_of_a_ratio_is_over_whole_clusters():
    part, whole = [2, 0, 1, 1] * 30, [2, 2, 1, 3] * 30
    low, high = ratio_interval(part, whole)
    assert low < 0.5 < high
    # Two clusters alone, of ratios 1/2 and 1/2: drawing them anew changes nothing.
    assert ratio_interval(part, whole, cluster=[0, 0, 1, 1] * 30) == (0.5, 0.5)
    assert all(map(math.isnan, ratio_interval([0, 0], [0, 0])))
    assert ratio_interval([1, 0], [1, 0]) == (1, 1)  # samples without the first say nothing
