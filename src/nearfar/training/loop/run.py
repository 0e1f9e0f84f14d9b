"""What `nearfar.train` gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nearfar.data.sources.skipped import Skipped
from nearfar.methods.base import Method
from nearfar.training.loop.log import LogRow


@dataclass
class Run:
    """A finished run."""

    method: Method
    """The trained method, with its moving average of the weights swapped in where it keeps one."""
    out: Path | None
    """The run folder: `history.jsonl`, `checkpoints/`, `model/`, `report.html`."""
    step: int
    history: list[LogRow] = field(repr=False)
    """The rows of `history.jsonl`."""
    seconds: float
    """Time spent on steps and validation, over all its parts where the run was resumed."""
    skipped: Skipped | None = field(default=None, repr=False)
    """What the loader of this process could not use, and why."""
    left_out: list[tuple[str, Skipped]] = field(default_factory=list, repr=False)
    """What could not be used of the training data, of those validated on and those measured on, each with its name."""
    results: dict[str, Any] = field(default_factory=dict, repr=False)
    """The results of a recipe's evaluation, by protocol."""
    measured_on: str | None = None
    """What the figures of `results`, else those of the report, are of; None where nothing was measured."""
    remarks: list[str] = field(default_factory=list, repr=False)
    """What must be known of the figures: that they are of the training data, or not above chance."""

    @property
    def model(self) -> Any:
        """The encoder that was trained (`method.model`), to evaluate, search or save."""
        return self.method.encoder

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of every figure in the history."""
        last: dict[str, float] = {}
        for row in self.history:
            last.update(row)
        return last
