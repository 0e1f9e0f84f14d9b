"""`nearfar heatmap`: a drawing of where words are in a picture, and what is said of a model or a file that is none."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar import cli
from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.evaluation.words.word_heatmaps import draw_word_heatmaps
from nearfar.models import create, vision_language_model

VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and a picture."""
    made = tmp_path_factory.mktemp("heat")
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a red car", "the blue sky"] * 3, 300)
    vision_language_model(VIT, "tiny", tokenizer=tokenizer, image_size=32).save_pretrained(made / "model")
    create("tiny", tokenizer=tokenizer).save_pretrained(made / "pair")
    Image.new("RGB", (60, 40), "red").save(made / "photo.png")
    return made


def test_it_draws_and_says_where_each_word_peaks(folder, tmp_path, capsys):
    out = tmp_path / "new" / "drawn.png"
    cli.main(["heatmap", str(folder / "model"), str(folder / "photo.png"), "red car, sky", "--out", str(out)])
    said = capsys.readouterr().out
    assert "red car: peaks at row " in said
    assert "of 4, cosine " in said
    with Image.open(out) as drawn:
        assert drawn.width > drawn.height > 100
        assert len(np.unique(np.asarray(drawn.convert("RGB")).reshape(-1, 3), axis=0)) > 50


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model", "photo.png", " , "], "words are missing"),
        (["pair", "photo.png", "red"], "is a DualEncoder: name the folder of a vision_language_model"),
        (["model", "none.png", "red"], "none.png"),
        (["model", "photo.png", "a"], "'a' has no word that counts"),
        (["model", "photo.png", "red", "--out", "drawn.txt"], "drawn.txt: name a file that ends in .png"),
    ],
    ids=["no words", "another model", "no picture", "a word that says nothing", "no drawing"],
)
def test_what_cannot_be_is_named(folder, words, said, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as stop:
        cli.main(["heatmap", *words])
    assert said in str(stop.value.code)


def test_all_maps_have_one_scale_and_must_be_one_a_word(tmp_path):
    picture = Image.new("RGB", (30, 20), "white")
    maps = np.arange(2 * 3 * 3, dtype=float).reshape(2, 3, 3)
    path = draw_word_heatmaps(picture, ["low", "high"], maps, (0, 0, 30, 20), tmp_path / "a.svg")
    drawn = path.read_text("utf-8")
    assert drawn.count("<image") == 4, "the picture, two maps over it, and their scale"
    assert "<!-- low  8.00 -->" in drawn
    scale = [float(number) for number in re.findall(r"<!-- ([0-9.]+) -->", drawn)]
    assert max(scale) > 8, "it goes up to what the other map has"
    with pytest.raises(UserError, match="there are 1 words"):
        draw_word_heatmaps(picture, ["low"], maps, (0, 0, 30, 20), tmp_path / "a.png")
