"""The command line: `nearfar COMMAND ...`. Each command is one function in `nearfar.commands`; its signature is its
flags and its docstring is its help, so there is nothing to keep in step here."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from nearfar import console, files, lookup, machine
from nearfar.errors import UserError

COMMANDS = {
    "demo": "Train, evaluate and report on the embedded world, in under five minutes.",
    "adapt": "Fit a model to your own pairs: model, honest figures, report and search index.",
    "train": "Train a method by a recipe: nearfar train RECIPE.yaml key=value ...",
    "evaluate": "Measure a model: retrieval, zero-shot, probes, geometry, compositionality.",
    "embed": "Embed a source of images and texts to a file, or block by block, on one machine or many.",
    "curate": "Keep the good pairs of a source: by rules, by scores, each picture or caption once.",
    "caption": "Give labelled pictures captions: of the descriptions of their class those that fit each best.",
    "heatmap": "Draw where in a picture a vision-language model has put words.",
    "export": "Write a model for others: ONNX files, or a folder for sentence-transformers.",
    "index": "Make, or extend, a search index of a folder or table.",
    "search": "Search an index by text, by image, or by both.",
    "serve": "Open the search page.",
    "prompts": "Search texts of classes for a frozen model, on a few labelled pictures.",
    "generate": "Generate text by contrastive search.",
    "write": "Write captions of pictures, or answers to questions about them, by a vision-language model.",
    "describe": "Write down what is in each picture, as data and as a text that is searched in its place.",
    "papers": "List the papers: where each lives, the verdict of its reproduction.",
    "reproduce": "Run a paper's reproduction and compute its verdict.",
    "recipes": "List the recipes, or copy one out to edit.",
}

ROOMS = {
    **dict.fromkeys(("caption", "prompts"), "nearfar.commands.class_texts"),
    **dict.fromkeys(("describe", "heatmap", "write"), "nearfar.commands.pictured_texts"),
}
"""Where commands stand that are not in `nearfar.commands` itself."""


def load(command: str) -> Callable[..., Any]:
    """The function behind a command; imports that command's module only."""
    room = ROOMS.get(command, "nearfar.commands")
    return getattr(import_module(f"{room}.{command}_command"), command)


def main(argv: Sequence[str] | None = None) -> None:
    """Run `nearfar` on `argv` (default: the process's arguments)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    machine.prepare()
    write_any_name()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if arguments[0] in ("-V", "--version", "version"):
        from nearfar import __version__

        print(__version__)
        return
    command, *rest = arguments
    if command not in COMMANDS:
        sys.exit(f"nearfar: no command {command!r}.{lookup.near(command, COMMANDS)}\n\n{usage()}")
    try:
        with console.showing():
            run(load(command), command, rest)
        sys.stdout.flush()
    except (UserError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        sys.exit(f"nearfar {command}: {error}")
    except BrokenPipeError:
        # `nearfar papers | head`: the reader has had enough.
        drop_output()
        sys.exit(141)
    except OSError as error:
        if (why := files.remedy(error)) is None:
            raise
        if error.filename is None:  # `nearfar search ... > a-file` on a full disk
            drop_output()
        sys.exit(f"nearfar {command}: {error.filename or 'the output'}: {error.strerror}; {why}")
    except KeyboardInterrupt:
        sys.exit(130)


def write_any_name() -> None:
    """Let names of files that are not UTF-8, and texts that a terminal of another encoding does not have, be printed
    with backslashes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """What is still buffered for the output must not be written at exit: that would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(function: Callable[..., Any], command: str, arguments: list[str]) -> Any:
    """Parse `arguments` by the function's signature and call it. A command that parses its own arguments says so
    with an attribute `raw = True`."""
    if getattr(function, "raw", False):
        return function(arguments)
    from nearfar.signatures import flags

    return flags.call(function, f"nearfar {command}", arguments)


def usage() -> str:
    """The help page.

    >>> "papers" in usage()
    True
    """
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    return f"usage: nearfar COMMAND ...\n\n{rows}\n\nnearfar COMMAND --help says more."


if __name__ == "__main__":  # `python -m nearfar.cli`, as older scripts write it
    main()
