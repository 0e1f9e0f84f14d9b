"""Accuracy of classes of pairs: by hand, and baselines without the picture."""

import pytest
import torch
from PIL import Image

from nearfar.cli import main
from nearfar.data.scenes import statements
from nearfar.data.sources.source import Records
from nearfar.errors import UserError
from nearfar.evaluation import entailment, evaluate, load_results
from nearfar.evaluation.report import write_report

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "white": (255, 255, 255)}
CLASSES = ["entailment", "contradiction"]


class Eyes:
    """A statement holds if it names the colour of the picture's corner."""

    image_size = 8

    def __init__(self):
        self.statements = []

    def judge(self, pictures, texts, *, batch_size):
        assert len(pictures) == len(texts)
        self.statements.append(list(texts))
        names = {rgb: name for name, rgb in COLOURS.items()}
        wrong = [names[p.convert("RGB").getpixel((0, 0))] not in t for p, t in zip(pictures, texts, strict=True)]
        return torch.nn.functional.one_hot(torch.tensor(wrong).long(), 2).float()


def record(colour, text, label, **more):
    return {"image": Image.new("RGB", (8, 8), COLOURS[colour]), "text": text, "label": label, **more}


READ = [
    record("red", "it is red", 0, statement_kind="colour"),
    record("green", "it is red", 1, statement_kind="colour"),
    record("green", "it is green", 0, statement_kind="colour"),
    record("green", "this has a name", 0, statement_kind="name"),
    record("red", "unlabelled", -1),
]
TRAIN = Records([record("red", "it is red", 0), record("red", "it is red", 0), record("green", "never green", 1)])


def test_accuracy_baselines_and_kinds():
    eyes = Eyes()
    result = entailment(eyes, Records(READ, classes=CLASSES), train=TRAIN)
    assert result["accuracy"] == 3 / 4
    assert result.metrics["accuracy"].n == 4
    assert result.metrics["accuracy"].chance == 1 / 2
    assert result["most_frequent"] == 3 / 4  # entailment
    assert result["blank_image"] == 1 / 4  # white: all contradicted
    assert result["text_only"] == 1 / 2  # "red" was always entailed, "green" never
    assert eyes.statements[1] == ["it is red", "it is green", "this has a name"], (
        "each statement is asked of white once"
    )
    assert result.by["statement_kind"]["colour"]["accuracy"].value == 1
    assert result.by["statement_kind"]["name"]["accuracy"].value == 0
    assert result.by["class"]["contradiction"]["text_only"].value == 0
    assert result.details["failures"] == [
        {"row": 3, "text": "this has a name", "label": "entailment", "given": "contradiction"}
    ]


def test_baselines_never_see_what_they_judge():
    """Without training data one half of the pictures judges the other; statements of one picture stay together."""
    source = Records([record("red", f"claim {i // 2}", i // 2 % 2, group=i // 2) for i in range(8)], classes=CLASSES)
    result = entailment(Eyes(), source)
    assert result.details["fitted_on"] == "the other half"
    assert result["most_frequent"] == 0  # the halves are of one class each, and not of the same
    assert "text_only" not in entailment(Eyes(), source.first(2)).metrics


def test_generated_statements_bring_their_training_split():
    class Yes:
        def judge(self, pictures, texts, *, batch_size):
            return torch.tensor([[1.0, 0.0]]).expand(len(texts), 2)

    source = statements("test", vocabulary="shapes", size=32, n=300)
    result = entailment(Yes(), source)
    assert result.details["fitted_on"] == "4000 statements of training"
    assert result["accuracy"] == result["blank_image"] == pytest.approx(0.5, abs=0.08)
    assert result["text_only"] == pytest.approx(0.5, abs=0.1)
    assert set(result.by["statement_kind"]) == set(source.kinds)


def test_what_cannot_be_judged_says_so():
    source = Records(READ, classes=CLASSES)
    with pytest.raises(UserError, match="train one with the method 'entailment'"):
        evaluate(object(), source, ("entailment",))
    with pytest.raises(UserError, match="label=COLUMN"):
        entailment(Eyes(), Records(READ[-1:], classes=CLASSES))
    with pytest.raises(UserError, match="into 2 classes, and the data has 3: a, b, c"):
        entailment(Eyes(), Records(READ, classes=["a", "b", "c"]))
    with pytest.raises(UserError, match="into 2 classes, and the data has 4: numbers"):
        entailment(Eyes(), Records([*READ, record("red", "it is red", 3)]))
    unnamed = entailment(Eyes(), Records([record("red", "it is red", 0), record("red", "it is red", 0)]))
    assert unnamed["accuracy"] == 1, "data of one class, without names, belongs to the model's two"
    assert unnamed.metrics["accuracy"].chance == 1 / 2
    broken = Records([*READ, {"image": b"junk", "text": "it is red", "label": 0}], classes=CLASSES)
    assert entailment(Eyes(), broken, max_skipped=0.3).details["skipped"] == 1
    with pytest.raises(UserError, match="could not be"):
        entailment(Eyes(), broken)
    with pytest.raises(UserError, match="no picture that can be read"):
        entailment(Eyes(), Records([{"image": b"junk", "text": "red", "label": 0}], classes=CLASSES), max_skipped=1.0)


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("nearfar.models.load", lambda name: Eyes(), raising=False)
    for name, rgb in COLOURS.items():
        Image.new("RGB", (8, 8), rgb).save(tmp_path / f"{name}.png")
    rows = "".join(f"{name}.png,it is {word},{int(name != word)}\n" for name in COLOURS for word in COLOURS)
    (tmp_path / "claims.csv").write_text(f"image,hypothesis,verdict\n{rows}")
    out = tmp_path / "out.json"
    columns = ["--text", "hypothesis", "--label", "verdict"]
    data = ["--on", str(tmp_path / "claims.csv"), "--protocols", "entailment"]
    main(["evaluate", "eyes", *data, *columns, "--json", str(out)])
    assert load_results(out)["entailment"]["accuracy"] == 1
    assert "text only" in capsys.readouterr().out


def test_the_report_shows_what_was_judged_wrongly(tmp_path):
    source = Records(READ, classes=CLASSES)
    page = write_report(tmp_path, source=source, results={"entailment": entailment(Eyes(), source)}).read_text()
    assert "Wrong verdicts" in page
    assert "this has a name" in page
    assert "right: entailment" in page
    assert "data:image/webp" in page
