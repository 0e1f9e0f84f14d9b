"""What a protocol is: a function that measures, and all that others need to know about it beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import TYPE_CHECKING, Any

from nearfar import lookup
from nearfar.evaluation.protocols.signature import Option, load, options

if TYPE_CHECKING:
    from nearfar.evaluation.measures.result import Result
    from nearfar.evaluation.run_protocols import EvaluationInputs

FROM_INPUTS = ("embeddings", "train", "captions", "seed", "batch_size", "progress")
"""Keyword-only arguments that a protocol gets from `EvaluationInputs` where it has them; an option of that name goes
first."""


@dataclass(frozen=True)
class Protocol:
    """A way to measure a model on data. Nothing here is imported before it runs.

    Args:
        name: as the command line and recipes call it.
        about: one line for the help.
        measure: a function that returns a `Result`, or where it is as "module:function". Its keyword-only arguments
            are the protocol's options; their help is what the docstring says of them under `Args`.
        takes: what of the `EvaluationInputs` it gets, in order: "encoder", "source", "embeddings", "train_embeddings";
            or "inputs", all of them.
        sides: the sides of the embeddings that it reads: "image", "text". Records need a column of that name, and the
            model an `encode_SIDE`.
        columns: what records need beside; "box|objects" needs either, "{second}" what the option `second` names.
        abilities: the methods that a model needs beside; "encode_image|encode_text" needs either.
        usual: whether it is measured, where the data allows, when no protocol is named.
        named_classes: whether the data must name its classes, unless the option `classes` does.
        by_number: whether records are read by number, so that a stream will not do.
        own_data: an option that brings data of its own, so that the source needs nothing.
        flags: options that have a flag of their own on the command line: {"--templates": "templates"}.
        headlines: figures, and what the report calls them on its first lines.
        examples: a section of the report with single examples: its heading, and a function `(results, source)` as
            "module:function", which returns blocks (`nearfar.evaluation.report.blocks`).

    >>> from nearfar.evaluation.protocols import PROTOCOLS
    >>> PROTOCOLS["retrieval"].needed_columns, PROTOCOLS["retrieval"].needed_abilities
    (('image', 'text'), ('encode_image', 'encode_text'))
    >>> [option.name for option in PROTOCOLS["zero_shot"].options]
    ['classes', 'templates', 'texts', 'candidates', 'ks']
    """

    name: str
    about: str
    measure: str | Callable[..., Result]
    takes: tuple[str, ...] = ("inputs",)
    sides: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    abilities: tuple[str, ...] = ()
    usual: bool = False
    named_classes: bool = False
    by_number: bool = False
    own_data: str | None = None
    flags: Mapping[str, str] = field(default_factory=dict)
    headlines: Mapping[str, str] = field(default_factory=dict)
    examples: tuple[str, str] | None = None

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """Columns that records need, those of its sides first."""
        return tuple(dict.fromkeys((*self.sides, *self.columns)))

    @property
    def needed_abilities(self) -> tuple[str, ...]:
        """Methods that a model needs, those of its sides first."""
        return tuple(dict.fromkeys((*(f"encode_{side}" for side in self.sides), *self.abilities)))

    @property
    def options(self) -> tuple[Option, ...]:
        """Its own settings, without those that `EvaluationInputs` gives."""
        return tuple(option for option in options(self.measure) or () if option.name not in FROM_INPUTS)

    def check_options(self, names: Iterable[str], *, where: str = "") -> None:
        """Raise a `UserError` for the first name that is no option; `where` is what the message begins with."""
        known = options(self.measure)
        if known is not None:
            own = [option.name for option in self.options]
            from_inputs = [option.name for option in known if option.name in FROM_INPUTS]
            lookup.check(
                "option", [name for name in names if name not in from_inputs], own, where=f"{where}{self.name}: "
            )

    def run(self, inputs: EvaluationInputs, **options: Any) -> Result:
        """Measure.

        Raises:
            UserError: no such option, or what the protocol itself cannot do with.
        """
        self.check_options(options)
        function = load(self.measure) if isinstance(self.measure, str) else self.measure
        parameters = signature(function).parameters.values()
        from_inputs = [
            p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name in FROM_INPUTS and p.name not in options
        ]
        taken = [inputs if name == "inputs" else getattr(inputs, name) for name in self.takes]
        return function(*taken, **{name: getattr(inputs, name) for name in from_inputs}, **options)
