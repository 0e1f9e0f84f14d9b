"""`nearfar write`, and `nearfar evaluate --decoding`: with a small model that was saved."""

import json
from typing import get_args

import pytest
import torch
from PIL import Image

import nearfar
from nearfar import cli
from nearfar.commands.pictured_texts.write_command import Decoding
from nearfar.data import open_source, train_tokenizer
from nearfar.decoding import ImageConditions
from nearfar.decoding.conditions.image_conditions import RULES
from nearfar.models import vision_language_model

VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4}
VIT |= {"intermediate_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TEXTS = ["a red car", "two small dogs near a tree", "is it a fish?", "yes", "no"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model, five pictures with a table of questions, and one broken picture beside them."""
    path = tmp_path_factory.mktemp("write")
    torch.manual_seed(0)
    model = vision_language_model(VIT, "tiny", tokenizer=train_tokenizer(TEXTS * 3, 300), image_size=16, max_length=12)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(4 if weight.ndim > 1 and not name.startswith("image") else 1)
    model.save_pretrained(path / "model")
    (path / "photos").mkdir()
    draw = torch.Generator().manual_seed(1)
    for number in range(5):
        shades = torch.randint(0, 256, (18, 20, 3), generator=draw, dtype=torch.uint8)
        Image.fromarray(shades.numpy()).save(path / "photos" / f"p{number}.png")
    rows = [{"image": f"photos/p{i}.png", "text": f"is it {i}?", "answers": "yes" if i % 2 else "no"} for i in range(5)]
    rows.append({"image": "photos/broken.png", "text": "is it?", "answers": "no"})
    (path / "photos" / "broken.png").write_bytes(b"no picture")
    (path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def pictures(folder):
    return [Image.open(folder / "photos" / f"p{i}.png") for i in range(5)]


def test_it_knows_the_decodings_that_there_are():
    assert get_args(Decoding) == ("plain", *RULES)


def test_captions_are_written_as_the_model_writes_them(folder, tmp_path, capsys):
    model, out = nearfar.load(folder / "model"), tmp_path / "out.jsonl"
    words = [str(folder / "model"), str(folder / "questions.jsonl"), "--max-skipped", "0.5", "--batch-size", "2"]
    cli.main(["write", *words, "--out", str(out)])
    said = capsys.readouterr()
    assert "5 texts written to" in said.out
    assert "broken.png" in said.err or "record 5" in said.err
    rows = read(out)
    assert [row["text"] for row in rows] == model.caption(model.preprocess(pictures(folder)))
    assert [row["row"] for row in rows] == [0, 1, 2, 3, 4]
    assert set(rows[0]) == {"row", "image", "text"}
    assert len(open_source(out)) == 5
    cli.main(["write", *words])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[1] for line in lines] == [" ".join(row["text"].split()) for row in rows]
    assert lines[0].startswith(rows[0]["image"])


def test_pictures_of_a_folder_need_no_captions(folder, tmp_path, capsys):
    """Nor a name that could be one; with a prompt that asks for the record's text they do."""
    model, out = nearfar.load(folder / "model"), tmp_path / "out.jsonl"
    words = ["write", str(folder / "model"), str(folder / "photos"), "--max-skipped", "0.5", "--max-tokens", "3"]
    cli.main([*words, "--prompt", "a", "--out", str(out)])
    assert "5 texts written to" in capsys.readouterr().out
    assert {row["text"] for row in read(out)} == {*model.caption(model.preprocess(pictures(folder)), "a", max_tokens=3)}
    with pytest.raises(SystemExit, match=r"no caption: a file's name such as 'p0.png'"):
        cli.main([*words, "--prompt", "is it {}"])


def test_questions_of_a_table_are_answered_with_conditions(folder, tmp_path):
    model, out = nearfar.load(folder / "model"), tmp_path / "out.jsonl"
    words = [str(folder / "model"), str(folder / "questions.jsonl"), "--out", str(out), "--limit", "3"]
    cli.main(["write", *words, "--prompt", "is {}", "--decoding", "ritual-vcd", "--exclude", "rotation, colour_jitter"])
    prompts = [f"is is it {i}?" for i in range(3)]
    assert [row["prompt"] for row in read(out)] == prompts
    conditions = ImageConditions.of("ritual-vcd", exclude=["rotation", "colour_jitter"])
    assert [row["text"] for row in read(out)] == conditions.caption(model, pictures(folder)[:3], prompts)


def test_one_picture_and_drawn_tokens(folder, capsys):
    one = str(folder / "photos" / "p1.png")
    written = []
    for seed in ("1", "1", "2"):
        cli.main(["write", str(folder / "model"), one, "--temperature", "3", "--seed", seed, "--max-tokens", "9"])
        written.append(capsys.readouterr().out)
    assert written[0] == written[1] != written[2]
    assert written[0].startswith(f"{one}\t")


def test_a_model_is_measured_as_it_writes(folder, tmp_path, capsys):
    out = tmp_path / "results.json"
    words = ["evaluate", str(folder / "model"), "--on", str(folder / "questions.jsonl")]
    report = ["--json", str(out), "--report", str(tmp_path / "report")]
    share = ["--options", "yes_no.max_skipped=0.5"]
    cli.main([*words, "--protocols", "yes_no", "--decoding", "vcd", *share, *report])
    results = json.loads(out.read_text())
    assert "yes or no, accuracy" in (tmp_path / "report" / "report.html").read_text()
    assert results["about"]["decoding"] == "vcd"
    assert results["results"]["yes_no"]["metrics"]["accuracy"]["n"] == 5
    with pytest.raises(SystemExit, match="--decoding is of what a model writes"):
        cli.main([*words, "--protocols", "captioning", "--decoding", "vcd"])
    with pytest.raises(SystemExit, match="--decoding is of what a model writes"):
        cli.main([*words, "--decoding", "vcd"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [("--out texts.txt", "texts.txt: texts are written as .jsonl; name the file texts.jsonl"),
     ("--temperature 0", "--temperature 0.0: a number above 0"), ("--limit 0", "limit is 0"),
     ("--exclude rotation", "--exclude is of ritual's changes, and --decoding is plain"),
     ("--decoding ritual --exclude turn", "no transform 'turn'"), ("--decoding rital", "Did you mean 'ritual'?"),
     ("--max-skipped 0.1", "1 of the 6 records read could not be used"), ("--max-tokens 900", "positions")],
)  # fmt: skip
def test_a_wrong_word_is_one_sentence(folder, words, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["write", str(folder / "model"), str(folder / "questions.jsonl"), *words.split()])
    said = capsys.readouterr().err + (stop.value.code if isinstance(stop.value.code, str) else "")
    assert sentence in said


def test_what_has_no_text_or_writes_none_is_named(folder):
    with pytest.raises(SystemExit, match=r"has no text to stand for \{\}"):
        cli.main(["write", str(folder / "model"), str(folder / "photos" / "p1.png"), "--prompt", "is it {}?"])
    with pytest.raises(SystemExit, match="starter holds a DualEncoder, which writes no captions"):
        cli.main(["write", "starter", str(folder / "photos" / "p1.png")])
