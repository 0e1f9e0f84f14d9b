"""`nearfar describe`: a table that is searched in the place of pictures, by a small model that was saved."""

import json

import pytest
import torch
from PIL import Image

from nearfar import cli
from nearfar.data import train_tokenizer
from nearfar.models import vision_language_model
from nearfar.models.vlm.vision_language_model import VisionLanguageModel

VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4}
VIT |= {"intermediate_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SHORT = ["--scene-tokens", "9", "--objects-tokens", "9"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model, four pictures and a broken one."""
    path = tmp_path_factory.mktemp("describe")
    torch.manual_seed(0)
    words = train_tokenizer(["a red car", "two small dogs near a tree"] * 3, 300)
    model = vision_language_model(VIT, "tiny", tokenizer=words, image_size=16, max_length=12)
    model.save_pretrained(path / "model")
    (path / "photos").mkdir()
    draw = torch.Generator().manual_seed(1)
    for number in range(4):
        shades = torch.randint(0, 256, (18, 20, 3), generator=draw, dtype=torch.uint8)
        Image.fromarray(shades.numpy()).save(path / "photos" / f"p{number}.png")
    (path / "photos" / "broken.png").write_bytes(b"no picture")
    return path


@pytest.fixture
def answers(monkeypatch):
    """What the model is made to write of each picture, by the red of its first pixel."""
    calls = []

    def caption(self, pixels, prompt, *, max_tokens=None, seed=None, **options):
        calls.append((len(pixels), max_tokens))
        reds = [round(10 * each.item()) for each in pixels[:, 0, 0, 0]]
        if "JSON" not in prompt:
            return [f"a scene at ann@example.org, number {red}" for red in reds]
        listed = ['[{"name": "car"}, {"name": "dog", "position": "left"}', "none", '[{"name": "kite"}]', "[]"]
        return [listed[number % 4] for number in range(len(reds))]

    monkeypatch.setattr(VisionLanguageModel, "caption", caption)
    return calls


def read(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_descriptions_are_written_and_indexed(folder, tmp_path, monkeypatch, capsys, answers):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "private.txt").write_text("[a-z]+@[a-z.]+\n\nlef+t\n")
    words = [
        "describe",
        str(folder / "model"),
        str(folder / "photos"),
        "--max-skipped",
        "0.5",
        "--redact",
        "private.txt",
    ]
    cli.main([*words, "--batch-size", "4"])
    said = capsys.readouterr()
    assert "4 pictures described in descriptions.jsonl" in said.out
    assert "1 lists of objects were no whole JSON, and were mended" in said.err
    assert "1 lists of objects could not be read: there the scene is all" in said.err
    assert "broken.png" in said.err or "record" in said.err
    assert answers == [(4, 200), (4, 400)]
    rows = read(tmp_path / "descriptions.jsonl")
    assert rows[0]["text"].startswith("a scene at [redacted], number ")
    assert rows[0]["text"].endswith(" Objects: car; dog [redacted]")
    assert "ann@" not in (tmp_path / "descriptions.answers.jsonl").read_text()
    cli.main([*words, "--encoder", "minilm", "--tokens", "16", "--join", "halves", *("--limit", "5")])
    said = capsys.readouterr()
    assert "0 of 4 met the model, the others were described before" in said.err
    assert "texts were cut" in said.err
    assert len(answers) == 2
    cli.main(["index", "minilm", "descriptions.jsonl", "--keep", "image"])
    capsys.readouterr()
    cli.main(["search", "a kite", "--json", "--top", "1"])
    hit = json.loads(capsys.readouterr().out)[0]
    assert "kite" in hit["caption"]
    assert hit["kept"]["image"] == next(row["image"] for row in rows if "kite" in row["text"])


def test_a_small_model_describes_every_picture(folder, tmp_path, capsys):
    """What it writes means nothing, and is a description all the same."""
    out = tmp_path / "out.jsonl"
    cli.main(
        ["describe", str(folder / "model"), str(folder / "photos"), "--out", str(out), "--max-skipped", "1", *SHORT]
    )
    assert "4 pictures described" in capsys.readouterr().out
    assert {row["row"] for row in read(out)} == {1, 2, 3, 4}
    one = str(folder / "photos" / "p1.png")
    cli.main(["describe", str(folder / "model"), one, "--out", str(tmp_path / "one.jsonl"), *SHORT])
    assert read(tmp_path / "one.jsonl")[0]["text"] == read(out)[2]["text"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [("--out d.csv", "d.csv: descriptions are written as .jsonl; name the file d.jsonl"),
     ("--tokens 20", "--tokens are those of an encoder of texts: name it with --encoder"),
     ("--join middle", "not 'middle'"), ("--batch-size 0", "batch_size is 0"),
     ("--redact wrong.txt", "wrong.txt, line 2 is no regular expression from character 2"),
     ("--redact empty.txt", "empty.txt holds no regular expression"), ("--redact none.txt", "none.txt"),
     ("--redact latin.txt", "latin.txt is not UTF-8 text: save it as UTF-8"),
     ("--encoder minilm --tokens 1", "tokens=1: an empty text has 2 already")],
)  # fmt: skip
def test_a_wrong_word_is_one_sentence(folder, tmp_path, monkeypatch, words, sentence, capsys, answers):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.txt").write_text("a\nab(c\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    photos = str(folder / "photos")
    with pytest.raises(SystemExit) as stop:
        cli.main(["describe", str(folder / "model"), photos, "--max-skipped", "0.5", *words.split()])
    said = capsys.readouterr().err + (stop.value.code if isinstance(stop.value.code, str) else "")
    assert sentence in said


def test_what_writes_nothing_is_named(folder):
    with pytest.raises(SystemExit, match="starter holds a DualEncoder, which writes of no pictures"):
        cli.main(["describe", "starter", str(folder / "photos")])
