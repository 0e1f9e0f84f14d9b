"""`--captions none`: a folder of photos without a word is embedded, indexed, searched, measured and trained on."""

import json

import pytest
from PIL import Image

from nearfar import cli
from nearfar.evaluation import Embeddings


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(8):
        Image.new("RGB", (64, 64), (30 * i, 250 - 30 * i, 90)).save(folder / f"IMG_{i:04}.jpg")
    return folder


def test_embed_index_and_search_by_picture(photos, tmp_path, capsys):
    cli.main(["embed", "starter", str(photos), "--captions", "none", "--out", str(tmp_path / "e.safetensors")])
    embeddings = Embeddings.load(tmp_path / "e.safetensors")
    assert (len(embeddings.image), len(embeddings.text)) == (8, 0)

    index = str(tmp_path / "index")
    cli.main(["index", "starter", str(photos), "--captions", "none", "--out", index])
    assert "8 pictures" in capsys.readouterr().out
    cli.main(["search", "--index", index, "--image", str(photos / "IMG_0003.jpg"), "--top", "1", "--json"])
    assert json.loads(capsys.readouterr().out)[0]["path"].endswith("IMG_0003.jpg")


def test_evaluate_measures_what_needs_no_text_and_says_so_of_the_rest(photos, tmp_path):
    out = tmp_path / "r.json"
    on = ["evaluate", "starter", "--on", str(photos), "--captions", "none"]
    cli.main([*on, "--protocols", "geometry", "--json", str(out)])
    assert {name.split("_")[0] for name in json.loads(out.read_text())["results"]["geometry"]["metrics"]} == {"image"}
    with pytest.raises(SystemExit, match="retrieval needs captions"):
        cli.main([*on, "--protocols", "retrieval"])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (
            ["evaluate", "starter", "--captions", "nine", "--on"],
            "must be a whole number or one of txt, class, name, none",
        ),
        (["index", "starter", "--captions", "nine"], "--captions must be one of txt, class, name, none"),
        (["adapt", "--captions", "none"], "adapt takes pairs; leave out captions='none'"),
    ],
)
def test_what_cannot_be_is_one_sentence(photos, words, why, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*words, str(photos)])
    assert why in f"{stopped.value} {capsys.readouterr().err}"


def test_a_recipe_takes_it_too(photos, tmp_path):
    spec = f"data.train={{spec: {photos}, captions: none}}"
    small = [
        "data.validation=null",
        "evaluation.data=null",
        "training.steps=1",
        "model.preset=micro-resnet",
        "evaluation.watch=[]",
    ]
    cli.main(["train", "simclr", spec, *small, "training.batch_size=4", "--out", str(tmp_path / "run")])
    assert (tmp_path / "run" / "report.html").is_file()
    with pytest.raises(SystemExit, match="has no 'text'"):
        cli.main(["train", "clip", spec, "training.batch_size=4", "--out", str(tmp_path / "none")])
