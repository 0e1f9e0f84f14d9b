"""The recipes of image contrast on the embedded world: each trains, validates on augmented views, and is measured."""

import json

import pytest

import nearfar
from nearfar.training.recipe import load

SMALL = {
    "data.train": {"spec": "world/emoji", "styles": ["noto", "twemoji"]},
    "data.limit": 32,
    "data.validation": {"spec": "world/emoji", "split": "val", "styles": ["noto"]},
    "model.preset": "micro-resnet",
    "training.steps": 2,
    "training.batch_size": 16,
    "training.warmup": 0,
    "training.report": False,
    "evaluation.data": None,
    "evaluation.watch": [],
}


@pytest.mark.parametrize("name", ["beclr", "byol", "moco", "multicrop", "simclr", "simsiam", "supcon"])
def test_a_recipe_trains(name, tmp_path):
    small = SMALL | ({"method.queue_size": 64} if name == "moco" else {})
    small |= {"method.memory_size": 32, "method.clusters": 4, "method.start_epoch": 0} if name == "beclr" else {}
    recipe = load(name, small | ({"data.small_size": 16} if name == "multicrop" else {}))
    run = recipe.run(tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert all(0 < row["spread"] < 1.01 for row in rows if "spread" in row)
    assert 0 < rows[-1]["val_spread"] < 1.01
    model = nearfar.load(tmp_path / "run")
    assert model.embed_dim == 128
    assert type(run.method).__name__.lower() == {"multicrop": "simclr"}.get(name, name)


def test_validation_draws_the_same_augmented_views_each_time(tmp_path):
    built = load("simclr", SMALL).build()
    first, again = built.validation(built.method.eval()), built.validation(built.method)
    assert first == again
    batch = next(iter(built.loader))
    assert batch["views"].shape[0] == 2
    # Of two equal pictures the loss would be that of a solved batch: all its positives have a cosine of 1.
    plain = load("simclr", SMALL | {"data.views": "none"}).build()
    assert plain.validation(plain.method.eval())["loss"] < first["loss"]


def test_pixpro_s_recipe_trains_on_scenes(tmp_path):
    small = {
        "data.train.n": 32,
        "data.validation.n": 16,
        "training.steps": 2,
        "training.batch_size": 16,
        "training.warmup": 0,
        "training.report": False,
        "evaluation.data": None,
        "evaluation.protocols": None,
        "evaluation.watch": [],
    }
    run = load("pixpro", small).run(tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert rows[-1]["val_spread"] > 0
    assert all(10 < row["positives"] < 8**4 / 4 for row in rows if "positives" in row)
    assert run.method.teacher.total_steps == 2
    assert nearfar.load(tmp_path / "run").image_size == 64
