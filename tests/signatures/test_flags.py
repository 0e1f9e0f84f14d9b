"""The command line: each wrong word gives one sentence, with the flag, what it takes and the nearest name."""

import json
from pathlib import Path
from typing import Literal, Unpack

import pytest

from nearfar import cli
from nearfar.signatures import flags
from nearfar.signatures.data_columns import NAMES, Columns

RAW = ("Traceback", "Union subtypes", "Parser key", "is not expected", "<class", "invalid int", "usage:", "Expected")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("embed minilm x --batch-size a", "--batch-size must be a whole number, not 'a'"),
        ("embed minilm x --batch_size 2.5", "--batch-size must be a whole number, not '2.5'"),
        ("embed minilm x --max-skipped lots", "--max-skipped must be a number, not 'lots'"),
        ("embed minilm x --batchsize 3", "no flag --batchsize. Did you mean '--batch-size'?"),
        ("embed minilm", "source is missing"),
        ("embed minilm x y", "'y' is one word too many"),
        ("embed minilm x --out", "--out takes a value"),
        (
            "index minilm x --kind flatt",
            "not 'flatt'. Did you mean 'flat'?",
        ),
        ("adapt x --minutes soon", "--minutes must be a number, not 'soon'"),
        ("adapt x --keep-worse perhaps", "--keep-worse must be true or false, not 'perhaps'"),
        ("serve --port x", "--port must be a whole number, not 'x'"),
        ("write m x --temperature hot", "--temperature must be a number, not 'hot'"),
        ("write m x --decoding vdc", "not 'vdc'. Did you mean 'vcd'?"),
        ("describe m x --join halfs", "not 'halfs'. Did you mean 'halves'?"),
        ("describe m x --tokens some", "--tokens must be a whole number, not 'some'"),
        ("evaluate m --decoding ritul", "not 'ritul'. Did you mean 'ritual'?"),
        ("generate hi --alpha x", "--alpha must be a number, not 'x'"),
        ("papers --format xml", "--format must be one of table, markdown, json, not 'xml'"),
        ("reproduce", "slug is missing"),
        ("demo --seed x", "--seed must be a whole number, not 'x'"),
        ("train --outt x", "no flag --outt. Did you mean '--out'?"),
        ("train", "name a recipe, or a run folder with --resume"),
        ("train world --each-domain-out --dry-run", "--each-domain-out runs a recipe: name one"),
        ("evaluate m --limit a", "--limit must be a whole number, not 'a'"),
        ("evaluate m --protocols retreival", "not 'retreival'. Did you mean 'retrieval'?"),
        ("evaluate m --protocols", "--protocols takes one value or more"),
        ("search --top x", "--top must be a whole number, not 'x'"),
        (
            "evaluate m --s 3",
            "'--s' is the beginning of --split, --shots, --selections, --sts-sets, --sugarcrepe, --sugarcrepe-pp, "
            "--seed: write the flag out",
        ),
        ("export --onnx m", "--onnx must be true or false, not 'm'. Another word goes before the flag"),
        ("recipes cop", "action must be one of list, copy, not 'cop'. Did you mean 'copy'?"),
        ("embd", "no command 'embd'. Did you mean 'embed'?"),
    ],
)
def test_a_wrong_word_is_one_sentence(words, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words.split())
    said = capsys.readouterr().err + (stop.value.code if isinstance(stop.value.code, str) else "")
    assert sentence in said
    assert stop.value.code not in (0, None)
    if not words.startswith("embd"):
        assert not [raw for raw in RAW if raw in said]
        assert len(said.splitlines()) == 1


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_no_word_makes_a_raw_message(command, capsys):
    for words in (["--nonsense"], ["--seed", "x"], ["--out"], ["a", "b", "c", "d", "--e=f"]):
        with pytest.raises(SystemExit):
            cli.main([command, *words])
        said = capsys.readouterr().err
        assert not [raw for raw in RAW if raw in said], said


def sort_of(
    name: str,
    *,
    out: Path = Path("here"),
    kind: Literal["a", "b"] | None = None,
    count: int | None = None,
    flag: bool = False,
    share: float = 0.5,
    **columns: Unpack[Columns],
) -> None:
    """Do it.

    Args:
        name: what it is.
        share: between 0 % and 100 %.
    """


def parsed(*words):
    return vars(flags.of(sort_of, "nearfar do").parse_args(words))


def test_a_signature_is_its_flags():
    assert parsed("x") == {
        "name": "x",
        "out": Path("here"),
        "kind": None,
        "count": None,
        "flag": False,
        "share": 0.5,
        **dict.fromkeys(NAMES),
    }
    values = parsed("x", "--out=there", "--kind", "b", "--count", "3", "--flag", "--share", "1", "--group", "g")
    assert values["out"] == Path("there")
    assert (values["kind"], values["count"], values["flag"], values["share"], values["group"]) == (
        "b",
        3,
        True,
        1.0,
        "g",
    )
    assert isinstance(values["share"], float)
    assert parsed("x", "--flag", "false")["flag"] is False


def test_a_flag_with_or_without_a_word():
    made = flags.of(cli.load("embed"), "nearfar embed")
    values = [vars(made.parse_args(["m", "s", *words]))["ray"] for words in ([], ["--ray"], ["--ray", "head:6379"])]
    assert values == [False, True, "head:6379"]


def test_the_help_is_the_docstring():
    text = flags.of(sort_of, "nearfar do").format_help()
    assert "Do it." in text
    assert "between 0 % and 100 % (default: 0.5)" in " ".join(text.split())
    assert "Args:" not in text


@pytest.mark.parametrize("command", ["embed", "index", "adapt", "evaluate"])
def test_every_command_that_reads_data_names_columns_alike(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in NAMES[:-2]:
        assert f"--{name} {name.upper()} the column" in text
    assert NAMES[-2:] == ("captions", "unit")
    assert "--unit {passages,lines,sentences} of running text (text:FILE) what a record is" in text
    assert "none reads pictures alone; of a folder txt, class or name say where captions come from" in text


def test_columns_reach_the_data(tmp_path):
    """A group column under a name of its own, through three commands: each says a wrong name alike."""
    (tmp_path / "t.jsonl").write_text(json.dumps({"photo": "a.png", "words": "a cat", "album": 1}) + "\n")
    for command in ("embed", "index", "evaluate --on"):
        first, *flag = command.split()
        with pytest.raises(SystemExit) as stop:
            cli.main([first, "minilm", *flag, str(tmp_path / "t.jsonl"), "--group", "albun"])
        assert "no column 'albun' for group; its columns are: photo, words, album" in str(stop.value)
