"""Every setting of every section, with values of every wrong kind: a sentence that names it, and no raw message."""

import pytest
import yaml

from nearfar import methods
from nearfar.errors import UserError
from nearfar.models import MAKERS, create
from nearfar.signatures import kinds
from nearfar.training.config import TrainConfig
from nearfar.training.recipe import load
from nearfar.training.recipe.sections import MODEL_SETTINGS, DataConfig, EvaluationConfig, known_arguments

VALUES = {
    "a word": "no such word",
    "a number as a word": "12 or so",
    "a number": 1234567.5,
    "a negative number": -3,
    "true": True,
    "null": None,
    "a list": [1, "two", None],
    "an empty list": [],
    "settings": {"inner": {"deeper": 3}},
    "a list of settings": [{"inner": 3}],
}
RAW = (
    "Union subtypes",
    "Parser key",
    "is not expected",
    "<class",
    "typing.",
    "Expected",
    "object is not",
    "unhashable",
)


def settings():
    for section, kind in (("data", DataConfig), ("training", TrainConfig), ("evaluation", EvaluationConfig)):
        yield from (("world", section, name, kinds.of(kind)[name]) for name in known_arguments(kind))
    annotated = kinds.of(create) | MODEL_SETTINGS
    yield from (("world", "model", name, annotated[name]) for name in annotated if name != "return")
    for method in methods.METHODS:
        kind = methods.find(method)
        for name in known_arguments(kind, ["model"]):
            yield method, "method", name, kinds.of(kind)[name]


ALL = [pytest.param(*each, id=".".join(each[:3])) for each in settings()]


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Reads a recipe of a method with one setting changed."""
    folder = tmp_path_factory.mktemp("recipes")
    for name in ["world", *methods.METHODS]:
        method = {"name": "clip"} if name == "world" else {"name": name}
        method |= {"of": {"name": "clip"}} if name in ("ensemble", "matryoshka", "within_clusters") else {}
        method |= {"dims": [8]} if name == "matryoshka" else {}
        method |= {"reference": "smollm2"} if name == "prior" else {}
        method |= {"pair": "towers"} if name == "close" else {}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"model": {"preset": "tiny"}, "method": method}))
    return lambda recipe, setting, value: load(folder / f"{recipe}.yaml", {setting: value})


@pytest.mark.parametrize(("recipe", "section", "name", "annotation"), ALL)
def test_a_value_of_a_wrong_kind_is_named(recipe, section, name, annotation, read):
    for what, value in VALUES.items():
        try:
            read(recipe, f"{section}.{name}", value)
        except UserError as error:
            said = str(error)
            assert name in said, f"{what}: {said}"
            assert section in said, f"{what}: {said}"
            assert len(said.splitlines()) == 1, said
            assert not [raw for raw in RAW if raw in said], f"{what}: {said}"
        else:
            assert fits(value, annotation), f"{what} was taken"


def fits(value, annotation):
    try:
        kinds.convert(value, annotation)
    except kinds.Unfit:
        return False
    return True


@pytest.mark.parametrize(("recipe", "section", "name", "annotation"), ALL)
def test_a_name_nearly_right_is_answered_with_the_right_one(recipe, section, name, annotation, read):
    known = {each[2] for each in settings() if each[1] == section}
    nearly = name[:-1] if name[:-1] not in known else f"{name}x"
    if nearly == "nam" or len(name) < 4:
        return
    with pytest.raises(UserError, match=f"no setting {nearly!r}\\. Did you mean '"):
        read(recipe, f"{section}.{nearly}", 3)


@pytest.mark.parametrize(
    ("value", "annotation", "said"),
    [
        ("x", int, " must be a whole number, not 'x'"),
        (True, float, " must be a number, not True"),
        ([1, "x"], list[int], "[1] must be a whole number, not 'x'"),
        ({"a": {"b": []}}, dict[str, dict[str, float]], ".a.b must be a number, not []"),
        ([1.0], tuple[float, float], " must be a list of 2 values, not [1.0]"),
        ("x", bool, " must be true or false, not 'x'"),
        (2.5, int | None, " must be a whole number or null, not 2.5"),
        (3, str | dict, " must be text or settings (name: value), not 3"),
    ],
)
def test_what_is_said_of_a_value(value, annotation, said):
    with pytest.raises(kinds.Unfit) as unfit:
        kinds.convert(value, annotation)
    assert str(unfit.value) == said


def test_what_is_missing_is_named(tmp_path):
    (tmp_path / "r.yaml").write_text("method: {name: ensemble}")
    with pytest.raises(UserError, match=r"section method: of is missing, which must be settings .*set method\.of"):
        load(tmp_path / "r.yaml")


def test_makers_of_models_likewise():
    for name in MAKERS:
        with pytest.raises(UserError, match="section model"):
            load("simctg", {"model.make": name, "model.tokeniser": 3})
