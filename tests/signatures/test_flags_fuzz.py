"""Any words for the flags of any command: values of the right types, or one sentence that names a flag. None is run."""

import contextlib
import io
from argparse import Action
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar import cli
from nearfar.signatures import flags

RAW = ("Traceback", "<class", "invalid ", "usage:", "expected ", "unrecognized", "following arguments", "could match")
"""What Python or argparse would say."""

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)
RIGHT = {
    str: TEXT,
    Path: TEXT,
    int: st.integers(-(10**20), 10**20).map(str),
    float: st.floats().map(str) | st.integers(-99, 99).map(str) | st.sampled_from(["1e5", ".5", "inf"]),
    bool: st.sampled_from(["true", "false", "True", "FALSE"]),
}
"""Words that are values of each kind."""
COUNT = st.integers(0, 10**9).map(str)

ANY = TEXT | st.sampled_from(["", "-", "-1", "1.5", "nul", "true", "é\n%s", "a=b", "{}", "0x1", "1,5", "٣", "--x"])


def parser_of(command: str) -> flags.Flags:
    """The flags of a command: written out, or made from its signature."""
    function = cli.load(command)
    if getattr(function, "raw", False):
        return import_module(f"nearfar.commands.{command}_command").parser()
    return flags.of(function, f"nearfar {command}")


PARSERS = {command: parser_of(command) for command in cli.COMMANDS}


def actions_of(command: str) -> list[Action]:
    return [action for action in PARSERS[command]._actions if action.dest not in ("help", "action")]


def kinds_of(action: Action) -> tuple[Any, ...]:
    """The types of a flag's values, or the words it takes."""
    if action.choices:
        return tuple(action.choices)
    if action.nargs == 0:
        return (bool,)
    if isinstance(action.type, FunctionType):  # a count, or one of some words, as `N|none|txt` says
        return tuple(int if word == "N" else word for word in str(action.metavar).split("|"))
    return alternatives(action.type.args[0]) if isinstance(action.type, partial) else (action.type or str,)


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The types that an annotation joins, and the words of a Literal.

    >>> alternatives(int | None), alternatives(Literal["a", "b"] | None)
    ((int,), ('a', 'b'))
    """
    if get_origin(kind) is Literal:
        return get_args(kind)
    inner = [each for each in get_args(kind) if each is not type(None)]
    return tuple(one for each in inner for one in alternatives(each)) or (kind,)


def is_of(value: Any, kinds: tuple[Any, ...]) -> bool:
    """Whether a value is of exactly one of these types, or one of these words; a list of such ones, too."""
    if isinstance(value, list):
        return all(is_of(each, kinds) for each in value)
    return any(value == kind or type(value) is kind or (kind is Path and isinstance(value, Path)) for kind in kinds)


def right(action: Action) -> st.SearchStrategy[str]:
    """Words that a flag takes."""
    right = {**RIGHT, int: COUNT} if isinstance(action.type, FunctionType) else RIGHT
    return st.one_of(right[kind] if isinstance(kind, type) else st.just(str(kind)) for kind in kinds_of(action))


@st.composite
def command_lines(draw: st.DrawFn, command: str, *, wrong: bool) -> list[str]:
    """A command with its words and some of its flags, with values as they should be, or with any."""
    words, after = [], []
    for action in actions_of(command):
        value = ANY | right(action) if wrong else right(action)
        if not action.option_strings:
            word = draw(value)
            words += (
                [word] if wrong or not word.startswith("-") else [f"x{word}" if kinds_of(action) == (str,) else "x"]
            )
        elif draw(st.booleans()):
            name = draw(st.sampled_from(action.option_strings))
            after.append([name] if action.nargs == 0 else [f"{name}={draw(value)}"])
            if wrong and action.nargs != 0 and draw(st.booleans()):
                after[-1] = [name, draw(value)]
    if wrong and draw(st.integers(0, 3)) == 0:
        after.append([draw(st.sampled_from(["--nonsense", "--s", "--m=3", "-q", "--out", "--=", "---"]))])
    return [*words, *(word for each in draw(st.permutations(after)) for word in each)]


def parse(command: str, words: list[str]) -> tuple[Any, str]:
    """What the flags make of the words, or what they say of them."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            return PARSERS[command].parse_args(words), ""
        except SystemExit as stop:
            return None, said.getvalue() if stop.code else ""


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name != "recipes"])
@given(st.data())
@settings(max_examples=20, deadline=None)
def test_right_values_come_out_with_their_types(command, data):
    words = data.draw(command_lines(command, wrong=False))
    values, said = parse(command, words)
    assert said == ""
    for action in actions_of(command):
        value = getattr(values, action.dest)
        flagged = any(word.partition("=")[0] in action.option_strings for word in words)
        if flagged or not action.option_strings:
            assert is_of(value, kinds_of(action)), (action.dest, value)


@pytest.mark.parametrize("command", cli.COMMANDS)
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_words_are_values_or_one_sentence(command, data):
    words = data.draw(command_lines(command, wrong=True))
    values, said = parse(command, words)
    if values is not None:
        for action in actions_of(command):
            value = getattr(values, action.dest, None)
            assert value is None or value == action.default or is_of(value, kinds_of(action)), (action.dest, value)
    elif said:
        assert said.startswith(f"nearfar {command}")
        assert said.endswith("\n")
        assert len(said.splitlines()) == 1, said
        assert not [raw for raw in RAW if raw in said], said
        names = [name for action in PARSERS[command]._actions for name in (*action.option_strings, action.dest)]
        assert any(name in said for name in names) or "one word too many" in said, said
