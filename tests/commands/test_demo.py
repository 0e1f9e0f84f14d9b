"""The demo, on a tiny recipe: all that it promises is there, and every figure has its chance."""

import contextlib
import hashlib
import io
import json
import re

import pytest
import yaml

import nearfar
from nearfar.cli import main
from nearfar.commands.demo_command import PAIRS, mark, vacant
from nearfar.data import hold_out, open_source, world
from nearfar.evaluation import load_results
from nearfar.search import Index
from nearfar.training.recipe import load

TINY = {
    "data": {"train": {"spec": "world/emoji", "styles": ["noto"]}, "limit": 60, "precompute": ["none", "mirror"]},
    "model": {"preset": "tiny", "image_size": 32, "embed_dim": 16, "vocab_size": 300, "freeze": ["image", "text"]},
    "method": {"name": "clip", "exclude_duplicates": True},
    "training": {"epochs": 2, "batch_size": 20, "log_every": 1, "progress": False},
    "evaluation": {
        "data": {"spec": "world/emoji", "split": "val", "styles": ["noto", "openmoji-line"]},
        "captions": 1,
        "protocols": ["retrieval", "zero_shot", "geometry"],
    },
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of a tiny demo, in which the name that it asked for was taken; and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    (folder / "run").mkdir()
    (folder / "run" / "mine.txt").write_text("not the demo's")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main(["demo", "--out", str(folder / "run"), "--recipe", str(folder / "tiny.yaml"), "--seed", "3"])
    return folder, printed.getvalue()


@pytest.fixture
def out(ran):
    return ran[0] / "run-2"


@pytest.fixture
def printed(ran):
    return ran[1]


def test_all_that_is_promised_is_written(out):
    assert nearfar.load(out / "model").embed_dim == 16
    assert load(out).training.seed == 3
    assert len(Index(out / "index")) == 302
    assert Index(out / "index").model == str((out / "model").resolve())
    report = (out / "report.html").read_text()
    for part in ("Training", "Retrieval gallery", "Embedding map", "openmoji-line (not in training)"):
        assert part in report


def test_every_figure_has_its_chance(out):
    results = load_results(out / "results.json")
    for name in ("retrieval", "zero_shot"):
        styles = results[name].by["domain"]
        assert set(styles) == {"noto", "openmoji-line (not in training)"}
        for metrics in (results[name].metrics, *styles.values()):
            assert all(metric.chance is not None for metric in metrics.values())
    noto = results["retrieval"].by["domain"]["noto"]
    assert noto["text_to_image_R@1"].chance == pytest.approx(1 / 151)
    assert noto["image_to_text_R@10"].chance == pytest.approx(10 / 151, rel=0.05)


def test_it_prints_the_figures_and_what_to_try(out, printed):
    for title in ("A name finds its picture", "A picture finds its name", "Zero-shot classification"):
        assert title in printed
    rows = [line for line in printed.splitlines() if "openmoji-line (not in training)" in line]
    assert [len(re.findall(r"\d+\.\d \(\d+\.\d\)", row)) for row in rows] == [3, 3, 2]
    tried = re.findall(r"^  nearfar (\w+)", printed, re.M)
    assert tried == ["search", "serve", "evaluate", "adapt", "train", "recipes"]
    assert max(map(len, printed.replace(str(out), "runs/demo").splitlines())) <= 100


def test_it_ends_by_adapting_to_a_small_folder(out, printed):
    pictures, texts = (sorted(path.stem for path in (out / "photos").glob(f"*.{kind}")) for kind in ("webp", "txt"))
    assert pictures == texts
    assert len(pictures) == PAIRS
    # None of them is among the clip art that is trained on.
    trained = {hashlib.sha256(record["image"]).digest() for record in world.clipart("train")}
    assert not {hashlib.sha256(path.read_bytes()).digest() for path in (out / "photos").glob("*.webp")} & trained
    about = json.loads((out / "adapted" / "adapt.json").read_text())
    held = load_results(out / "adapted" / "results.json")["retrieval"]
    assert len(Index(out / "adapted" / "index")) == PAIRS
    assert about["pairs"] == len(hold_out(open_source(out / "photos"), 0.2)[0])
    assert 15 < held.metrics["image_to_text_R@1"].n < 50
    assert f"$ nearfar adapt {out}/photos --model {out}/model --out {out}/adapted" in printed
    end = printed[printed.index("$ nearfar adapt") :]
    assert "after (95 % interval)" in end
    assert "Next, try" in end


def test_a_taken_folder_is_left_alone(ran):
    assert [path.name for path in (ran[0] / "run").iterdir()] == ["mine.txt"]


def test_the_names_of_folders_and_styles(tmp_path):
    assert vacant(tmp_path) == tmp_path  # an empty folder is free
    (tmp_path / "a").write_text("a file")
    assert vacant(tmp_path / "a") == tmp_path / "a-2"
    assert mark(["a", "b"], "world/emoji") == ["a", "b"]


def test_the_shipped_recipe_leaves_a_style_out_and_trains_on_no_test_concept():
    recipe = load("demo")
    assert "openmoji-line" not in recipe.data.train["styles"]
    assert recipe.data.train.get("split", "train") == "train"
    assert recipe.evaluation.data == {"spec": "world/emoji", "split": "test"}
    assert recipe.evaluation.captions == 1


def test_a_recipe_says_which_caption_features_are_trained_with(tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    overrides = ["data.limit=20", "training.batch_size=20", "data.precompute=[none]"]
    assert load(tmp_path / "tiny.yaml", overrides).build().loader.caption == "random"
    assert load(tmp_path / "tiny.yaml", [*overrides, "data.caption=0.5"]).build().loader.caption == 0.5
