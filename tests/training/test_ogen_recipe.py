"""The recipes of learned prompts, from folders of pictures to figures on base and new classes, by the command line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import nearfar
from nearfar.cli import main
from nearfar.data.fields.text import train_tokenizer
from nearfar.data.pictures.views import PRESETS
from nearfar.evaluation import ZeroShotClassifier, load_results
from nearfar.models import PromptedEncoder, create
from nearfar.training.recipe import load as load_recipe

COLOURS = {"red_box": (200, 30, 30), "blue_ball": (30, 30, 200), "green_tree": (30, 200, 30)}
COLOURS |= {"grey_cloud": (120, 120, 120), "pink_car": (220, 100, 160), "brown_dog": (120, 70, 30)}
BASE = sorted(COLOURS)[:3]
BERT = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pictures of six classes, and a small image-text model."""
    root, generator = tmp_path_factory.mktemp("ogen"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / "photos" / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.array(colour) + generator.integers(-30, 30, (24, 24, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "photos" / name / f"{i}.png")
    torch.manual_seed(0)
    tokenizer = train_tokenizer([f"a photo of a {name.replace('_', ' ')}." for name in COLOURS], 300)
    model = create(image=VIT, text=BERT, tokenizer=tokenizer, image_size=16, embed_dim=16, temperature=0.1)
    model.save_pretrained(root / "model")
    return root


def settings(root, **more):
    small = {"batch_size": 8, "steps": 10, "workers": 0, "warmup": 0.0, "report": False}
    return {
        "data.train": f"{root / 'photos'}/",
        "data.base_classes": 0.5,
        "data.validation": 0.25,
        "evaluation.data": f"{root / 'photos'}/",
        "evaluation.protocols": ["base_to_new"],
        "model.pair": str(root / "model"),
        **{f"training.{name}": value for name, value in small.items()},
        **more,
    }


SMALL = {"method.neighbours": 2, "data.precompute": None}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("ogen", SMALL),
        ("ogen", {**SMALL, "method.extrapolation": "released", "method.generator": "code", "method.draw": "uniform"}),
        ("coop", {"model.kind": "cocoop", "data.precompute": None}),
        ("coop", {"model.kind": "maple", "model.depth": 2, "data.precompute": None}),
    ],
    ids=["ogen", "released", "cocoop", "maple"],
)
def test_a_prompt_is_learned_saved_and_measured(name, more, folders, tmp_path, capsys):
    run = load_recipe(name, settings(folders, **more)).run(tmp_path / "run")
    result = run.results["base_to_new"]
    assert result.details["base"] == [each.replace("_", " ") for each in BASE]
    assert result.metrics["new"].n == 24
    model = nearfar.load(run.out)
    assert type(model) is PromptedEncoder
    assert model.base == tuple(each.replace("_", " ") for each in BASE)
    main(["evaluate", str(run.out), "--on", f"{folders / 'photos'}/", "--protocols", "base_to_new", "zero_shot",
          "--templates", "{}", "--json", str(tmp_path / "measured.json")])  # fmt: skip
    said = capsys.readouterr().out
    assert "harmonic" in said
    again = load_results(tmp_path / "measured.json")
    assert again["base_to_new"]["harmonic_mean"] == pytest.approx(result["harmonic_mean"])
    assert ZeroShotClassifier(model, templates="{}").fit(["a class of later"]).prototypes_.shape == (1, 16)
    logged = [json.loads(line) for line in (run.out / "history.jsonl").read_text().splitlines()]
    assert any("val_accuracy" in row for row in logged)
    if name == "ogen":
        assert any("unknown" in row for row in logged), "the classes left out are known by name"
        assert not any(key.startswith(("generator", "teacher", "bank")) for key in model.state_dict())


def test_names_that_are_not_those_of_the_test(folders, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("sea\ntree\n")
    own = settings(folders, **SMALL) | {"method.unknown": str(tmp_path / "names.txt")}
    method = load_recipe("ogen", own).build().method
    assert method._unknown == ("sea", "tree")
    words = ["--on", f"{folders / 'photos'}/", "--protocols", "base_to_new", "--base-names", "red_box", "pink_car"]
    main(["evaluate", str(folders / "model"), *words, "--json", str(tmp_path / "plain.json")])
    capsys.readouterr()
    result = load_results(tmp_path / "plain.json")["base_to_new"]
    assert result.details["base"] == ["pink car", "red box"]
    assert result.details["templates"] == ["a photo of a {}."]


def test_pictures_are_read_once_where_they_have_captions(tmp_path, folders):
    own = settings(folders) | {"data.train": {"spec": "world/emoji", "subjects": True, "split": "test"}}
    own |= {"data.validation": None, "evaluation.data": None, "data.limit": 200, "training.steps": 3}
    own |= {"training.monitor": "val_loss"}
    built = load_recipe("ogen", own).build()
    assert next(iter(built.loader))["image"].shape == (8, 32)
    assert built.run(tmp_path / "run").history[-1]["loss"] > 0


def test_the_recipe_at_the_papers_scale(folders, tmp_path):
    """The released configurations of CoOp and OGEN; the window and the share of warm-up are the paper's."""
    recipe = load_recipe("ogen-paper")
    views = PRESETS[recipe.data.views]
    assert (views.crop, views.flip, views.jitter) == ((0.08, 1.0), 0.5, None)
    own = settings(folders) | {"method.neighbours": 2, "data.validation": None, "training.precision": "no"}
    assert load_recipe("ogen-paper", own).run(tmp_path / "run").results["base_to_new"].metrics["base"].n == 24
