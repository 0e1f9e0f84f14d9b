"""Every command that takes a model takes an exported one, or says which to take instead."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from nearfar import cli
from nearfar.evaluation import Embeddings
from nearfar.search import query
from nearfar.search.querying.open_index import open_index
from search.visitors import served

HEAVY = ("transformers", "sympy", "scipy", "pandas")
CODE = """
import json, sys
from nearfar import cli
cli.main(sys.argv[1:])
print(json.dumps(sorted(name for name, module in sys.modules.items() if getattr(module, "__file__", None))))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of pictures with captions."""
    folder = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(3)
    for number in range(12):
        shape = (20 + 5 * number, 40, 3)
        Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(["a red fox", "ship", "dog runs"][number % 3])
    return folder


@pytest.fixture(scope="module")
def index(exported, photos, tmp_path_factory):
    """Made by the model that was exported."""
    out = tmp_path_factory.mktemp("index") / "idx"
    cli.main(["index", str(exported.parent / "mine"), str(photos), "--out", str(out)])
    return out


def printed(capsys, *words):
    capsys.readouterr()
    cli.main([str(word) for word in words])
    return capsys.readouterr().out


def test_an_index_gives_the_same_hits_by_the_exported_twin(index, exported, photos, capsys):
    for words in (["a red fox"], ["--image", photos / "4.png"], ["ship", "--plus", "dog", "--minus", "fox"]):
        own, twin = (
            json.loads(printed(capsys, "search", *words, "--index", index, "--json", *model))
            for model in ([], ["--model", exported])
        )
        assert [hit["path"] for hit in twin] == [hit["path"] for hit in own]
        np.testing.assert_allclose([h["score"] for h in twin], [h["score"] for h in own], atol=2e-5)
        assert len(own) == 10


def test_a_query_imports_nothing_that_it_does_not_need(index, exported):
    words = ["search", "a red fox", "--index", str(index), "--model", str(exported), "--json"]
    done = subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True, timeout=240, check=True)
    modules = json.loads(done.stdout.rsplit("\n", 2)[1])
    assert [name for name in modules if name.partition(".")[0] in HEAVY] == []
    assert len([name for name in modules if name.partition(".")[0] == "nearfar"]) <= 75
    assert {"onnxruntime", "tokenizers"} <= {*modules}


def test_another_model_s_export_is_refused(index, exported, tmp_path):
    """Of the same towers, whose numbers are others."""
    onnx = pytest.importorskip("onnx")
    other = shutil.copytree(exported, tmp_path / "other")
    noise = np.random.default_rng(5)
    for side in ("image", "text"):
        tower = onnx.load(other / f"{side}.onnx")
        for weights in tower.graph.initializer:
            numbers = onnx.numpy_helper.to_array(weights)
            if numbers.dtype == np.float32 and numbers.ndim > 1:
                drawn = (0.02 * noise.standard_normal(numbers.shape)).astype(np.float32)
                weights.CopyFrom(onnx.numpy_helper.from_array(drawn, weights.name))
        onnx.save(tower, other / f"{side}.onnx")
    with pytest.raises(SystemExit, match="this is not the model that made the index"):
        cli.main(["search", "ship", "--index", str(index), "--model", str(other)])


def test_many_queries(index, exported, tmp_path):
    queries = tmp_path / "queries.txt"
    queries.write_text("a red fox\nship\n")
    hits = []
    for name, model in (("own", []), ("twin", ["--model", str(exported)])):
        out = tmp_path / f"{name}.jsonl"
        cli.main(["search", "--index", str(index), "--queries", str(queries), "--out", str(out), *model])
        hits.append([json.loads(line) for line in out.read_text().splitlines()])
    own, twin = ([(line["text"], [hit["path"] for hit in line["hits"]]) for line in each] for each in hits)
    assert twin == own
    assert [(text, len(paths)) for text, paths in own] == [("a red fox", 10), ("ship", 10)]


def test_embed_and_index_by_the_exported_model(exported, photos, index, tmp_path, capsys):
    made = {}
    for name, model in (("own", exported.parent / "mine"), ("twin", exported)):
        cli.main(["embed", str(model), str(photos), "--out", str(tmp_path / f"{name}.safetensors")])
        made[name] = Embeddings.load(tmp_path / f"{name}.safetensors")
    for side in ("image", "text"):
        np.testing.assert_allclose(getattr(made["twin"], side), getattr(made["own"], side), atol=1e-5)
    cli.main(["embed", str(exported), str(photos), "--out", str(tmp_path / "blocks"), "--block", "5"])
    cli.main(["index", str(exported), str(photos), "--out", str(tmp_path / "idx"), "--dim", "8"])
    hits = json.loads(printed(capsys, "search", "ship", "--index", tmp_path / "idx", "--json"))
    assert len(hits) == 10
    opened, encoder = open_index(tmp_path / "idx")
    assert (opened.manifest.model, encoder.embed_dim) == (str(exported), 8)
    opened, encoder = open_index(tmp_path / "idx", model=str(exported.parent / "mine"))
    assert [hit.path for hit in query(opened, encoder, text="ship")] == [hit["path"] for hit in hits]


def test_evaluate_gives_the_same_figures(exported, photos, tmp_path):
    results = []
    for name, model in (("own", exported.parent / "mine"), ("twin", exported)):
        out = tmp_path / f"{name}.json"
        words = ["evaluate", str(model), "--on", str(photos), "--protocols", "retrieval", "geometry"]
        cli.main([*words, "--json", str(out), "--report", str(tmp_path / name)])
        results.append(json.loads(out.read_text())["results"])
    own, twin = ({**each["retrieval"]["metrics"], **each["geometry"]["metrics"]} for each in results)
    assert {name: figure["value"] for name, figure in twin.items()} == pytest.approx(
        {name: figure["value"] for name, figure in own.items()}, abs=1e-4
    )
    report = (tmp_path / "twin" / "report.html").read_text()
    assert "0 in all" not in report


@pytest.mark.parametrize(
    ("doing", "words"),
    [
        ("export", ["export", "{model}", "--onnx"]),
        ("export", ["export", "{model}", "--sentence-transformers"]),
        ("adapt", ["adapt", "{photos}", "--model", "{model}"]),
        ("train", ["train", "{recipe}"]),
    ],
)
def test_what_trains_or_exports_says_what_to_take_instead(doing, words, exported, photos, tmp_path):
    recipe = tmp_path / "clip.yaml"
    values = {"data": {"train": str(photos)}, "model": {"load": str(exported)}, "method": {"name": "clip"}}
    recipe.write_text("# An exported model.\n" + yaml.safe_dump({**values, "training": {"steps": 1, "batch_size": 4}}))
    written = [word.format(model=exported, photos=photos, recipe=recipe) for word in words]
    sentence = f"holds a model as ONNX files, which only embed: {doing} the one that they were exported from, 'mine'"
    with pytest.raises(SystemExit, match=sentence):
        cli.main([*written, "--out", str(tmp_path / "out")])


def test_serve_answers_with_it(index, exported, exported_model):
    pytest.importorskip("gradio")
    httpx = pytest.importorskip("httpx")
    from nearfar.search.page.serving import uploads_folder

    opened, encoder = open_index(index, model=str(exported))
    with uploads_folder() as uploads, served(opened, encoder, uploads) as address:
        answer = httpx.post(f"{address}/api/search", json={"text": "ship", "top": 3}, timeout=60)
    expected = query(opened, exported_model, text="ship", top=3)
    assert [hit["path"] for hit in answer.json()["hits"]] == [hit.path for hit in expected]
