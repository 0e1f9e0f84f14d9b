"""Tables of every setting of a recipe for `docs/settings.md`, made from signatures, annotations and docstrings.

`write_tables.py` puts them into the page. A setting without a sentence of its own, or without words for its type, is an
error here: it is mended where the setting is defined.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from importlib import import_module
from inspect import Parameter, cleandoc, getsource, signature
from textwrap import dedent
from typing import Any, get_type_hints

from nearfar.data.sources.open_source import READERS_OF, WORLD, open_source
from nearfar.evaluation.protocols import PROTOCOLS
from nearfar.evaluation.protocols.signature import load
from nearfar.methods import METHODS, find
from nearfar.models import MAKERS, create
from nearfar.signatures import kinds
from nearfar.signatures.docstrings import described
from nearfar.training.config import TrainConfig
from nearfar.training.recipe.sections import DataConfig, EvaluationConfig, ModelSettings
from nearfar.training.recipe.staged_recipe import StageSettings
from nearfar.training.stages.columns import ClusterSettings

FROM_THE_RECIPE = ("model", "source", "data", "embeddings", "encoder")
"""Arguments that the recipe itself gives."""


@dataclass(frozen=True)
class Setting:
    """One row."""

    name: str
    kind: str
    default: str
    sentence: str

    def as_row(self) -> str:
        cells = (f"`{self.name}`", self.kind, self.default, self.sentence)
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(name: str) -> str:
    """The Markdown of one part: `data`, `sources`, `model`, `makers`, `methods`, `training`, `evaluation`, `protocols`,
    `stages` or `clusters`."""
    parts: dict[str, Callable[[], Iterator[Setting]]] = {
        "data": lambda: of_class(DataConfig),
        "training": lambda: of_class(TrainConfig),
        "evaluation": lambda: of_class(EvaluationConfig),
        "stages": lambda: of_class(StageSettings),
        "clusters": lambda: of_class(ClusterSettings),
    }
    if name == "model":
        return rows([*of_class(ModelSettings), *of_function(create)])
    if name == "makers":
        return several({f"make: {maker}": of_function(load(home)) for maker, home in MAKERS.items()})
    if name == "methods":
        return several({f"name: {method}": of_function(find(method)) for method in METHODS})
    if name == "protocols":
        return several(
            {protocol: of_function(load(row.measure), only=row.options) for protocol, row in PROTOCOLS.items()}
        )
    if name == "sources":
        return several(dict(sources()))
    return rows(parts[name]())


def sources() -> Iterator[tuple[str, Iterator[Setting]]]:
    """The settings of each kind of source."""
    yield "any source", of_function(open_source)
    common = {"split", "image", "text", "label", "answers"}
    places = {
        "a folder of pictures": "sources.image_folder.folder",
        "a table": READERS_OF["table"],
        "shards": READERS_OF["shards"],
        "hub:NAME": "sources.datasets_hub.hub",
        "VQA's questions": READERS_OF["vqa"],
        "text:PLACE": "sources.text_corpus.corpus",
        **{f"world/{name}": f"{module.removeprefix('nearfar.data.')}.{name}" for name, module in WORLD.items()},
    }
    for title, place in places.items():
        module, _, function = place.rpartition(".")
        yield title, of_function(getattr(import_module(f"nearfar.data.{module}"), function), skip=common, first=False)


def several(parts: Mapping[str, Iterator[Setting]]) -> str:
    """A table for each part, under its title; a part without settings is a line."""
    made = []
    for title, settings in parts.items():
        own = list(settings)
        made.append(f"**`{title}`**\n\n{rows(own)}" if own else f"**`{title}`** has no settings.")
    return "\n\n".join(made)


def rows(settings: Sequence[Setting] | Iterator[Setting]) -> str:
    return "\n".join(
        ["| setting | may be | default | what it does |", "|---|---|---|---|", *(s.as_row() for s in settings)]
    )


def of_class(kind: type) -> Iterator[Setting]:
    """The fields of a dataclass, with the text under each."""
    texts, hints = texts_of(kind), get_type_hints(kind)
    for field in fields(kind):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        yield Setting(field.name, words(hints[field.name]), shown(default), sentence(kind, field.name, texts))


def texts_of(kind: type) -> dict[str, str]:
    """The text under each field of a class."""
    [node] = ast.parse(dedent(getsource(kind))).body
    assert isinstance(node, ast.ClassDef)
    texts = {}
    for before, after in zip(node.body, node.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            texts[ast.unparse(before.target)] = " ".join(str(after.value.value).split())
    return texts


def of_function(
    function: Any, *, skip: Sequence[str] | set[str] = (), only: Any = None, first: bool = True
) -> Iterator[Setting]:
    """The arguments of a function or class, with what its docstring says of them."""
    texts = described(cleandoc(function.__doc__ or ""))
    hints = kinds.of(function)
    names = None if only is None else {option.name for option in only}
    for number, (name, parameter) in enumerate(signature(function).parameters.items()):
        left_out = name in skip or name in FROM_THE_RECIPE or (not first and number == 0)
        if left_out or parameter.kind in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL):
            continue
        if names is None or name in names:
            yield Setting(name, words(hints.get(name, Any)), shown(parameter.default), sentence(function, name, texts))


def sentence(where: Any, name: str, texts: Mapping[str, str]) -> str:
    if not texts.get(name):
        raise ValueError(
            f"{where.__module__}.{where.__name__} says nothing of {name}: write a sentence in its docstring"
        )
    text = texts[name].replace(":class:", "").replace("``", "`").rstrip(".")
    return text[0].upper() + text[1:] + "."


def words(annotation: Any) -> str:
    kind = kinds.words(annotation)
    return "any value" if kind == "of another kind" else kind


def shown(default: Any) -> str:
    """A default as a recipe writes it; a setting without one must be given."""
    if default is MISSING or default is Parameter.empty:
        return "needed"
    if default is None or isinstance(default, bool):
        return "`null`" if default is None else f"`{str(default).lower()}`"
    if isinstance(default, tuple | list):
        return f"`[{', '.join(f'{each:.3g}' if isinstance(each, float) else str(each) for each in default)}]`"
    return f"`{default}`"
