"""A shipped recipe on somebody's own data: measured on a share of them, with a batch and a length that fit."""

import html
from dataclasses import replace

import pytest
import yaml
from PIL import Image

from nearfar.errors import UserError
from nearfar.recipes import shipped
from nearfar.training.config import TrainConfig
from nearfar.training.own_data import FITTED, fitted
from nearfar.training.recipe import load
from nearfar.training.recipe.forewarnings import from_nothing


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """45 pairs."""
    made = tmp_path_factory.mktemp("own") / "photos"
    made.mkdir()
    for i in range(45):
        Image.new("RGB", (24, 24), (5 * i, 255 - 5 * i, 90)).save(made / f"{i}.png")
        (made / f"{i}.txt").write_text(f"shade number {i}")
    return made


STAGED = ("two-stages", "dito", "dito-paper", "mcl", "mcl-pairs", "mcl-paper", "coconut", "coconut-paper")
STAGED += ("vl2v-adip", "vl2v-adip-paper", "distill-ood", "distill-ood-paper")
STAGED += ("prior", "prior-paper", "cg-vlm", "cg-vlm-paper", "close")
STAGED += ("s-vco", "lexiclip", "lexiclip-paper")
STAGED += ("prior", "prior-paper", "vladva", "vladva-paper", "cosmo")


@pytest.mark.parametrize("name", [name for name in shipped() if not name.startswith("simctg") and name not in STAGED])
def test_every_recipe_measures_on_the_share_of_own_data(name):
    recipe = load(name, ["data.train=photos/"])
    assert recipe.data.share == 0.1
    assert recipe.evaluation.data is None
    assert recipe.follows == FITTED


@pytest.mark.parametrize("name", STAGED)
def test_stages_follow_own_data_too(name):
    for stage in load(name, ["data.train=photos/"]).stages:
        assert stage.recipe.data.share == 0.1
        assert stage.recipe.follows == FITTED


@pytest.mark.parametrize("train", ["world/clipart", "{spec: world/emoji, styles: [noto]}"])
def test_on_the_world_a_recipe_stays_as_it_is(train):
    recipe = load("demo", [f"data.train={train}"])
    assert recipe.evaluation.data == {"spec": "world/emoji", "split": "test"}
    assert recipe.data.validation == {"spec": "world/emoji", "split": "val"}
    assert recipe.follows == ()


def test_a_recipe_of_ones_own_stays_as_it_is(tmp_path):
    path = tmp_path / "demo.yaml"
    path.write_text(shipped()["demo"].read_text("utf-8"), "utf-8")
    recipe = load(path, ["data.train=photos/"])
    assert recipe.evaluation.data == {"spec": "world/emoji", "split": "test"}
    assert recipe.follows == ()


def test_what_is_said_goes_before():
    said = ["data.validation=val/", "evaluation.data=test/", "epochs=3", "training.batch_size=64"]
    recipe = load("demo", ["data.train=photos/", *said])
    assert (recipe.data.validation, recipe.evaluation.data) == ("val/", "test/")
    assert recipe.follows == ("warmup",)


@pytest.mark.parametrize(
    ("config", "records", "expected"),
    [
        # An epoch has four batches of a power of two; a run has 200 steps, or 100 epochs.
        ({"batch_size": 512, "epochs": 15}, 243, {"batch_size": 32, "epochs": 29}),
        ({"batch_size": 512, "epochs": 15}, 20, {"batch_size": 8, "epochs": 100}),
        ({"batch_size": 512, "epochs": 15}, 2048, {"epochs": 50}),
        ({"batch_size": 512, "epochs": 15}, 50_000, {}),
        ({"batch_size": 128, "steps": 4000, "warmup": 0.1}, 243, {"batch_size": 32, "steps": 700}),
        ({"batch_size": 128, "steps": 4000, "warmup": 500}, 243, {"batch_size": 32, "steps": 700, "warmup": 0.1}),
        ({"batch_size": 16, "accumulate": 4, "epochs": 2}, 640, {"epochs": 20}),
    ],
)
def test_batch_length_and_warm_up_fit(config, records, expected):
    config = TrainConfig(**config)
    assert fitted(config, records, FITTED)[0] == config.with_overrides(expected)
    assert (fitted(config, records, FITTED)[1] is None) == (not expected)
    assert fitted(config, records, ()) == (config, None)


TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
SMALL = {
    "model.image": {"model_type": "vit", "patch_size": 8, **TOWER},
    "model.text": {"model_type": "bert", **TOWER},
    "model.image_size": 16,
    "model.vocab_size": 300,
    "training.workers": 0,
    "training.chunk": None,
}


def test_from_scratch_on_few_pairs_names_adapt_and_what_was_measured(folder, tmp_path, capsys):
    """What `nearfar train clip data.train=photos/ training.epochs=2` on 45 pairs says."""
    announced = []
    recipe = load("clip", {"data.train": str(folder), "training.epochs": 2, **SMALL})
    run = recipe.run(tmp_path / "run", announce=announced.append)
    printed = capsys.readouterr().out
    assert "training.batch_size 256 -> 8" in printed
    share = run.results["retrieval"].metrics["text_to_image_R@1"].n
    assert run.step == 2 * ((45 - share) // 8)
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (kept["training"]["batch_size"], kept["data"]["validation"]) == (8, 0.1)
    # What is printed before the run is what runs, and says what it was fitted from.
    assert [each.as_yaml() for each in announced] == [(tmp_path / "run" / "config.yaml").read_text()]
    about, fitted_to, _ = announced[0].as_yaml().split("\n", 2)
    assert about == f"# {recipe.comment}"
    assert fitted_to.startswith(f"# fitted to the {45 - share} records of photos")
    assert "training.batch_size 256 -> 8" in fitted_to
    assert fitted_to in report_of(tmp_path / "run")
    assert run.measured_on.startswith("the 10 % of the data held out of training (photos): ")
    chance, scratch = run.remarks
    assert chance.startswith("retrieval, not shown to be above chance: text to image R@1 ")
    assert f"n {share}" in chance
    assert scratch.startswith(
        f"the model is trained from scratch on {45 - share} pairs in {run.step} steps, which are few"
    )
    assert f"`nearfar adapt {folder}`" in scratch
    assert f"note: {scratch}" in printed  # before it trains, too
    report = (tmp_path / "run" / "report.html").read_text()
    assert chance in report
    assert "On the 10 % of the data held out of training." in report
    # A resumed run has the same settings.
    assert load(tmp_path / "run").training == run_settings(tmp_path / "run")


def report_of(folder):
    """The text of a run's report."""
    return html.unescape((folder / "report.html").read_text())


def run_settings(folder):
    """The settings with which the recipe of a run folder would train."""
    return load(folder).build().recipe.training


@pytest.mark.parametrize(
    ("settings", "train", "records"),
    [
        ({"preset": "towers"}, "photos/", 100),  # pretrained
        ({"load": "runs/other"}, "photos/", 100),
        ({"preset": "tiny"}, "world/emoji", 100),  # the recipe's own
        ({"preset": "tiny"}, "photos/", 20_000),
        ({"preset": "tiny"}, "photos/", None),  # a stream
    ],
)
def test_who_trains_otherwise_is_not_warned(settings, train, records):
    recipe = load("clip", [f"data.train={train}"])
    assert from_nothing(replace(recipe, model=settings), records, 100) is None


def test_a_batch_that_was_named_is_refused_with_the_remedy(folder):
    with pytest.raises(UserError, match=r"holds \d+ records, and training.batch_size is 64: lower training.batch_size"):
        load("world", [f"data.train={folder}", "training.batch_size=64"]).build()
