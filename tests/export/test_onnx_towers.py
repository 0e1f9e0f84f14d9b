"""A model as ONNX: what is kept gives the model's own embeddings, without torch; what differs is refused and gone."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nearfar.cli import main
from nearfar.errors import UserError
from nearfar.export import onnx_towers

EXAMPLE = Path(__file__).parents[2] / "examples" / "embed_onnx.py"


def test_the_folder_holds_all_that_is_needed(exported):
    assert {path.name for path in exported.iterdir()} == {
        *("image.onnx", "text.onnx", "tokenizer.json", "preprocess.json", "README.md")
    }
    constants = json.loads((exported / "preprocess.json").read_text("utf-8"))
    assert constants["opset"] == onnx_towers.OPSET == 18
    assert (constants["embed_dim"], constants["pixels"]["size"], constants["text"]["max_length"]) == (16, 32, 40)
    assert constants["temperature"] == pytest.approx(0.05)
    card = (exported / "README.md").read_text("utf-8")
    assert "image tower: 3 probes, greatest difference" in card
    assert "text tower: 14 probes, greatest difference" in card
    assert 'python embed_onnx.py this/folder "a red car" car.png' in card
    assert 'model = nearfar.load("this/folder")' in card


def test_the_command_prints_its_own_words_alone(export_command):
    done, out = export_command
    image, text, where = done.stdout.splitlines()[:3]
    assert image.startswith("image tower: 3 probes, greatest difference ")
    assert text.startswith("text tower: 14 probes, greatest difference ")
    assert where == f"{out}: opset 18, batch and text length are free"
    assert len(done.stdout.splitlines()) == 3 + 2 + 2, "of the model, and of two with one tower"
    assert done.stderr == ""


def test_the_example_gives_the_models_embeddings(exported, exported_model, texts, pictures):
    embedder = runpy.run_path(str(EXAMPLE))["Embedder"](exported)
    for some in (texts, texts[:1], [texts[0] * 30]):
        own = exported_model.encode(some, normalize_embeddings=True)
        np.testing.assert_allclose(embedder.texts(some), own, atol=1e-5)
    own = exported_model.encode(pictures[:4], normalize_embeddings=True)
    np.testing.assert_allclose(embedder.pictures(pictures[:4]), own, atol=1e-5)
    np.testing.assert_allclose(embedder.pictures(pictures[3:4]), own[3:], atol=1e-5)


@pytest.mark.parametrize(
    "settings", [{"fit": "pad"}, {"fit": "squash", "resize": 40}, {"resize": 50, "resample": "bilinear"}]
)
def test_the_example_prepares_pictures_as_the_model(exported, settings, pictures):
    from dataclasses import asdict

    from nearfar.models.towers.pixels import Pixels

    pixels = Pixels(32, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), **settings)
    embedder = runpy.run_path(str(EXAMPLE))["Embedder"](exported)
    embedder.constants["pixels"] = {**asdict(pixels), "resize": pixels.resize or pixels.size}
    ours = np.stack([embedder.pixels(picture) for picture in pictures[:4]])
    np.testing.assert_allclose(ours, pixels(pictures[:4]).numpy(), atol=1e-5)


def test_the_example_runs_without_torch(exported, tmp_path, pictures):
    assert len(EXAMPLE.read_text("utf-8").splitlines()) <= 90
    pictures[0].save(tmp_path / "a.png")
    code = (
        "import runpy, sys\n"
        "for name in ('torch', 'nearfar', 'transformers'): sys.modules[name] = None\n"
        f"sys.argv[0] = {str(EXAMPLE)!r}\n"
        f"runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')\n"
    )
    long = "ship " * 100  # longer than names of files may be
    for files, compared in (([str(tmp_path / "a.png")], 1), ([], 2)):
        child = [sys.executable, "-c", code, str(exported), "a red fox", *files, long]
        out = subprocess.run(child, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
        assert [line for line in out if not line.startswith(" ")] == ["a red fox", long]
        assert len(out) == 2 + 2 * compared


def test_a_difference_is_refused_and_nothing_is_kept(exported_model, towers_are_there, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_towers, "CLOSE", -1.0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "text.onnx").write_text("before")
    with pytest.raises(
        UserError, match=r"image tower gives other embeddings through onnxruntime than in torch .by up to"
    ):
        onnx_towers.export_onnx(exported_model, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "text.onnx").read_text() == "before"


def test_the_command_says_what_is_missing(tmp_path):
    for words in ([], ["--onnx", "--sentence-transformers"]):
        with pytest.raises(SystemExit, match="say what to write: --onnx, --sentence-transformers, or --torchvision"):
            main(["export", "towers", *words, "--out", str(tmp_path / "out")])
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="this folder holds other things, and would be replaced"):
        main(["export", "towers", "--onnx", "--out", str(tmp_path)])
