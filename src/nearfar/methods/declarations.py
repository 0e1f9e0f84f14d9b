"""What a method declares to the house, checked: no misspelt name, no batch key outside `reads`."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from nearfar.errors import UserError

CLOSE = 0.85
"""How alike two names are (`difflib`'s ratio) where one is taken for the other misspelt (`n_view`, `n_views`: 0.92)."""


class DeclaredBatch(Mapping[str, Any]):
    """The batch as an objective gets it: the keys that its method declares in `reads`, and an error for any other.

    A declared key may be missing from the data: then `get` gives the default, and `[...]` says so.

    >>> batch = DeclaredBatch({"index": [0, 1], "geometry": "..."}, reads=("index", "label"), method="CLIP")
    >>> list(batch), batch.get("label"), "label" in batch
    (['index'], None, False)
    >>> batch["geometry"]
    Traceback (most recent call last):
    nearfar.errors.UserError: CLIP's objective reads the batch key 'geometry', which it does not declare: add it to \
the class's reads = ('index', 'label').
    """

    def __init__(self, batch: Mapping[str, Any], *, reads: Sequence[str], method: str) -> None:
        self._values = {key: batch[key] for key in reads if key in batch}
        self._reads, self._method = tuple(reads), method

    def __getitem__(self, key: str) -> Any:
        if key in self:
            return self._values[key]
        raise UserError(
            f"{self._method}'s objective needs the batch key {key!r}, which these data do not have: name its column, "
            "or take data with it."
        )

    def get(self, key: str, default: Any = None) -> Any:
        return self._values[key] if key in self else default

    def __contains__(self, key: object) -> bool:
        if key not in self._reads:
            raise undeclared(self._method, [str(key)], self._reads)
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"DeclaredBatch({self._values!r})"


def undeclared(method: str, keys: Sequence[str], reads: Sequence[str]) -> UserError:
    """The error for batch keys that an objective reads and its method does not declare."""
    names, noun = ", ".join(map(repr, keys)), "keys" if len(keys) > 1 else "key"
    return UserError(
        f"{method}'s objective reads the batch {noun} {names}, which it does not declare: add "
        f"{'them' if len(keys) > 1 else 'it'} to the class's reads = {tuple(reads)!r}."
    )


def check_reads(method: str, objective: Callable[..., Any], reads: Sequence[str]) -> None:
    """Refuse an objective whose source names a batch key that is not in `reads`.

    Raises:
        UserError: it does, or `reads` is one text in place of a sequence of keys.
    """
    if isinstance(reads, str):
        raise UserError(f"{method}: reads is a tuple of batch keys: reads = ({reads!r},)")
    if missing := [key for key in keys_of(objective) if key not in reads]:
        raise undeclared(method, missing, reads)


def keys_of(objective: Callable[..., Any]) -> list[str]:
    """The constant keys that an objective takes from its second argument: `batch["k"]`, `batch.get("k")`, `"k" in
    batch`. None where its source cannot be read; keys made at run time are left to `DeclaredBatch`."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(objective)))
    except (OSError, TypeError, SyntaxError):
        return []
    function = tree.body[0]
    if not isinstance(function, ast.FunctionDef) or len(function.args.args) < 3:
        return []
    batch = function.args.args[2].arg

    def named(node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id == batch

    key_nodes: list[ast.AST] = []
    for node in ast.walk(function):
        if isinstance(node, ast.Subscript) and named(node.value):
            key_nodes.append(node.slice)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and named(node.func.value):
            key_nodes += node.args[:1] if node.func.attr == "get" else []
        elif isinstance(node, ast.Compare) and any(map(named, node.comparators)):
            key_nodes.append(node.left)
    keys = [node.value for node in key_nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return sorted(set(keys))


def check_attributes(kind: type, base: type) -> None:
    """Refuse a class attribute whose name is close to one that `base` declares, and is not it: it would be ignored.

    Values are held against values and functions against functions, so that a method may have a function `view`.

    Raises:
        UserError: there is one; the message names both.
    """
    declared = {name: callable(value) for name, value in vars(base).items() if not name.startswith("_")}
    inherited = {name for parent in kind.__mro__[1:] for name in vars(parent)}
    for name, value in vars(kind).items():
        if name.startswith("_") or name in inherited:
            continue
        same_kind = [other for other, function in declared.items() if function == callable(value)]
        if near := get_close_matches(name, same_kind, n=1, cutoff=CLOSE):
            raise UserError(f"{kind.__name__}.{name} is nothing that a method declares: did you mean {near[0]!r}?")
