"""Accuracy of answers: by hand, and baselines without the picture."""

import json

import pytest
from PIL import Image

from nearfar.cli import main
from nearfar.data.scenes import questions
from nearfar.data.sources.source import Records
from nearfar.errors import UserError
from nearfar.evaluation import answering, evaluate, load_results
from nearfar.evaluation.measures.answer_match import QuestionPrior, exact, leave_one_out, plain_answer, soft
from nearfar.evaluation.report import write_report

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "white": (255, 255, 255)}


class Eyes:
    """Tells the colour of a picture's corner, whatever is asked."""

    image_size = 8

    def __init__(self):
        self.questions = []

    def answer(self, pictures, questions, candidates, *, k, batch_size):
        assert len(pictures) == len(questions) <= 64
        self.questions.append((list(questions), list(candidates), k))
        names = {rgb: name for name, rgb in COLOURS.items()}
        colours = [names[picture.convert("RGB").getpixel((0, 0))] for picture in pictures]
        return [(name if name in candidates else candidates[0], 1.0) for name in colours]


def record(colour, question="what colour is it?", answers=None, **more):
    return {"image": Image.new("RGB", (8, 8), COLOURS[colour]), "text": question, "answers": answers or colour, **more}


def test_rules_by_hand():
    ten = {"red": 4.0, "pink": 3.0, "rose": 2.0, "wine": 1.0}
    assert [exact(answer, ten) for answer in ("red", "pink", "blue")] == [1, 0, 0]
    assert exact("pink", {"red": 2, "pink": 2}) == 1
    assert [soft(answer, ten) for answer in ten] == pytest.approx([1, 1, 2 / 3, 1 / 3])
    # The mean over the ten sets of nine: a voter of "rose" is left out twice, and then one vote remains.
    by_sets = [(2 * 1 + 8 * 2) / 30, (1 * 0 + 9 * 1) / 30]
    assert [leave_one_out(answer, ten) for answer in ("rose", "wine")] == pytest.approx(by_sets)
    assert leave_one_out("blue", ten) == 0
    assert leave_one_out("red", ten) == 1


def test_answers_are_compared_plainly():
    assert plain_answer("A Cat!") == plain_answer("the cat") == "cat"
    assert plain_answer("None") == plain_answer("0") == "0"
    assert plain_answer("10:30") == "10:30"
    assert plain_answer("1,000") != plain_answer("1 000")


def test_accuracy_baselines_and_types():
    source = Records(
        [
            record("red", question_type="colour"),
            record("red", question_type="colour"),
            record("green", question_type="colour"),
            record("green", "is it red?", "no", question_type="presence"),
            record("red", "is it red?", "yes", question_type="presence"),
            {"image": Image.new("RGB", (8, 8)), "text": "unanswered?"},
        ]
    )
    train = [record("red") for _ in range(3)] + [record("green", "is it red?", "no"), record("white")]
    eyes = Eyes()
    result = answering(eyes, source, train=Records(train))
    assert result["accuracy"] == 2 / 5  # the first two: "green" and "yes" were no answer in training
    assert result.metrics["accuracy"].n == 5
    assert result["text_only"] == 3 / 5  # "red" to what, "no" to is
    assert result["most_frequent"] == 2 / 5  # "red"
    assert result["blank_image"] == 0  # "white"
    assert result["reachable"] == 3 / 5
    assert result.metrics["accuracy"].chance == pytest.approx(3 * (1 / 3) / 5)
    assert 0 <= result.metrics["accuracy"].low < 2 / 5 < result.metrics["accuracy"].high <= 1
    by = result.by["question_type"]
    assert (by["colour"]["accuracy"].value, by["colour"]["text_only"].value) == pytest.approx((2 / 3, 2 / 3))
    assert (by["presence"]["accuracy"].value, by["presence"]["text_only"].value) == (0, 1 / 2)
    assert eyes.questions[0][1:] == (["red", "no", "white"], 128)
    assert eyes.questions[1][0] == ["what colour is it?", "is it red?"], (
        "each different question is asked of white once"
    )
    assert "soft_accuracy" not in result.metrics
    assert [each["row"] for each in result.details["failures"]] == [2, 3, 4]
    assert result.details["candidates"] == 3


def test_annotators_who_differ():
    some = Records([record("red", answers=["red", "red", "pink"]), record("green", answers=["red", "Green.", "lime"])])
    result = answering(Eyes(), some)
    assert result["accuracy"] == 1  # the second: one of three that were said as often
    assert result["soft_accuracy"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert "vqa_v2_accuracy" not in result.metrics
    assert result.details["baselines_of"] == "soft_accuracy"
    ten = Records([record("red", answers={"red": 2, "pink": 8}), record("green", answers=["green"] * 10)])
    result = answering(Eyes(), ten)
    assert result["vqa_v2_accuracy"] == pytest.approx((0.6 + 1) / 2)
    assert result["soft_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert list(result.by) == ["first_word"]


def test_priors_never_see_what_they_answer():
    """Without training data one half of the pictures answers for the other, and all questions of one picture stay
    together."""
    source = Records([record("red", f"is it {i}?", f"answer {i // 2}", group=i // 2) for i in range(8)])
    assert answering(Eyes(), source)["text_only"] == 0
    alone = Records([record("red", group=1), record("red", group=1)])
    assert "text_only" not in answering(Eyes(), alone).metrics
    prior = QuestionPrior().fit([("What colour?", {"red": 3.0, "blue": 1.0}), ("what colour", {"blue": 1.0})])
    assert prior("what COLOUR!") == "blue"  # annotators share one question's vote: 0.75 red, 1.25 blue


def test_candidates_of_ones_own(tmp_path):
    source = Records([record("red"), record("green")])
    eyes = Eyes()
    answering(eyes, source, candidates=["green", "red", "green"], k=7)
    assert eyes.questions[0][1:] == (["green", "red"], 7)
    (tmp_path / "answers.json").write_text(json.dumps(["red"]))
    assert answering(eyes, source, candidates=tmp_path / "answers.json")["reachable"] == 0.5
    answering(eyes, source, most=1)
    assert eyes.questions[-1][1] == ["green"]  # by name among the equally common
    (tmp_path / "answers.json").write_text("{}")
    for wrong in (tmp_path / "answers.json", [], tmp_path / "none.json"):
        with pytest.raises(UserError, match="candidates"):
            answering(eyes, source, candidates=wrong)


def test_generated_questions_bring_their_training_split():
    class Guesses:
        image_size = 32

        def answer(self, pictures, questions, candidates, *, k, batch_size):
            return [("yes", 1.0)] * len(pictures)

    source = questions("test", vocabulary="shapes", size=32, n=200, kinds=["presence", "colour"])
    result = answering(Guesses(), source)
    named = answering(Guesses(), source, train={"spec": "world/questions", "vocabulary": "shapes", "size": 32, "n": 50})
    assert named.details["fitted_on"] == "50 questions of training"
    assert result.details["fitted_on"] == "4000 questions of training"
    assert result.details["candidates"] == 10  # yes, no, eight colours
    assert result["reachable"] == 1
    assert result["accuracy"] == result["blank_image"] == pytest.approx(0.25, abs=0.08)
    assert result["text_only"] < 0.45
    assert result.metrics["accuracy"].chance == pytest.approx(0.1)


def test_broken_pictures_and_data_without_answers():
    records = [record("red", group=i) for i in range(20)]
    broken = Records([*records, {"image": b"junk", "text": "what?", "answers": "red"}])
    result = answering(Eyes(), broken)
    assert (result.metrics["accuracy"].n, result.details["skipped"]) == (20, 1)
    with pytest.raises(UserError, match="could not be"):
        answering(Eyes(), broken, max_skipped=0.01)
    with pytest.raises(UserError, match="answers=COLUMN"):
        answering(Eyes(), Records([{"image": b"", "text": "a cat"}], name="pets"))
    with pytest.raises(UserError, match="answers no questions: train one with the method 'answering'"):
        evaluate(object(), broken, ("answering",))


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("nearfar.models.load", lambda name: Eyes(), raising=False)
    for name, rgb in COLOURS.items():
        Image.new("RGB", (8, 8), rgb).save(tmp_path / f"{name}.png")
    rows = "".join(f"{name}.png,what colour?,{name}\n" for name in COLOURS)
    (tmp_path / "qa.csv").write_text(f"image,asked,reply\n{rows}")
    (tmp_path / "list.json").write_text(json.dumps(list(COLOURS)))
    columns = ["--text", "asked", "--answers", "reply", "--answer-list", str(tmp_path / "list.json")]
    out = tmp_path / "out.json"
    main(
        ["evaluate", "eyes", "--on", str(tmp_path / "qa.csv"), "--protocols", "answering", *columns, "--json", str(out)]
    )
    assert load_results(out)["answering"]["accuracy"] == 1
    assert "text only" in capsys.readouterr().out


def test_the_report_shows_what_was_answered_wrongly(tmp_path):
    source = Records([record("red", "is it <red>?", "yes"), record("green")])
    page = write_report(tmp_path, source=source, results={"answering": answering(Eyes(), source)}).read_text()
    assert "Wrong answers" in page
    assert "is it &lt;red&gt;?" in page
    assert "right: yes" in page
    assert "data:image/webp" in page
