"""The flags of a command: made from a function's signature and docstring, and every complaint in one sentence."""

from __future__ import annotations

import re
from argparse import Action, ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from functools import partial
from inspect import Parameter, cleandoc, signature
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from nearfar import lookup
from nearfar.signatures import kinds
from nearfar.signatures.docstrings import described, summary


class Flags(ArgumentParser):
    """An `ArgumentParser` whose errors are one sentence: the flag, what it takes, the nearest name of one that is not
    there. `--batch_size` is `--batch-size`, too."""

    def __init__(self, prog: str, *, description: str = "", epilog: str | None = None) -> None:
        super().__init__(
            prog, description=cleandoc(description), epilog=epilog, formatter_class=RawDescriptionHelpFormatter
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = None if args is None else [re.sub(r"^--[\w-]+", _dashes, str(word)) for word in args]
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {self._sentence(message)}\n")

    def _sentence(self, message: str) -> str:
        """One of argparse's messages as a sentence of our own."""
        flags = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        if unknown := re.match(r"unrecognized arguments: (\S+)", message):
            if unknown[1].startswith("-"):
                name = unknown[1].partition("=")[0]
                return f"no flag {name}.{lookup.near(name, flags)} There are: {', '.join(flags)}."
            return f"{unknown[1]!r} is one word too many: `{self.prog} --help` lists what it takes."
        if several := re.match(r"ambiguous option: (.*) could match (.*)", message, re.DOTALL):
            return f"{several[1]!r} is the beginning of {several[2]}: write the flag out."
        if missing := re.match(r"the following arguments are required: (.*)", message):
            return f"{missing[1]} is missing: `{self.prog} --help` says what it is."
        if match := re.match(r"argument ([^:]*): (.*)", message, re.DOTALL):
            names = match[1].split("/")
            action = next((a for a in self._actions if names[0] in (*a.option_strings, a.dest, a.metavar)), None)
            return f"{names[-1]} {_complaint(match[2], action)}"
        return message


def of(function: Callable[..., Any], prog: str) -> Flags:
    """The flags of a command that is a function: what has no default is a word of its own, the rest flags. A
    `**columns: Unpack[Columns]` brings those of the `TypedDict`, with the help of its docstring."""
    docstring = cleandoc(function.__doc__ or "")
    made = Flags(prog, description=summary(docstring))
    types = get_type_hints(function)
    help_of = described(docstring)
    for name, parameter in signature(function).parameters.items():
        if parameter.kind is Parameter.VAR_KEYWORD:
            add_shared(made, get_args(types[name])[0])
        else:
            _add(made, name, types[name], parameter.default, help_of.get(name, ""))
    return made


def add_shared(made: ArgumentParser, shared: Any, *, without: Sequence[str] = ()) -> None:
    """Add the flags of a `TypedDict`, with the help of its docstring, but those that the command defines itself."""
    texts = described(cleandoc(shared.__doc__ or ""))
    for name, kind in get_type_hints(shared).items():
        if name not in without:
            _add(made, name, kind, None, texts.get(name, ""))


def call(function: Callable[..., Any], prog: str, arguments: Sequence[str]) -> Any:
    """Call a command with what its flags say."""
    return function(**vars(of(function, prog).parse_args(arguments)))


def _add(made: ArgumentParser, name: str, kind: Any, default: Any, text: str) -> None:
    text = text.replace("%", "%%")
    options: dict[str, Any] = {"type": partial(_read, kind)}
    if kind is bool:
        options |= {"nargs": "?", "const": True, "metavar": "true|false"}
    elif kind == bool | str:
        options |= {"nargs": "?", "const": True, "metavar": "TEXT"}
    elif words := _choices(kind):
        options["metavar"] = "{" + ",".join(words) + "}"
    if default is Parameter.empty:
        made.add_argument(name, help=text, **options)
        return
    if default is not None and default is not False and "default" not in text:
        text += f" (default: {default})"
    made.add_argument(f"--{name.replace('_', '-')}", dest=name, default=default, help=text, **options)


def _choices(kind: Any) -> list[str]:
    parts = [kind, *get_args(kind)]
    return next(([str(word) for word in get_args(part)] for part in parts if get_origin(part) is Literal), [])


def _read(kind: Any, word: str) -> Any:
    """A word of the command line as a value."""
    try:
        return kinds.convert(word, kind)
    except kinds.Unfit:
        near = lookup.near(word, _choices(kind))
        remedy = "" if kind is not bool else " Another word goes before the flag, or after --flag=true."
        must = kinds.words(kind).removesuffix(" or null")
        raise ArgumentTypeError(f"must be {must}, not {word!r}.{near or remedy}") from None


def _complaint(message: str, action: Action | None) -> str:
    """What argparse says of one flag, as the rest of a sentence."""
    if invalid := re.match(r"invalid (\w+) value: (.*)", message, re.DOTALL):
        return f"must be {kinds.words({'int': int, 'float': float}.get(invalid[1], str))}, not {invalid[2]}"
    if (choice := re.match(r"invalid choice: '?(.*?)'? \(choose from", message)) and action and action.choices:
        known = [str(each) for each in action.choices]
        return f"must be one of {', '.join(known)}, not {choice[1]!r}.{lookup.near(choice[1], known)}"
    if message.startswith("expected"):
        return "takes a value" if "one" in message and "at least" not in message else "takes one value or more"
    return message


def _dashes(flag: re.Match[str]) -> str:
    return "--" + flag[0][2:].replace("_", "-")
