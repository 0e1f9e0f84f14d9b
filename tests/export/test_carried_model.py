"""An index that carries its model as ONNX files: the same hits without transformers, and by the model itself where
they do not serve."""

import json
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar import cli, load
from nearfar.errors import UserError
from nearfar.models.exported.onnx_encoder import OnnxEncoder
from nearfar.search import query
from nearfar.search.index.manifest import CARRIED
from nearfar.search.querying.carried_model import carry
from nearfar.search.querying.open_index import open_index


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(5)
    for number, caption in enumerate(["a red fox", "ship", "dog runs", "the blue cat"]):
        Image.fromarray(noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption)
    return folder


@pytest.fixture
def mine(exported):
    """The folder of the model itself."""
    return str(exported.parent / "mine")


@pytest.fixture
def carrying(mine, photos, towers_are_there, tmp_path):
    """An index made with --onnx."""
    cli.main(["index", mine, str(photos), "--out", str(tmp_path / "idx"), "--onnx"])
    return tmp_path / "idx"


def hits(opened):
    index, encoder = opened
    return [(hit.path, round(hit.score, 4)) for hit in query(index, encoder, text="a red fox", top=4)]


def test_a_search_takes_the_files_and_gives_the_same_hits(carrying, mine, photos, tmp_path):
    opened, itself = open_index(carrying), open_index(carrying, itself=True)
    assert isinstance(opened[1], OnnxEncoder)
    assert not isinstance(itself[1], OnnxEncoder)
    assert not isinstance(open_index(carrying, model=mine)[1], OnnxEncoder)
    cli.main(["index", mine, str(photos), "--out", str(tmp_path / "without")])
    assert hits(opened) == hits(itself) == hits(open_index(tmp_path / "without"))


def test_a_query_from_a_shell_imports_nothing_of_transformers(carrying):
    code = "import sys; from nearfar import cli; cli.main(sys.argv[1:]); print('transformers' in sys.modules)"
    words = [sys.executable, "-c", code, "search", "a red fox", "--index", str(carrying)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.endswith("False\n")


def test_widths_are_cut_as_the_index_is(mine, photos, towers_are_there, tmp_path):
    words = ["index", mine, str(photos), "--out", str(tmp_path / "idx"), "--onnx", "--dim", "8"]
    cli.main(words)
    written = (tmp_path / "idx" / CARRIED / "text.onnx").stat().st_mtime_ns
    opened = open_index(tmp_path / "idx")
    assert opened[1].embed_dim == 8
    assert hits(opened) == hits(open_index(tmp_path / "idx", itself=True))
    cli.main(words)
    assert (tmp_path / "idx" / CARRIED / "text.onnx").stat().st_mtime_ns == written, "what is there is not written anew"


def test_it_stays_through_changes_and_may_come_later(mine, photos, towers_are_there, tmp_path):
    pictures, out = tmp_path / "photos", tmp_path / "idx"
    shutil.copytree(photos, pictures)
    cli.main(["index", mine, str(pictures), "--out", str(out)])
    assert not isinstance(open_index(out)[1], OnnxEncoder)
    cli.main(["index", mine, str(pictures), "--out", str(out), "--onnx"])
    for end in ("png", "txt"):
        (pictures / f"0.{end}").unlink()
    cli.main(["index", mine, str(pictures), "--out", str(out)])
    index, encoder = open_index(out)
    assert isinstance(encoder, OnnxEncoder)
    assert len(index) == 3


@pytest.mark.parametrize("fault", ["damaged", "another"])
def test_what_does_not_serve_is_left_with_a_warning_and_written_anew(fault, carrying, mine, photos):
    file = carrying / CARRIED / "text.onnx"
    if fault == "damaged":
        file.write_bytes(file.read_bytes()[:1000])
    else:
        constants = json.loads((carrying / CARRIED / "preprocess.json").read_text())
        constants["pixels"]["mean"] = [0.9, 0.1, 0.5]
        (carrying / CARRIED / "preprocess.json").write_text(json.dumps(constants))
    with pytest.warns(UserWarning, match=r"itself: .*; `nearfar index --onnx` writes .* anew"):
        _, encoder = open_index(carrying)
    assert not isinstance(encoder, OnnxEncoder)
    cli.main(["index", mine, str(photos), "--out", str(carrying), "--onnx"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(open_index(carrying)[1], OnnxEncoder)


def test_another_model_is_refused_before_anything_is_written(carrying, mine):
    other = load(mine)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(-0.5).add_(0.01 * torch.randn_like(weight))
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (carrying / CARRIED).iterdir())
    with pytest.raises(UserError, match="not the model that made the index"):
        carry(other, carrying, name="other")
    assert sorted((path.name, path.stat().st_mtime_ns) for path in (carrying / CARRIED).iterdir()) == before


def test_refused_before_anything_is_embedded(exported, photos, tmp_path, monkeypatch, mine):
    with pytest.raises(SystemExit, match="carry the one that they were exported from, 'mine'"):
        cli.main(["index", str(exported), str(photos), "--out", str(tmp_path / "idx"), "--onnx"])
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(SystemExit, match=r"nearfar\[onnx\]"):
        cli.main(["index", mine, str(photos), "--out", str(tmp_path / "idx"), "--onnx"])
    assert not (tmp_path / "idx").exists()
