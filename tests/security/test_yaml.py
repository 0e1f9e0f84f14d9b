"""Recipes that are damaged, wrong or made to grow: one sentence each, with the file and the line where it is known."""

import pytest

from nearfar import cli
from nearfar.errors import UserError
from nearfar.training.recipe import load
from nearfar.training.recipe.reading import dump, parse

SOUND = "data: {train: world/emoji}\nmodel: {preset: tiny}\nmethod: {name: clip}\n"
WRONG = {
    "a section twice": (SOUND + "data: {train: other}\n", "line 4: 'data' is given twice, first in line 1"),
    "a setting twice": ("training:\n  lr: 1\n  steps: 2\n  lr: 3\n", "line 4: 'lr' is given twice, first in line 2"),
    "no file at all": ("", "is empty: a recipe must hold the sections data, model"),
    "only a comment": ("# Mine.\n", "is empty"),
    "a list": ("- data\n- model\n", "is not a recipe"),
    "a word": ("words", "is not a recipe"),
    "a section of one value": (SOUND + "training: 3\n", "line 4: section training must hold settings"),
    "a tab": ("data:\n\ttrain: x\n", "line 2 is not YAML.*a tab: indent with spaces"),
    "an open bracket": ("data: [unclosed", "line 1 is not YAML.*not closed"),
    "two documents": (SOUND + "---\n" + SOUND, "line 4 is not YAML.*more than one document: leave out the line ---"),
    "a colon in a text": ("data: {train: x}\nmodel: a: b\n", "line 2 is not YAML.*put the text in quotes"),
    "no colon": ("data:\n  train\n  val: x\n", "line 3 is not YAML.*"),
    "a name without a colon": (SOUND + "training\n", "is not YAML.*a name without a colon"),
    "another indent": ("data:\n  train: x\n - y\n", "line 3 is not YAML.*indent it as they are"),
    "an open quote": ("data: {train: 'x}\n", "is not YAML.*close them"),
    "an at sign": ("data: {train: @x}\n", "line 1 is not YAML.*begins with @"),
    "a backslash": ('data: {train: "a\\q"}\n', "line 1 is not YAML.*two backslashes"),
    "a key that is a number": ("data: {1: x}", "line 1: '1' is no name: put it in quotes"),
    "a key that is a flag": (SOUND + "training:\n  on: 3\n", "line 5: 'on' is no name"),
    "a key that is a list": ("? [a]\n: 3\n", "line 1: a list or mapping is no name"),
    "a tag of its own": ("data: !mine {train: x}", "line 1: !mine is a kind of value that no recipe holds"),
    "a set": ("data:\n  train: !!set {a, b}", "line 2: !!set is a kind"),
    "a tag of another value": ("training: {steps: !!int x}", "is not YAML that a recipe may hold"),
    "an anchor in itself": ("data: &a\n  train: *a\n", "line 1: an anchor holds itself"),
    "an unknown anchor": ("data: {train: *a}", "line 1 is not YAML.*an alias .* write the value out"),
    "a control character": ("data: {train: \x07}", r"line 1: a character that YAML does not allow: U\+0007"),
    "half a character": ('data: {train: "\\ud800"}', "line 1: .* holds half a character"),
    "lists in lists": ("data:\n" + "  train: " + "[" * 60 + "]" * 60, "line 2: values are nested more than 50 deep"),
    "a setting of another kind": (SOUND + "training:\n  steps: 3\n  lr: fast\n", "line 6: .*lr must be a number"),
    "null": ("data:\n  train: null\n" + SOUND.partition("\n")[2], "line 2: .*train must be text or settings"),
    "out of range": (SOUND + "training:\n  lr: -1\n", r"line 5: training\.lr must be above 0"),
    "an unknown setting": (SOUND + "training:\n  learning: 1\n", "line 5: .*no setting 'learning'"),
    "an unknown section": (SOUND + "optimizer: {lr: 1}\n", "line 4: .*no section 'optimizer'"),
    "a name that is none": (SOUND.replace("clip", "3"), "line 3: method must be a name, not 3"),
    "a preset that is none": (SOUND.replace("tiny", "3"), "line 2: .*preset must be text or settings"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_a_recipe_that_is_wrong(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(SystemExit, match=rf"nearfar train: my\.yaml.*{message}") as stop:
        cli.main(["train", "my.yaml", "--dry-run"])
    assert "\n" not in str(stop.value)


def test_text_that_is_not_utf8(tmp_path):
    (tmp_path / "my.yaml").write_bytes(b"data:\n  train: caf\xe9\n")
    with pytest.raises(UserError, match=r"my\.yaml, line 2: this is not UTF-8"):
        load(tmp_path / "my.yaml")
    (tmp_path / "my.yaml").write_bytes(b"\xef\xbb\xbf" + SOUND.encode())  # as Windows' editor saves it
    assert load(tmp_path / "my.yaml").data.train == "world/emoji"


def test_a_file_too_large_for_a_recipe(tmp_path):
    (tmp_path / "my.yaml").write_text("# long\n" * 200_000)
    with pytest.raises(UserError, match=r"my\.yaml is too large for a recipe"):
        load(tmp_path / "my.yaml")


def test_anchors_are_counted_where_they_are_used():
    twice = "a: &a [1, 2, 3]\nb: &b [*a, *a]\nc: [*b]\n"  # 1 + 4 + (1 + 8) + (1 + 9) values
    assert parse(twice, "my.yaml", values=24).value["c"] == [[[1, 2, 3], [1, 2, 3]]]
    with pytest.raises(UserError, match=r"my\.yaml, line \d: more than 23 values"):
        parse(twice, "my.yaml", values=23)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train=null", r"train must be text or settings \(name: value\), not None"),
        ("data.train=3", "train must be text or settings"),
        ("training.lr.x=3", r"'training\.lr\.x': lr is 0\.\d+, which holds no settings such as 'x'"),
        ("lr=null", "lr must be a number, not None"),
        ("training.=3", r"'training\.' is no setting"),
        ("=3", "'' is no setting"),
        ("lr=[1", "lr=.1, line 1 is not YAML.*not closed"),
        ("data.train={spec: a, spec: b}", "'spec' is given twice"),
        ("schedule=step", "schedule must be one of cosine, linear, constant, steps, not 'step'"),
        ("evaluation.protocols=3", "protocols must be a list or null, not 3"),
        ("training.workers=true", "workers must be a whole number"),
        ("model.freeze=3", "freeze must be text or a list or null, not 3"),
        ("method.temperature=hot", "temperature must be a number or null, not 'hot'"),
        ("method.name=null", "method must be a name, not None"),
    ],
)
def test_an_override_that_is_wrong(override, message):
    with pytest.raises(SystemExit, match=message) as stop:
        cli.main(["train", "world", override, "--dry-run"])
    assert "\n" not in str(stop.value)
    assert ".yaml" not in str(stop.value), "the fault is not in the file"


def test_what_is_no_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for words, message in (
        (["nosuch.yaml"], r"no recipe 'nosuch\.yaml': there is no such file, and the recipes that come with nearfar"),
        (["folder"], r"folder is no run folder: it holds no config\.yaml"),
        (["--resume", "folder"], r"folder is no run folder: it holds no config\.yaml"),
        (["--resume", "nosuch"], "no recipe 'nosuch'"),
        (["/dev/null"], "/dev/null is no regular file"),
    ):
        with pytest.raises(SystemExit, match=message):
            cli.main(["train", *words])


def test_what_is_written_is_read_as_the_same():
    value = {"a": "1e-3", "b": "2024-01-01", "c": 1e-5, "d": [True, None, "on", "é"], "e": "12", "f": ".nan"}
    assert parse(dump(value), "my.yaml").value == value
