"""Data of some classes alone: which records stay, how their labels count, and that the others' names are kept."""

import pytest

from nearfar.data import Records, hold_out
from nearfar.data.batches.base_classes import base_classes
from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.training.recipe import load
from nearfar.training.recipe.recipe_data import open_data

NAMES = ["ant", "bee", "cow", "dog", "eel"]


def source(labels=(0, 1, 2, 3, 4, 0, None)):
    rows = [
        {"text": f"sample {i}", "index": 100 + i} | ({} if y is None else {"label": y}) for i, y in enumerate(labels)
    ]
    return Records(rows, name="animals", classes=NAMES)


@pytest.mark.parametrize(("base", "kept"), [(0.4, ["ant", "bee"]), (0.01, ["ant"]), (["eel", "bee"], ["eel", "bee"])])
def test_the_records_of_base_classes(base, kept):
    made = base_classes(source(), base)
    assert made.classes == kept
    assert made.other_classes == [name for name in NAMES if name not in kept]
    own = [(record["text"], made.classes[record["label"]]) for record in made]
    assert own == [(f"sample {i}", NAMES[y]) for i, y in enumerate((0, 1, 2, 3, 4, 0)) if NAMES[y] in kept]
    assert list(made.ids()) == [100 + i for i, y in enumerate((0, 1, 2, 3, 4, 0)) if NAMES[y] in kept]


def test_parts_of_it_know_the_other_classes():
    made = base_classes(source([0, 1, 2] * 20), ["ant", "bee"])
    train, held = hold_out(made, 0.2)
    for part in (made, made.first(3), made.map(dict), train, held):
        assert DataInfo.of(part).classes == ["ant", "bee"]
        assert DataInfo.of(part).other_classes == ["cow", "dog", "eel"]
    assert DataInfo.of(source()).other_classes is None


def test_what_is_refused():
    with pytest.raises(UserError, match=r"animals: no class 'beee'\. Did you mean 'bee'"):
        base_classes(source(), ["beee"])
    with pytest.raises(UserError, match="animals holds no other class: ant, bee"):
        base_classes(source(), NAMES)
    with pytest.raises(UserError, match="animals holds no record of these classes: eel"):
        base_classes(source([0, 1]), ["eel"])
    with pytest.raises(UserError, match="names no classes"):
        base_classes(Records([{"text": "a"}]), 0.5)


def test_a_recipe_trains_and_validates_on_them_alone():
    own = [
        "data.train={spec: world/emoji, subjects: true, split: test}",
        "data.base_classes=0.5",
        "data.precompute=null",
    ]
    opened = open_data(load("ogen", [*own, "data.validation=0.2", "evaluation.data=null"]))
    assert len(opened.source.classes) == 48
    assert opened.source.classes == opened.validated_on.classes
    assert len(opened.source.other_classes) == 49
    named = [*own[:1], "data.base_classes=[flag, animal mammal]", "training.batch_size=8"]
    named.append("data.validation={spec: world/emoji, subjects: true}")
    opened = open_data(load("ogen", named))
    assert opened.source.classes == ["flag", "animal mammal"]
    assert opened.validated_on.classes == ["flag", "animal mammal"]
    for value, words in {
        "1.5": "must be a share between 0 and 1",
        "0": "must be a share",
        "{a: 1}": "data: base_classes",
    }.items():
        with pytest.raises(UserError, match=words):
            load("ogen", [f"data.base_classes={value}"])
    assert load("ogen", ["data.train=photos/"]).data.base_classes is None
    assert load("ogen", ["data.train=photos/", "data.base_classes=0.3"]).data.base_classes == 0.3
