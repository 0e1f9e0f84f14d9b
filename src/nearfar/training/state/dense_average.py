"""SWAD (arXiv 2102.08604): the mean of the weights of every step in the valley of a validation figure.

Each validation ends a segment, whose weights are averaged step by step. The valley begins at the first segment whose
figure is the least of `converge` in a row; their mean times `ratio` is the threshold. Segments join while the figure
comes back under it; when `tolerance` in a row lie above, the valley has ended, and so does the run. What lies above
behind the last segment that joined is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.errors import UserError
from nearfar.training.state.run_checkpoint import load_optimizer


@dataclass
class Segment:
    """The mean of the weights of `steps` steps, by name, and the figure that was measured after the last of them."""

    mean: dict[str, Tensor]
    steps: int = 0
    figure: float = math.nan

    @torch.no_grad()
    def add(self, weights: dict[str, Tensor], steps: int = 1) -> None:
        """Count the mean `weights` of so many further steps."""
        self.steps += steps
        for name, value in weights.items():
            if name in self.mean:
                self.mean[name].lerp_(value, steps / self.steps)
            else:
                self.mean[name] = value.clone()


class DenseAverage:
    """Averages the trained weights of a module by SWAD; it holds up to `tolerance + 2` copies of them.

    Args:
        figure: what is measured, in messages; lower is better, and it must be above 0.
        converge: validations in a row whose first must be the least for the valley to begin (paper: 3).
        tolerance: validations in a row above the threshold that end it (paper: 6).
        ratio: of the threshold to the mean figure of those `converge` (paper: 1.3).

    Attributes: `threshold`, None before the valley; `ended`; `valley`, the average and its number of steps.

    >>> module, average = nn.Linear(1, 1, bias=False), DenseAverage("val_loss")
    >>> for weight, figure in ((3.0, 1.0), (1.0, 2.0), (2.0, 3.0)):
    ...     _ = module.weight.data.fill_(weight)
    ...     average.update(module)
    ...     average.check(figure)
    >>> round(average.threshold, 6), average.valley.steps  # the third figure, 3, lies above 1.3 times the mean, 2
    (2.6, 2)
    >>> average.put_in(module)
    True
    >>> module.weight.item()
    2.0
    """

    def __init__(self, figure: str, *, converge: int = 3, tolerance: int = 6, ratio: float = 1.3) -> None:
        self.figure, self.converge, self.tolerance, self.ratio = figure, converge, tolerance, ratio
        self.segment, self.valley = Segment({}), Segment({})
        self.waiting: list[Segment] = []
        self.threshold: float | None = None
        self.ended = False

    def update(self, module: nn.Module) -> None:
        """Count the weights of a step."""
        if not self.ended:
            self.segment.add({name: p.detach() for name, p in module.named_parameters() if p.requires_grad})

    def check(self, value: float) -> None:
        """Count the segment that a validation ended, by its figure.

        Raises:
            UserError: a figure that is not above 0: a share of it is no threshold.
        """
        if not (math.isfinite(value) and value > 0):
            raise UserError(
                f"training.swad looks for the valley of {self.figure}, which is {value:.4g} and must be above 0: name "
                "a figure such as a cross-entropy"
            )
        if self.ended or not self.segment.steps:
            return
        self.segment.figure = value
        self.waiting.append(self.segment)
        self.segment = Segment({})
        if self.threshold is not None:
            self._join()
            return
        recent = self.waiting[-self.converge :]
        figures = [each.figure for each in recent]
        if len(recent) < self.converge or figures[0] > min(figures):
            self.waiting = self.waiting[-self.converge + 1 :]
            return
        self.threshold, self.waiting = self.ratio * sum(figures) / len(figures), []
        for each in recent:
            self.waiting.append(each)
            self._join()

    def put_in(self, module: nn.Module) -> bool:
        """Replace the module's weights by the average; False where no valley was found, and they stay as they are."""
        with torch.no_grad():
            for name, value in self.valley.mean.items():
                module.get_parameter(name).copy_(value)
        return bool(self.valley.mean)

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs."""
        kept = [vars(each) for each in (self.segment, self.valley, *self.waiting)]
        return {"segments": kept, "threshold": self.threshold, "ended": self.ended}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | None = None) -> None:
        segments = [
            Segment({name: value.to(device) for name, value in each["mean"].items()}, each["steps"], each["figure"])
            for each in state["segments"]
        ]
        self.segment, self.valley, *self.waiting = segments
        self.threshold, self.ended = state["threshold"], state["ended"]

    def _join(self) -> None:
        """Let what waits join where its last figure is under the threshold, or end the valley."""
        assert self.threshold is not None
        if self.waiting[-1].figure <= self.threshold:
            for each in self.waiting:
                self.valley.add(each.mean, each.steps)
            self.waiting = []
        elif len(self.waiting) >= self.tolerance:
            self.waiting, self.ended = [], True


def put_in_from(checkpoint: Path, module: nn.Module) -> None:
    """Replace the module's weights by the average that a checkpoint of a run with `training.swad` holds, if it does."""
    if state := load_optimizer(checkpoint).get("dense"):
        average = DenseAverage("")
        average.load_state_dict(state)
        average.put_in(module)
