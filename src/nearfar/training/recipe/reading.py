"""YAML as recipes use it: plain values only, each key once, and a line number in every complaint."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nearfar.errors import UserError

SIZE = 1 << 20
"""Bytes of a recipe's file."""
VALUES = 10_000
"""Values of a recipe, each counted as often as its anchor is used."""
DEPTH = 50
"""Mappings and lists within one another."""
KINDS = ("str", "int", "float", "bool", "null", "seq", "map", "merge")
"""What a value may be, by YAML's names."""
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class RecipeDocument:
    """What a file holds, and the line of each key of its first two levels, of a list's items likewise."""

    value: Any
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)


def read(path: Path) -> tuple[str, RecipeDocument]:
    """A file's text and what it says.

    Raises:
        UserError: it cannot be read, is too large, is not UTF-8, or is no such YAML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(SIZE + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(content) > SIZE:
        raise UserError(f"{path} is too large for a recipe: more than {SIZE >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: this is not UTF-8: save the file in that encoding") from None
    return text, parse(text, str(path))


def parse(text: str, name: str, *, values: int = VALUES) -> RecipeDocument:
    """What a YAML text says.

    Args:
        text: the YAML.
        name: what it is, for messages: a file, say.
        values: how many values it may hold.

    Raises:
        UserError: what is wrong, with its line.

    >>> parse("training: {lr: 1e-3, steps: 20}", "my.yaml").value
    {'training': {'lr': 0.001, 'steps': 20}}
    >>> parse("lr: 1\\nlr: 2", "my.yaml")
    Traceback (most recent call last):
    nearfar.errors.UserError: my.yaml, line 2: 'lr' is given twice, first in line 1: leave one out
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            return RecipeDocument(None)
        _check(node, name, values)
        loader = _Loader("")
        try:
            value = loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        byte = 0xDC80 <= error.character <= 0xDCFF  # how Python holds one of a name that is not UTF-8
        why = "a name that is not UTF-8 text: rename it" if byte else f"U+{error.character:04X}"
        raise UserError(f"{name}, line {line}: a character that YAML does not allow: {why}") from None
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        raise UserError(f"{name}{_line(at)} is not YAML that a recipe may hold: {_fault(error)}") from error
    except UserError:
        raise
    except (ValueError, KeyError, AttributeError) as error:  # `!!int x`: the tag promises another kind of value
        raise UserError(f"{name} is not YAML that a recipe may hold: {TAG}") from error
    except RecursionError:
        raise UserError(f"{name} is not a recipe: its values are nested more than {DEPTH} deep") from None
    return RecipeDocument(value, _lines(node))


FAULTS = {
    "mapping values": "a colon inside a text: put the text in quotes",
    "':'": "a name without a colon after it: write name: value",
    "'\\t'": "a tab: indent with spaces",
    "undefined alias": "an alias (*name) before its anchor (&name): write the value out",
    "end of stream": "quotes or brackets that are not closed: close them",
    "',' or": "a bracket that is not closed, or a comma that is missing: close it",
    "<block end>": "a line that does not fit the lines above: indent it as they are, and quote it if it is one text",
    "another document": "more than one document: leave out the line ---, and what follows it",
    "escape": "a backslash in double quotes: write single quotes, or two backslashes",
    "'%'": "a text that begins with %: put it in quotes",
    "'@'": "a text that begins with @: put it in quotes",
    "'`'": "a text that begins with a backtick: put it in quotes",
}
"""What a problem is, by words of the reader's own sentence, in the order in which they are looked for."""

TAG = "a value is not of the kind that its tag says: leave the tag (!...) out"


def _fault(error: yaml.MarkedYAMLError) -> str:
    if isinstance(error, yaml.constructor.ConstructorError):
        return TAG
    problem = error.problem or ""
    return next(
        (ours for words, ours in FAULTS.items() if words in problem), "check its quotes, colons and indentation"
    )


def dump(value: Any) -> str:
    """A value as YAML that `parse` reads back.

    >>> dump({"spec": "1e-3", "lr": 0.5})
    "spec: '1e-3'\\nlr: 0.5\\n"
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """`SafeLoader` that keeps dates as they are written, and reads `1e-3` as the number it is everywhere else."""


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back as the same."""


_FLOAT = (f"{_TAG}float", re.compile(r"[+-]?[0-9]+(\.[0-9]*)?[eE][+-]?[0-9]+$"), list("+-0123456789"))
# YAML 1.1 makes a date of 2024-01-01, which may be a folder's name, and a text of 1e-3.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith(":timestamp")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(*_FLOAT)
_Dumper.add_implicit_resolver(*_FLOAT)


def _check(root: yaml.Node, name: str, values: int) -> None:
    """Refuse keys that are given twice or are no text, and anchors that would multiply without end."""
    counts: dict[int, int] = {}
    open_nodes: set[int] = set()

    def count(node: yaml.Node, depth: int) -> int:
        _check_kind(node, name)
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) in counts:
            return counts[id(node)]
        if id(node) in open_nodes:
            raise UserError(f"{name}{_line(node.start_mark)}: an anchor holds itself: write its values out")
        if depth > DEPTH:
            raise UserError(f"{name}{_line(node.start_mark)}: values are nested more than {DEPTH} deep")
        open_nodes.add(id(node))
        inner = node.value
        if isinstance(node, yaml.MappingNode):
            _check_keys(node, name)
            inner = [value for _, value in node.value]
        total = 1
        for child in inner:
            total += count(child, depth + 1)
            if total > values:
                raise UserError(
                    f"{name}{_line(child.start_mark)}: more than {values:,} values, each anchor counted where it is "
                    "used: a recipe is shorter"
                )
        open_nodes.remove(id(node))
        counts[id(node)] = total
        return total

    count(root, 0)


def _check_kind(node: yaml.Node, name: str) -> None:
    if node.tag.removeprefix(_TAG) not in KINDS:
        tag = node.tag.replace(_TAG, "!!")
        raise UserError(f"{name}{_line(node.start_mark)}: {tag} is a kind of value that no recipe holds: remove it")
    if isinstance(node, yaml.ScalarNode) and not node.value.isascii():
        try:
            node.value.encode()
        except UnicodeEncodeError:
            raise UserError(f"{name}{_line(node.start_mark)}: {node.value!r} holds half a character") from None


def _check_keys(node: yaml.MappingNode, name: str) -> None:
    first: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.tag == f"{_TAG}merge":
            continue
        if key.tag != f"{_TAG}str":
            raise UserError(f"{name}, line {line}: {_key_text(key)} is no name: put it in quotes if it is meant as one")
        if key.value in first:
            raise UserError(
                f"{name}, line {line}: {key.value!r} is given twice, first in line {first[key.value]}: leave one out"
            )
        first[key.value] = line


def _key_text(key: yaml.Node) -> str:
    return repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"


def _line(mark: Any) -> str:
    return "" if mark is None else f", line {mark.line + 1}"


def _lines(root: yaml.Node) -> dict[tuple[str, ...], int]:
    """Lines of the keys of the first two levels; those of mappings in a list (stages) stand below their number."""
    lines: dict[tuple[str, ...], int] = {}
    for key, section in root.value if isinstance(root, yaml.MappingNode) else ():
        lines[(key.value,)] = key.start_mark.line + 1
        if isinstance(section, yaml.SequenceNode):
            for number, item in enumerate(section.value):
                lines[(key.value, str(number))] = item.start_mark.line + 1
                lines |= {(key.value, str(number), *rest): line for rest, line in _lines(item).items()}
        for inner, _ in section.value if isinstance(section, yaml.MappingNode) else ():
            if isinstance(inner, yaml.ScalarNode):
                lines[(key.value, inner.value)] = inner.start_mark.line + 1
    return lines
