"""The options of a function with their help, read from its signature and docstring without importing its module.

`nearfar evaluate --help` lists the options of every protocol, and must not wait for torch.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from inspect import Parameter, cleandoc, formatannotation, signature
from pathlib import Path
from typing import Any

from nearfar.signatures.docstrings import described


@dataclass(frozen=True)
class Option:
    """A keyword-only argument: its name, and its type, default and help as text."""

    name: str
    type: str = ""
    default: str | None = None
    help: str = ""

    @property
    def value(self) -> Any:
        """The default, where it is a plain value and not a constant's name; None otherwise."""
        try:
            return ast.literal_eval(self.default or "None")
        except ValueError:
            return None

    @property
    def is_words(self) -> bool:
        """Whether it takes words as they stand: `str | Path`, a `Literal`, a list of words."""
        return "str" in self.type or self.choices is not None

    @property
    def is_list(self) -> bool:
        """Whether only a sequence of words will do: `Collection[str] | None`, but not `str | Sequence[str]`."""
        kinds = {part.strip().partition("[")[0].rpartition(".")[2] for part in self.type.split("|")}
        return bool(kinds) and kinds <= {"Sequence", "Collection", "list", "tuple", "None"} and kinds != {"None"}

    @property
    def help_text(self) -> str:
        """Its help, with the default where that is a plain value."""
        return self.help if self.value is None else f"{self.help} (default: {self.default})".strip()

    @property
    def choices(self) -> list[str] | None:
        """The values of a `Literal`; None for other types."""
        literal = re.fullmatch(r"(?:typing\.)?Literal\[(.*)\]", self.type)
        return [str(ast.literal_eval(value.strip())) for value in literal[1].split(",")] if literal else None


@lru_cache
def options(function: str | Callable[..., Any]) -> tuple[Option, ...] | None:
    """The keyword-only arguments of a function, in order; None where it takes any (`**options`).

    Args:
        function: the function, or "module:function"; then its source file is read, and not imported.

    >>> [option.name for option in options("nearfar.evaluation.protocols.probes:knn")]
    ['k', 'temperature', 'ks', 'seed']
    >>> options("nearfar.evaluation.protocols.probes:knn")[0].help
    'neighbours; 1 gives the plain nearest-neighbour rule'
    """
    if isinstance(function, str):
        node = _definition(function)
        if node is None:
            function = load(function)
        elif node.args.kwarg:
            return None
        else:
            texts = described(ast.get_docstring(node) or "")
            pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            return tuple(
                Option(arg.arg, _text(arg.annotation) or "", _text(default), texts.get(arg.arg, ""))
                for arg, default in pairs
            )
    return _of_object(function)


def load(function: str) -> Callable[..., Any]:
    """The function that "module:function" names."""
    module, _, name = function.partition(":")
    loaded: Callable[..., Any] = getattr(import_module(module), name)
    return loaded


def _of_object(function: Callable[..., Any]) -> tuple[Option, ...] | None:
    parameters = signature(function).parameters.values()
    if any(p.kind is Parameter.VAR_KEYWORD for p in parameters):
        return None
    texts = described(cleandoc(function.__doc__ or ""))
    return tuple(
        Option(
            p.name,
            "" if p.annotation is Parameter.empty else formatannotation(p.annotation).strip("'"),
            None if p.default is Parameter.empty else repr(p.default),
            texts.get(p.name, ""),
        )
        for p in parameters
        if p.kind is Parameter.KEYWORD_ONLY
    )


def _definition(function: str) -> ast.FunctionDef | None:
    """The function in its source file; None where there is no such file."""
    module, _, name = function.partition(":")
    for file in _files(module):
        if file.is_file():
            tree = ast.parse(file.read_text("utf-8"))
            return next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name), None)
    return None


def _files(module: str) -> Iterator[Path]:
    """Where a module's source may lie. Only the outermost package is looked up: that imports nothing."""
    outermost, *inner = module.split(".")
    spec = find_spec(outermost)
    if spec is None:
        return
    if not inner and spec.origin:
        yield Path(spec.origin)
    for folder in spec.submodule_search_locations or () if inner else ():
        yield Path(folder, *inner).with_suffix(".py")
        yield Path(folder, *inner, "__init__.py")


def _text(node: ast.expr | None) -> str | None:
    return None if node is None else ast.unparse(node)
