"""The one progress bar: long work of every kind shows it, on the error stream, where that is a terminal.

Work within work (an embedding within an evaluation) adds a line to the same display. No other file imports the
progress bars of another library.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar

T = TypeVar("T")


class _Display:
    """The display of this process: rich's `Progress` while at least one bar is open, else None."""

    progress: Any = None
    bars = 0
    lock = Lock()
    showing = False
    """Whether work that does not say so itself shows its bar."""


class ProgressBar:
    """One line of the display, as `bar` opens it."""

    def __init__(self, display: Any = None, description: str = "", total: float | None = None) -> None:
        self._progress = display
        self._task = display.add_task(description, total=total, figures="") if display else None

    @property
    def is_shown(self) -> bool:
        return self._progress is not None

    def advance(self, count: float = 1) -> None:
        """So many more are done."""
        if self._progress:
            self._progress.advance(self._task, count)

    def move(self, done: float, figures: str | None = None) -> None:
        """So many are done in all; `figures` stand behind the bar."""
        if self._progress:
            self._progress.update(self._task, completed=done, **({} if figures is None else {"figures": figures}))

    def say(self, line: str) -> None:
        """A line that stays, above the bars; printed where no bar is shown."""
        self._progress.console.print(line, markup=False) if self._progress else print(line, flush=True)

    def close(self) -> None:
        if self._progress:
            self._progress.refresh()
            self._progress.remove_task(self._task)


def with_remark(source: T) -> T:
    """The same data, after what its reader should know first (`remark`) is printed to the error stream."""
    if remark := getattr(source, "remark", None):
        print(remark, file=sys.stderr, flush=True)
    return source


@contextmanager
def bar(description: str, total: float | None = None, show: bool | None = None) -> Iterator[ProgressBar]:
    """A progress bar that goes when the block ends.

    Args:
        description: the words before the bar.
        total: how many there are; None where nobody knows.
        show: True shows it, False does not; None does as the `showing` block around it says, which a command opens. An
            error stream that is no terminal never shows one.
    """
    requested = _Display.showing if show is None else show
    if not (requested and is_terminal()):
        yield ProgressBar()
        return
    with _Display.lock:
        if _Display.progress is None:
            _Display.progress = _new_display()
            _Display.progress.start()
        _Display.bars += 1
    line = ProgressBar(_Display.progress, description, total)
    try:
        yield line
    finally:
        line.close()
        with _Display.lock:
            _Display.bars -= 1
            if not _Display.bars:
                _Display.progress.stop()
                _Display.progress = None


@contextmanager
def progress(description: str, total: float | None, show: bool | None = None) -> Iterator[Callable[[float], None]]:
    """A `bar`, as the function that takes the number done since the last call."""
    with bar(description, total, show) as line:
        yield line.advance


def track(items: Iterable[T], description: str, show: bool | None = None, total: float | None = None) -> Iterator[T]:
    """The items, with a `bar` that counts them. `total` is their number where they have no length.

    >>> list(track("abc", "reading"))
    ['a', 'b', 'c']
    """
    if total is None and isinstance(items, Collection):
        total = len(items)
    with bar(description, total, show) as line:
        for item in items:
            yield item
            line.advance()


@contextmanager
def showing(show: bool = True) -> Iterator[None]:
    """A block, such as a command, in which work that does not say so itself shows its bar, or does not."""
    before, _Display.showing = _Display.showing, show
    try:
        yield
    finally:
        _Display.showing = before


def is_terminal() -> bool:
    """Whether the error stream is a terminal, so that a bar can be shown."""
    return bool(sys.stderr and sys.stderr.isatty())


def _new_display() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4)
