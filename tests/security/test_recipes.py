"""A recipe and a run folder are data: code that they name runs only where the user named its module."""

import sys

import pytest
import yaml

from nearfar import cli, methods
from nearfar.errors import UserError
from nearfar.training.recipe import load
from nearfar.training.recipe.recipe_model import build_model

CODE = """
import pathlib
from subprocess import run

import torch

from nearfar.methods.image_text.clip import CLIP
from nearfar.models import create

pathlib.Path({ran!r}).touch()


class Mine(CLIP):
    pass


class NoMethod:
    pass


def maker(embed_dim: int = 8):
    return create("tiny", embed_dim=embed_dim, text="minilm")


def layer():
    return torch.nn.Linear(2, 2)


def words():
    return "no model"
"""


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """The file that the module `handed_over` in the current folder leaves behind when it is run."""
    ran = tmp_path / "ran"
    (tmp_path / "handed_over.py").write_text(CODE.format(ran=str(ran)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", ".", str(tmp_path))])
    yield ran
    sys.modules.pop("handed_over", None)


def written(tmp_path, **sections):
    """A recipe's file, and a run folder that holds it."""
    values = {"data": {"train": "world/emoji"}, "model": {"preset": "tiny"}, "method": {"name": "clip"}}
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(values | sections))
    return tmp_path / "run" / "config.yaml"


NAMED = {
    "a method": {"method": {"name": "handed_over:Mine"}},
    "a maker": {"model": {"make": "handed_over:maker"}},
    "an ensemble's member": {"method": {"name": "ensemble", "of": {"name": "handed_over:Mine"}}},
}


@pytest.mark.parametrize("sections", NAMED.values(), ids=NAMED)
def test_code_runs_only_where_its_module_is_named(sections, ran, tmp_path):
    path = written(tmp_path, **sections)
    for words in (["train", str(path)], ["train", str(path.parent), "--dry-run"], ["train", "--resume", "run"]):
        with pytest.raises(SystemExit, match=r"'handed_over:\w+' is code outside nearfar.*--trust handed_over "):
            cli.main(words)
    with pytest.raises(UserError, match=r'trust=\["handed_over"\]'):
        load(path, trust=["handed", "over", "handed_over.more"])
    assert not ran.exists()
    load(path, trust=["handed_over"])
    assert ran.exists()


def test_the_line_of_what_is_refused(ran, tmp_path):
    path = written(tmp_path, method={"name": "handed_over:Mine"})
    with pytest.raises(UserError, match=r"config\.yaml, line 4: method: 'handed_over:Mine'"):
        load(path)


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--trust", "handed_over"],
        ["world", "method.name=handed_over:Mine"],
        ["plain.yaml", "model.make=handed_over:maker"],
        ["demo", "method.of.name=handed_over:Mine"],
        ["demo", "method.of={name: handed_over:Mine}"],
    ],
    ids=" ".join,
)
def test_words_of_the_command_line_name_a_module(words, ran, tmp_path):
    written(tmp_path, method={"name": "handed_over:Mine"})
    (tmp_path / "plain.yaml").write_text("method: {name: clip}")
    cli.main(["train", *words, "--dry-run"])
    assert ran.exists()


def test_trust_is_not_written_down(ran, tmp_path, capsys):
    cli.main(["train", str(written(tmp_path, **NAMED["a method"])), "--trust", "handed_over", "--dry-run"])
    assert "trust" not in capsys.readouterr().out


def test_trust_is_never_taken_from_a_file(ran, tmp_path):
    path = written(tmp_path, method={"name": "handed_over:Mine"}, trust=["handed_over"])
    with pytest.raises(UserError, match="section trust must hold settings"):
        load(path)
    path = written(tmp_path, method={"name": "handed_over:Mine", "trust": "handed_over"})
    with pytest.raises(UserError, match="code outside nearfar"):
        load(path)
    assert not ran.exists()


NOT_OURS = [
    "nearfar.files:remove_leftovers",
    "nearfar.files:folder",
    "nearfar.models:create",
    "nearfar.cli:main",
    "nearfar.methods.image_text.clip:nn",
    "nearfar.methods.base:Method",
]


@pytest.mark.parametrize("name", NOT_OURS)
@pytest.mark.parametrize("section", ["method", "model"])
def test_of_nearfar_only_what_it_lists(name, section, tmp_path):
    """Not even where the user trusts nearfar: a recipe's settings must not reach any function."""
    sections = {section: {"name" if section == "method" else "make": name}}
    with pytest.raises(UserError, match="is none of nearfar's own; there are: "):
        load(written(tmp_path, **sections), trust=["nearfar"])


@pytest.mark.parametrize("name", ["handed_over:run", "handed_over:CLIP", "handed_over:pathlib", "handed_over:None"])
def test_of_a_trusted_module_only_what_it_defines(name, ran, tmp_path):
    with pytest.raises(UserError, match=r"no class or function that handed_over defines|no 'handed_over:None'"):
        load(written(tmp_path, model={"make": name}), trust=["handed_over"])


@pytest.mark.parametrize("name", ["../handed_over:Mine", "handed_over:Mine.__init__", ":Mine", "handed_over:", "a b:C"])
def test_names_that_name_nothing(name, ran, tmp_path):
    with pytest.raises(UserError, match="write module:name"):
        load(written(tmp_path, method={"name": name}), trust=["handed_over"])
    assert not ran.exists()


def test_a_method_is_a_method_and_a_maker_makes_a_model(ran, tmp_path):
    for name in ("handed_over:NoMethod", "handed_over:maker"):
        with pytest.raises(UserError, match="it must be a subclass of nearfar"):
            load(written(tmp_path, method={"name": name}), trust=["handed_over"])
    for name, why in (
        ("words", "gave a str: it must return a model"),
        ("layer", "encodes nothing: CLIP needs a model"),
    ):
        path = written(tmp_path, model={"make": f"handed_over:{name}"})
        with pytest.raises(UserError, match=why):
            load(path, ["data.limit=20", "batch_size=4"], trust=["handed_over"]).build()
    assert build_model({"make": "handed_over:maker"}, None, ["handed_over"]).embed_dim == 8
    with pytest.raises(UserError, match="no setting 'size'"):
        load(written(tmp_path, model={"make": "handed_over:maker", "size": 3}), trust=["handed_over"])


@pytest.mark.parametrize(
    "setting",
    [
        {"data": {"train": {"spec": "world/emoji", "split": {"class_path": "handed_over.Mine"}}}},
        {"data": {"train": {"spec": '{"class_path": "handed_over.Mine"}'}}},
        {"evaluation": {"options": {"retrieval": {"k": [{"class_path": "handed_over.Mine"}]}}}},
        {"method": {"name": "ensemble", "of": {"name": "clip", "temperature": {"class_path": "handed_over.Mine"}}}},
    ],
)
def test_the_library_that_checks_types_imports_nothing(setting, ran, tmp_path):
    with pytest.raises(UserError, match="a recipe brings no code"):
        load(written(tmp_path, **setting), trust=["handed_over"])
    assert not ran.exists()


@pytest.mark.parametrize("name", ["my.py", "my-module", "my_module:Mine", ""])
def test_trust_takes_the_name_of_a_module(name):
    with pytest.raises(UserError, match="is no module's name"):
        load("world", trust=[name])


def test_every_name_of_nearfar_is_found():
    from nearfar.models import MAKERS
    from nearfar.training.recipe.sections import maker

    for name, where in MAKERS.items():
        assert maker({"make": name}) is maker({"make": where})
    for name, where in methods.METHODS.items():
        assert methods.find(name) is methods.find(where)
