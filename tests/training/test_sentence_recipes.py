"""The shipped recipes of sentences, each for two steps on its own data: model, data and method fit together."""

import pytest

from nearfar.training.recipe import load

QUICK = [
    "training.steps=2",
    "training.batch_size=8",
    "training.warmup=0",
    "training.report=false",
    "evaluation.data=null",
]


@pytest.mark.parametrize("name", ["simcse", "simcse-pairs", "whitenedcse", "cless", "clear", "declutr", "consert"])
def test_a_shipped_recipe_trains(name, tmp_path):
    run = load(name, QUICK).run(tmp_path / "run")
    assert run.step == 2
    assert run.model.encode(["a red kite"]).shape == (1, 384)


def test_labels_go_on_from_words_by_the_same_head(tmp_path):
    first = load("cless", QUICK).run(tmp_path / "words")
    second = load("cless-labels", [*QUICK, f"model.load={tmp_path / 'words'}"]).run(tmp_path / "labels")
    assert type(second.model).__name__ == "LabelMatcher"
    assert second.model.hidden == first.model.hidden
    assert second.method.label_texts.of == "classes"
