"""Files of texts by name: JSON or YAML, as people and language models write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.errors import UserError


def read_mapping(path: str | Path) -> dict[str, Any]:
    """What a JSON or YAML file holds, by name.

    Raises:
        UserError: there is no such file, it has another ending, cannot be read, holds no names at its top, one twice,
            or one that YAML reads as a number or a truth value.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_mapping(files.write(Path(folder) / "a.yaml", "cat: [it purrs]"))
    {'cat': ['it purrs']}
    """
    path = Path(path)
    if path.suffix.lower() not in (".json", ".yaml", ".yml"):
        raise UserError(f"{path}: texts of classes are read from .json, .yaml or .yml")
    if not path.is_file():
        raise UserError(f"{path} is not there: name a file that maps each class to its texts")
    try:
        content = path.read_text("utf-8-sig")
        held = _json(path, content) if path.suffix.lower() == ".json" else _yaml(path, content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {files.why(error, 'it cannot be read')}") from error
    if not isinstance(held, Mapping):
        raise UserError(f"{path} must map names to texts, as {{'cat': ['it purrs']}}, and holds something else")
    if strange := [name for name in held if not isinstance(name, str)]:
        raise UserError(f"{path}: the name {strange[0]!r} is no text: put it in quotes")
    return dict(held)


def read_texts(path: str | Path) -> dict[str, tuple[str, ...]]:
    """The texts of each class in a file that maps names to one text or to a list of them.

    Raises:
        UserError: as `read_mapping`, or a class has no text, an empty one, or something that is none.
    """
    return {name: checked_texts(texts, f"{path}, {name!r}") for name, texts in read_mapping(path).items()}


def checked_texts(texts: Any, where: str) -> tuple[str, ...]:
    """One text or several as a tuple, without blanks around them and each once.

    Args:
        texts: a text, or a list of texts.
        where: what the message begins with.

    Raises:
        UserError: there is none, or one that is empty or no text.

    >>> checked_texts([" it purrs", "it purrs", "it climbs"], "cat")
    ('it purrs', 'it climbs')
    """
    listed = [texts] if isinstance(texts, str) else texts
    if not isinstance(listed, list | tuple) or not listed:
        raise UserError(f"{where}: write a text or a list of texts, not {texts!r}")
    if bad := [text for text in listed if not isinstance(text, str) or not text.strip()]:
        raise UserError(f"{where}: {bad[0]!r} is no text: write words, in quotes where YAML reads them otherwise")
    return tuple(dict.fromkeys(text.strip() for text in listed))


def _json(path: Path, content: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _check_once(path, [name for name, _ in pairs])
        return dict(pairs)

    return json.loads(content, object_pairs_hook=once)


def _check_once(path: Path, names: Sequence[str]) -> None:
    """A name that stands twice would lose the texts of its first place without a word."""
    if len(set(names)) != len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise UserError(f"{path}: the name {twice!r} stands there twice: put its texts in one list")


def _yaml(path: Path, content: str) -> Any:
    import yaml

    loader = yaml.SafeLoader(content)
    try:
        node = loader.get_single_node()
        maps = [node, *(value for _, value in node.value)] if isinstance(node, yaml.MappingNode) else []
        for each in maps:
            if isinstance(each, yaml.MappingNode):
                _check_once(path, [str(key.value) for key, _ in each.value])
        return None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" from line {mark.line + 1} on" if mark else ""
        raise UserError(f"{path}: it is no YAML{place}: mend it there") from error
    finally:
        loader.dispose()
