"""What a run reports as it goes: rows of history, a progress bar or plain lines, and trackers."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from nearfar import console, files
from nearfar import distributed as processes
from nearfar.errors import UserError
from nearfar.training.config import TrainConfig

LogRow = dict[str, float]


class TrainingLog:
    """The log of a run. Only the main process writes and prints.

    Rows go to `history.jsonl` (flushed at once), to the trackers, and to the terminal.
    """

    def __init__(self, out: Path | None, config: TrainConfig, steps: int) -> None:
        self.config = config
        self.steps = steps
        self.rows: list[LogRow] = []
        self._path = out / "history.jsonl" if out and processes.is_main() else None
        self._file: Any = None
        self._trackers = _start_trackers(config, out)
        self._prints = config.progress and processes.is_main()
        self._bar = console.ProgressBar()
        self._open = ExitStack()
        self._began = time.perf_counter()
        self._first = 0

    def start(self, step: int) -> None:
        """Begin at `step`: rows that a killed run wrote after it are dropped."""
        self._first, self._began = step, time.perf_counter()
        if self._path:
            self.rows = [row for row in read_history(self._path) if row["step"] <= step]
            files.write(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))
            with files.writing(self._path):
                self._file = self._path.open("a", encoding="utf-8")
        # Where the output is a file, lines go there, and no bar hides them.
        shown = self._prints and sys.stdout.isatty()
        self._bar = self._open.enter_context(console.bar("training", self.steps, shown))
        self._bar.move(step)

    def step(self, step: int) -> None:
        """Move the bar."""
        self._bar.move(step)

    def row(self, row: LogRow) -> None:
        """Record a row; it must have a `step`."""
        self.rows.append(row)
        if self._file and self._path:
            with files.writing(self._path):
                self._file.write(json.dumps(row) + "\n")
                self._file.flush()
                os.fsync(self._file.fileno())
        values = {name: value for name, value in row.items() if name != "step"}
        for tracker in self._trackers:
            tracker.log(values, step=int(row["step"]))
        self._bar.move(row["step"], _formatted(row))
        if self._prints and not self._bar.is_shown:
            print(f"{self._line(row)}  {self._left(row['step'])}".rstrip(), flush=True)

    def say(self, line: str) -> None:
        """A line for the reader, above the bar."""
        if self._prints:
            self._bar.say(line)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.finish()
        if self._file:
            with suppress(OSError):  # a full disk refused a row, and has said so
                self._file.close()
        if self._bar.is_shown and self.rows:
            self._bar.say(self._line(self.rows[-1]))  # the bar goes, its last figures stay
        self._open.close()
        self._bar = console.ProgressBar()

    def _line(self, row: LogRow) -> str:
        return f"step {int(row['step'])}/{self.steps}  {_formatted(row)}"

    def _left(self, step: float) -> str:
        done = step - self._first
        if done <= 0 or step >= self.steps:
            return ""
        seconds = (time.perf_counter() - self._began) / done * (self.steps - step)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d} left"


def read_history(path: Path) -> list[LogRow]:
    """The rows of a `history.jsonl`; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text("utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _formatted(row: Mapping[str, float]) -> str:
    figures = {name: value for name, value in row.items() if name not in ("step", "epoch", "seconds")}
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())


def check_trackers(names: Iterable[str]) -> None:
    """Raise a `UserError` for the first tracker that is not installed."""
    if not names:
        return
    from accelerate.tracking import get_available_trackers

    available = [str(name) for name in get_available_trackers()]
    for name in names:
        if name not in available:
            raise UserError(
                f"training.trackers: no tracker {name!r} is installed (installed: {', '.join(available) or 'none'}): "
                f"pip install {name}, or leave it out."
            )


def _start_trackers(config: TrainConfig, out: Path | None) -> list[Any]:
    if not config.trackers or not processes.is_main():
        return []
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    trackers = []
    for name in config.trackers:
        kind = LOGGER_TYPE_TO_CLASS[name]
        where = {"logging_dir": str(out or ".")} if kind.requires_logging_directory else {}
        tracker = kind("trackers", **where)
        tracker.start()
        trackers.append(tracker)
    return trackers
