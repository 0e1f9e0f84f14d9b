"""The shipped recipes of sentences, each for two steps on its own data: model, data and method fit together."""

import pytest

from nearfar.training.recipe import load, recipe_data

QUICK = [
    "training.steps=2",
    "training.batch_size=8",
    "training.warmup=0",
    "training.report=false",
    "evaluation.data=null",
]


@pytest.fixture(autouse=True)
def few_to_validate_on(monkeypatch):
    """The first of each recipe's validation data."""
    opened = recipe_data.open_spec

    def first(where, spec, **options):
        source = opened(where, spec, **options)
        return source.first(16) if where == "data.validation" else source

    monkeypatch.setattr(recipe_data, "open_spec", first)


@pytest.mark.parametrize("name", ["simcse", "simcse-pairs", "whitenedcse", "clear", "declutr", "consert"])
def test_a_shipped_recipe_trains(name, tmp_path):
    assert_trained(load(name, QUICK).run(tmp_path / "run"))


def assert_trained(run):
    assert run.step == 2
    assert run.metrics["val_loss"] > 0
    assert run.model.encode(["a red kite"]).shape == (1, 384)


def test_labels_go_on_from_words_by_the_same_head(tmp_path):
    first = load("cless", QUICK).run(tmp_path / "words")
    assert_trained(first)
    second = load("cless-labels", [*QUICK, f"model.load={tmp_path / 'words'}"]).run(tmp_path / "labels")
    assert type(second.model).__name__ == "LabelMatcher"
    assert second.model.hidden == first.model.hidden
    assert second.method.label_texts.of == "classes"
