"""`nearfar prompts` and `nearfar evaluate --class-texts`, on squares whose colour a model with words sees."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar import cli
from nearfar.prompting import ClassTexts

COLOURS = {"ruby": (200, 20, 20), "jade": (20, 190, 30), "sky": (20, 30, 200), "coal": (10, 10, 10)}
WORDS = {"red": (200, 20, 20), "green": (20, 190, 30), "blue": (20, 30, 200), "dark": (10, 10, 10), "pale": (9, 9, 99)}


class Words:
    """Embeds a picture as its mean colour, and a text as the colours that it names, "pale" if it names none: so the
    classes' names say nothing."""

    image_size, embed_dim, temperature = 8, 3, 0.1

    def preprocess(self, images):
        return torch.stack([torch.from_numpy(np.asarray(i.resize((8, 8))) / 255).permute(2, 0, 1) for i in images])

    def encode_image(self, pixels, normalize=False):
        return pixels.float().mean((2, 3)) - 0.3

    def tokenize(self, texts):
        named = [[word in text for word in WORDS] for text in texts]
        return {"input_ids": torch.tensor([row if any(row) else [False] * 4 + [True] for row in named])}

    def encode_text(self, tokens, normalize=False):
        named = tokens["input_ids"].float()
        return named @ torch.tensor(list(WORDS.values())).float() / 255 / named.sum(1, keepdim=True) - 0.3


LIBRARY = """
templates: ["a photo of a {}.", "a pale {}"]
descriptions:
  ruby: [it is red, it is green]
  jade: [it is green, it is dark]
  sky: [it is blue, it is red]
  coal: [it is dark, it is blue]
"""
SMALL = ["--rounds", "2", "--groups", "2"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(6):
            own = tuple(int(c) for c in np.clip(np.array(colour) + draw.integers(-10, 10, 3), 0, 255))
            Image.new("RGB", (9, 9), own).save(tmp_path / "data" / name / f"{i}.png")
    (tmp_path / "library.yaml").write_text(LIBRARY, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nearfar.models.loading.load", lambda name, **options: Words())
    return tmp_path


def test_texts_are_searched_written_and_taken_by_evaluate(folder, capsys):
    cli.main(["prompts", "data", "--model", "w", "--library", "library.yaml", "--out", "p", *SMALL])
    said = capsys.readouterr().out
    assert "4 pictures of 4 classes; 2 templates, descriptions of 4 classes" in said
    assert "nearfar evaluate w --on data --protocols zero_shot --class-texts p/prompts.json" in said
    texts = dict(ClassTexts.load("p/prompts.json"))
    assert set(texts) == set(COLOURS)
    for (name, own), word in zip(sorted(texts.items()), ("dark", "green", "red", "blue"), strict=True):
        assert any(word in sentence for sentence in own), name
    document = json.loads((folder / "p" / "results.json").read_text("utf-8"))
    top1 = {name: result["metrics"]["top1"] for name, result in document["results"].items()}
    assert top1["searched texts"]["value"] == 1.0
    assert top1["plain template"]["value"] == 0.25
    assert {metric["n"] for metric in top1.values()} == {20}  # 24 pictures less one a class
    assert document["about"]["history"][0]["stage"] == "templates"
    report = (folder / "p" / "report.html").read_text("utf-8")
    assert "it is red" in report
    assert "searched texts" in report
    assert {path.name for path in (folder / "p").iterdir()} == {"prompts.json", "results.json", "report.html"}
    words = ["evaluate", "w", "--on", "data", "--protocols", "zero_shot", "--class-texts", "p/prompts.json"]
    cli.main([*words, "--json", "r.json"])
    result = json.loads((folder / "r.json").read_text("utf-8"))["results"]["zero_shot"]
    assert result["metrics"]["top1"]["value"] == 1.0
    assert result["details"]["texts"] == "p/prompts.json"
    assert result["details"]["sentences"] == sum(map(len, texts.values()))


def test_the_pictures_that_are_measured_choose_nothing(folder):
    """Other labels of the test, and none at all, change no text."""
    arguments = ["prompts", "data", "--model", "w", "--library", "library.yaml", *SMALL]
    shutil.copytree("data", "test")
    (folder / "test" / "ruby").rename(folder / "test" / "sea")
    (folder / "test" / "sky").rename(folder / "test" / "ruby")
    (folder / "test" / "sea").rename(folder / "test" / "sky")
    for name, more in {"a": [], "b": ["--test", "test"], "c": ["--shots", "6"], "d": ["--stages", "templates"]}.items():
        cli.main([*arguments, "--out", name, *more])
    written = {name: (folder / name / "prompts.json").read_bytes() for name in "abd"}
    assert written["a"] == written["b"] != written["d"]
    results = json.loads((folder / "b" / "results.json").read_text("utf-8"))["results"]
    assert results["searched texts"]["metrics"]["top1"]["value"] < 1.0
    # With all pictures drawn, nothing is left to measure on.
    assert json.loads((folder / "c" / "results.json").read_text("utf-8"))["results"] == {}


def test_without_a_library_captions_of_the_drawn_pictures_describe(folder, capsys):
    rows = ["image,text,label"]
    for name in COLOURS:
        rows += [f"data/{name}/{i}.png,{'dark thing' if i else 'bright thing'} {i} of {name},{name}" for i in range(6)]
    (folder / "t.csv").write_text("\n".join(rows), "utf-8")
    cli.main(["prompts", "t.csv", "--model", "w", "--out", "p", "--seed", "3", *SMALL])
    assert "80 templates, descriptions of 4 classes" in capsys.readouterr().out
    texts = dict(ClassTexts.load("p/prompts.json"))
    described = {sentence.partition(", ")[2] for own in texts.values() for sentence in own if " thing " in sentence}
    assert len(described) <= 4  # of the drawn picture of each class, and of no other


def test_a_run_that_was_killed_goes_on(folder, monkeypatch, capsys):
    arguments = ["prompts", "data", "--model", "w", "--library", "library.yaml", *SMALL]
    cli.main([*arguments, "--out", "whole"])

    def killed(*inputs, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nearfar.commands.class_texts.prompts_command.measured", killed)
        with pytest.raises(SystemExit):
            cli.main([*arguments, "--out", "p"])
    assert (folder / "p" / "search" / "scores.jsonl").is_file()
    with pytest.raises(SystemExit, match="holds another search"):
        cli.main([*arguments, "--out", "p", "--seed", "5"])
    with pytest.raises(SystemExit, match="holds a search of other images, texts or settings"):
        cli.main([*arguments, "--out", "p", "--fitness", "accuracy"])
    capsys.readouterr()
    cli.main([*arguments, "--out", "p"])
    assert "0 candidates scored" in capsys.readouterr().out
    assert (folder / "p" / "prompts.json").read_bytes() == (folder / "whole" / "prompts.json").read_bytes()
    with pytest.raises(SystemExit, match="is there already: name another folder"):
        cli.main([*arguments, "--out", "p"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shots", "0"], "shots is 0"),
        (["--library", "none.yaml"], "none.yaml is not there"),
        (["--rounds", "-1"], "rounds is -1"),
        (["--split", "train"], "train: no such folder"),
        (["--test", "other"], "other"),
    ],
    ids=str,
)
def test_wrong_words_are_named(words, message):
    with pytest.raises(SystemExit) as stop:
        cli.main(["prompts", "data", "--model", "w", *words])
    assert message in str(stop.value.code)


def test_texts_of_other_classes_are_named(folder):
    (folder / "texts.yaml").write_text("ruby: it is red\nskye: it is blue\n", "utf-8")
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", "w", "--on", "data", "--protocols", "zero_shot", "--class-texts", "texts.yaml"])
    assert str(stop.value.code).startswith(
        "nearfar evaluate: texts.yaml: no texts for the class 'coal' and 2 more classes"
    )
