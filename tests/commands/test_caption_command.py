"""`nearfar caption`: squares of four shades in two classes, and a model that sees the shade and reads its name."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar import cli
from nearfar.data import Loader, open_source, train_tokenizer
from nearfar.errors import UserError
from nearfar.prompting.image_texts import match_block
from nearfar.training.recipe import load as load_recipe

SHADES = {"red": (200, 20, 20), "green": (20, 190, 30), "blue": (20, 30, 200), "dark": (10, 10, 10)}
LONG = {
    "warm": ["It is of a red that glows in the dark night when it falls", "It is green"],
    "cold": ["It is blue", "It is dark", "It is green"],
}
SHORT = {"warm": ["red shade", "green shade"], "cold": ["blue shade", "dark shade", "green shade"]}
MOST = 8


class Shades:
    """Embeds a picture as its mean colour and a text as the first shade that it names; reads eight words."""

    image_size, embed_dim, temperature = 8, 3, 0.1

    def preprocess(self, images):
        return torch.stack([torch.from_numpy(np.asarray(i.resize((8, 8))) / 255).permute(2, 0, 1) for i in images])

    def encode_image(self, pixels, normalize=False):
        return pixels.float().mean((2, 3)) - 0.3

    def tokenize(self, texts):
        known = list(SHADES)
        rows = [[known.index(w) + 1 if w in known else 9 + len(w) for w in text.split()][:MOST] for text in texts]
        return torch.tensor([row + [0] * (MOST - len(row)) for row in rows])

    def encode_text(self, tokens, normalize=False):
        first = [next((int(i) for i in row if 1 <= i <= len(SHADES)), 4) for row in tokens]
        return torch.tensor([list(SHADES.values())[i - 1] for i in first]) / 255 - 0.3


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Ten pictures: five red and green ones of the class warm, five blue and dark ones of cold."""
    draw = np.random.default_rng(0)
    for name, shades in {"warm": ("red", "green"), "cold": ("blue", "dark")}.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(5):
            own = np.clip(np.array(SHADES[shades[i % 2]]) + draw.integers(-9, 9, 3), 0, 255)
            square = Image.new("RGB", (9, 9), tuple(int(c) for c in own))
            square.save(tmp_path / "data" / name / f"{shades[i % 2]}{i}.png")
    for name, content in {"long.json": LONG, "short.json": SHORT}.items():
        (tmp_path / name).write_text(json.dumps(content), "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nearfar.embedding.blocks.embed_blocks.load", lambda name, **options: Shades())
    return tmp_path


WORDS = ["caption", "data", "--descriptions", "long.json", "--model", "w", "--batch-size", "2", "--block", "2"]


def lines(out):
    return [json.loads(line) for line in (out / "captions.jsonl").read_text("utf-8").splitlines()]


def test_each_picture_gets_the_texts_of_its_class_that_fit_it(folder, capsys):
    cli.main([*WORDS, "--short", "short.json", "--top", "2", "--out", "c"])
    said = capsys.readouterr().out
    assert "10 of 10 pictures captioned; " in said
    assert f"nearfar train gist data.train={'c'}" in said
    rows = lines(folder / "c")
    assert len(rows) == 10
    for row in rows:
        shade = os.path.basename(row["image"])[:-5]
        assert row["label"] == ("warm" if shade in ("red", "green") else "cold")
        assert row["text"][0] == f"{row['label']}: {shade} shade"
        assert {*row["text"]} <= {f"{row['label']}: {short}" for short in SHORT[row["label"]]}
        assert row["cosine"] == sorted(row["cosine"], reverse=True)
        assert len(row["text"]) == 2
        assert row["matched"] == [LONG[row["label"]][SHORT[row["label"]].index(t.split(": ")[1])] for t in row["text"]]
    source = open_source("c")
    assert [(str(r["image"]), r["text"], source.classes[r["label"]]) for r in source] == [
        (os.path.relpath(row["image"]), row["text"], row["label"]) for row in rows
    ]
    report = (folder / "c" / "report.html").read_text("utf-8")
    assert "red shade" in report
    assert report.count("data:image/webp") == 10


def test_texts_that_are_not_read_to_their_end_are_named(folder, capsys):
    cli.main([*WORDS, "--out", "c"])
    said = capsys.readouterr().out
    assert "1 descriptions are longer than w reads, and their end is not compared" in said
    assert "1 captions are longer than w reads, and their end is not trained on" in said
    text = f"warm: {LONG['warm'][0]}"
    assert (folder / "c" / "cut.txt").read_text("utf-8").splitlines().count(text) == 2
    cli.main([*WORDS, "--out", "c", "--short", "short.json"])
    assert "captions are longer" not in capsys.readouterr().out
    assert (folder / "c" / "cut.txt").read_text("utf-8").splitlines().count(text) == 1


def test_a_table_that_training_reads(folder):
    cli.main([*WORDS, "--out", "c"])
    source = open_source("c/captions.jsonl")
    assert [record["text"] for record in source] == [row["text"] for row in lines(folder / "c")]
    assert source.classes == ["cold", "warm"]


def test_a_picture_is_in_a_batch_once_and_comes_with_each_of_its_captions(folder):
    cli.main([*WORDS, "--top", "3", "--out", "c"])
    source = open_source("c")
    tokenizer = train_tokenizer(source.texts(), 300, max_length=40)
    loader = Loader(source, batch_size=5, tokenizer=tokenizer, image_size=8, caption="turn")
    shown = {}
    for _ in range(6):
        pairs = (zip(batch["index"].tolist(), batch["text"]["input_ids"], strict=True) for batch in loader)
        rows = [pair for each in pairs for pair in each]
        assert sorted(index for index, _ in rows) == list(range(10))
        for index, ids in rows:
            shown.setdefault(index, []).append(tokenizer.decode(ids, skip_special_tokens=True).strip())
    for index, record in enumerate(source):
        texts = [text.lower() for text in record["text"]]
        assert len(texts) == (2 if record["label"] else 3)
        for start in range(0, 6, len(texts)):
            assert sorted(shown[index][start : start + len(texts)]) == sorted(texts)


def test_a_run_that_was_stopped_goes_on(folder, monkeypatch, capsys):
    cli.main([*WORDS, "--out", "whole"])
    work = match_block.BlockMatcher.__call__

    def stopped(self, number):
        if number == 2:
            raise KeyboardInterrupt
        return work(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(match_block.BlockMatcher, "__call__", stopped)
        with pytest.raises(SystemExit):
            cli.main([*WORDS, "--out", "c"])
    assert not (folder / "c" / "captions.jsonl").exists()
    with pytest.raises(UserError):
        open_source("c")
    capsys.readouterr()
    cli.main([*WORDS, "--out", "c"])
    assert "3 blocks made, 7 were there" in capsys.readouterr().out
    assert lines(folder / "c") == lines(folder / "whole")
    # Other descriptions: the pictures stay embedded, and what was matched before is still there.
    (folder / "long.json").write_text(json.dumps({**LONG, "warm": ["It is green"]}), "utf-8")
    cli.main([*WORDS, "--out", "c"])
    assert "5 blocks made, 5 were there" in capsys.readouterr().out
    assert {tuple(row["text"]) for row in lines(folder / "c") if row["label"] == "warm"} == {("warm: It is green",)}
    (folder / "long.json").write_text(json.dumps(LONG), "utf-8")
    cli.main([*WORDS, "--out", "c"])
    assert "0 blocks made, 10 were there" in capsys.readouterr().out
    assert lines(folder / "c") == lines(folder / "whole")


def test_blocks_and_batches_change_nothing(folder):
    for name, block in {"a": "2", "b": "64"}.items():
        cli.main([*WORDS[:-3], block, "--block", block, "--out", name])
    assert lines(folder / "a") == lines(folder / "b")


def test_captions_of_the_pictures_are_the_descriptions_by_default(folder, capsys):
    rows = ["image,text,label"]
    for name, shades in {"warm": ("red", "green"), "cold": ("blue", "dark")}.items():
        rows += [f"data/{name}/{shades[i % 2]}{i}.png,it is {shades[i % 2]},{name}" for i in range(5)]
    rows += ["data/cold/blue0.png,Cold,cold", "data/warm/red0.png,it is dark,"]
    (folder / "t.csv").write_text("\n".join(rows), "utf-8")
    cli.main(["caption", "t.csv", "--model", "w", "--out", "c", "--top", "1"])
    assert "11 of 12 pictures captioned; 4 of 4 descriptions" in capsys.readouterr().out
    assert [row["text"] for row in lines(folder / "c")][:2] == [["warm: it is red"], ["warm: it is green"]]
    assert len(open_source("c")) == 11
    with pytest.raises(SystemExit, match="no captions but the names of its classes: name a file of texts by class"):
        cli.main(["caption", "data", "--model", "w", "--out", "d"])
    bare = [row for row in rows if "it is blue" not in row and "it is dark" not in row]
    (folder / "t.csv").write_text("\n".join(bare), "utf-8")
    with pytest.raises(SystemExit, match="no captions of 'cold' but this name: name a file of texts by class"):
        cli.main(["caption", "t.csv", "--model", "w", "--out", "e"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top", "0"], "top is 0"),
        (["--descriptions", "none.json"], "none.json is not there"),
        (["--descriptions", "other.json"], "no descriptions of the class 'cold'. Did you mean 'colds'?"),
        (["--short", "other.json"], "short forms of 'colds'"),
        (["--short", "few.json"], "the class 'warm' has 2 descriptions and 1 short ones"),
    ],
    ids=["top", "missing", "class", "strange", "few"],
)
def test_wrong_words_are_named_before_anything_is_embedded(folder, words, message):
    (folder / "other.json").write_text('{"warm": "red", "colds": "blue"}', "utf-8")
    (folder / "few.json").write_text('{"warm": "red"}', "utf-8")
    with pytest.raises(SystemExit) as stop:
        cli.main([*WORDS, "--out", "c", *words])
    assert message in str(stop.value.code)
    assert not (folder / "c").exists()


def test_data_without_labels_and_short_forms_without_descriptions(folder):
    (folder / "t.csv").write_text("image,text\ndata/cold/blue0.png,it is blue\n", "utf-8")
    with pytest.raises(SystemExit, match="names no classes, and a picture gets texts of its class: name the column"):
        cli.main(["caption", "t.csv", *WORDS[2:], "--out", "c"])
    with pytest.raises(SystemExit, match="--short has the shortened forms of --descriptions"):
        cli.main(["caption", "data", "--short", "short.json", "--out", "c"])


TINY = {
    "model.load": None,
    "model.preset": "tiny-vit",
    "model.image_size": 32,
    "model.vocab_size": 300,
    "training.workers": 0,
    "training.report": False,
    "training.epochs": 2,
    "data.validation": None,
}


@pytest.mark.parametrize("recipe", ["gist", "gist-paper"])
def test_the_recipes_train_on_the_folder_and_probe_what_was_learned(folder, recipe):
    cli.main([*WORDS, "--out", "c"])
    small = {**TINY, "data.train": "c", "training.batch_size": 4, "evaluation.data": "data"}
    ready = load_recipe(recipe, small)
    assert ready.evaluation.options == {"linear_probe": {"ks": [1, 3]}}
    run = ready.run(folder / "run")
    assert run.step == 4
    metrics = run.results["linear_probe"].metrics
    assert metrics["top1"].low <= metrics["top1"].value <= metrics["top1"].high


def test_a_stream_is_refused(folder):
    """The names of its classes are not known beforehand."""
    with tarfile.open(folder / "0.tar", "w") as tar:
        for ending, content in (("png", (folder / "data" / "warm" / "red0.png").read_bytes()), ("cls", b"warm")):
            member = tarfile.TarInfo(f"a.{ending}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(SystemExit, match="is a stream, and the names of its classes are known once all of it is read"):
        cli.main(["caption", "0.tar", *WORDS[2:], "--out", "c"])
    with pytest.raises(SystemExit, match="has no captions by class to take for descriptions"):
        cli.main(["caption", "0.tar", "--model", "w", "--out", "c"])
