"""What commands show while they work: a progress bar on the error stream, where it is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(description: str, total: int | None, show: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar that goes when the block ends; what it yields takes the number done since the last call.

    Args:
        description: the words before the bar.
        total: how many there are; None where nobody knows.
        show: False shows nothing, and so does an error stream that is no terminal.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not (show and console.is_terminal)) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.advance(task, done)
