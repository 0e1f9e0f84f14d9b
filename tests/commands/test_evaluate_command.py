import json

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar.cli import main
from nearfar.data.sources.source import Records
from nearfar.evaluation import load_results

COLOURS = {"red": (200, 20, 20), "green": (20, 190, 30), "blue": (20, 30, 200)}


class Colours:
    """A model in two lines: mean colour of the image, colour that the text names."""

    image_size, embed_dim = 8, 3

    def preprocess(self, images):
        return torch.stack([torch.from_numpy(np.asarray(i.resize((8, 8))) / 255).permute(2, 0, 1) for i in images])

    def encode_image(self, pixels, normalize=False):
        return pixels.float().mean((2, 3)) - 0.3

    def tokenize(self, texts):
        return {"input_ids": torch.tensor([[next(i for i, n in enumerate(COLOURS) if n in t)] for t in texts])}

    def encode_text(self, tokens, normalize=False):
        return torch.tensor(list(COLOURS.values()))[tokens["input_ids"][:, 0]] / 255 - 0.3


@pytest.fixture
def folder(tmp_path):
    for name, colour in COLOURS.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(4):
            # Of different sizes: the same bytes would be one picture, which is not split.
            Image.new("RGB", (9, 9 + i), colour).save(tmp_path / "data" / name / f"{i}.png")
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def _model(monkeypatch):
    monkeypatch.setattr("nearfar.models.load", lambda name: Colours(), raising=False)


def test_tables_json_and_report(folder, tmp_path, capsys):
    out = tmp_path / "out.json"
    protocols = ["retrieval", "zero_shot", "knn"]
    files = ["--json", str(out), "--report", str(tmp_path / "r")]
    main(["evaluate", "toy", "--on", str(folder), *files, "--seed", "3", "--protocols", *protocols])
    printed = capsys.readouterr().out
    assert "zero shot" in printed
    assert "chance" in printed
    assert list(load_results(out)) == protocols
    assert load_results(out)["zero_shot"]["top1"] == 1
    assert json.loads(out.read_text())["about"]["model"] == "toy"
    assert json.loads(out.read_text())["about"]["seed"] == 3
    assert "Embedding map" in (tmp_path / "r" / "report.html").read_text()


def test_the_world_means_its_test_split(monkeypatch, capsys):
    loaded = []

    def open_source(spec, *, split, world_split, **columns):
        loaded.append((spec, split or world_split))
        pictures = [
            {"image": Image.new("RGB", (9, 9), colour), "text": name, "label": i}
            for i, (name, colour) in enumerate(COLOURS.items())
        ]
        return Records(pictures * 2, classes=list(COLOURS))

    monkeypatch.setattr("nearfar.data.open_source", open_source, raising=False)
    main(["evaluate", "toy", "--train", "world/clipart", "--protocols", "knn"])
    main(["evaluate", "toy", "--split", "val", "--templates", "a {}"])
    main(["evaluate", "toy", "--on", "world/emoji", "--train", "world/emoji", "--protocols", "knn"])
    assert loaded == [
        ("world/emoji", "test"),
        ("world/clipart", "train"),
        ("world/emoji", "val"),
        ("world/emoji", "test"),
        ("world/emoji", "train"),
    ]


def test_mistakes_are_told(folder, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "toy", "--protocols", "magic"])
    assert "magic" in capsys.readouterr().err
    for words, message in {
        ("--limit", "0"): "limit is 0, but must be 1 or more",
        ("--batch-size", "-4"): "batch-size is -4",
        ("--json", str(folder)): "is a folder: name a file to write",
        ("--report", str(folder / "red" / "0.png")): "0.png is a file, and a folder is to be written there",
    }.items():
        with pytest.raises(SystemExit, match=message):
            main(["evaluate", "toy", "--on", str(folder), *words])
    with pytest.raises(SystemExit, match="nowhere"):
        main(["evaluate", "toy", "--on", "nowhere"])
    with pytest.raises(SystemExit, match="template"):
        main(["evaluate", "toy", "--on", str(folder), "--protocols", "zero_shot", "--templates", "plain"])


def test_the_first_records_only(folder, tmp_path, capsys):
    out = tmp_path / "out.json"
    main(["evaluate", "toy", "--on", str(folder), "--limit", "5", "--json", str(out), "--protocols", "zero_shot"])
    assert load_results(out)["zero_shot"].metrics["top1"].n == 5


def test_pictures_with_captions_alone_are_measured_as_far_as_they_go(tmp_path, capsys):
    """No classes: without --protocols the command leaves zero-shot out, and says so."""
    for name, colour in COLOURS.items():
        Image.new("RGB", (9, 9), colour).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"all {name}")
    out = tmp_path / "out.json"
    main(["evaluate", "toy", "--on", str(tmp_path), "--json", str(out)])
    assert list(load_results(out)) == ["retrieval", "geometry"]
    assert "zero_shot is left out, as" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no labels"):
        main(["evaluate", "toy", "--on", str(tmp_path), "--protocols", "zero_shot"])
