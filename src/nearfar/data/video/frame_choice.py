"""Which frames of a video are taken: one of each equal part of it, or some in a row; in training at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from nearfar.errors import UserError, at_least

Sampling = Literal["uniform", "dense"]
Spacing = Literal["frame", "time"]
Short = Literal["hold", "loop"]


@dataclass(frozen=True)
class FrameChoice:
    """Which frames of a video are taken. However short it is, there are always exactly `frames` of them.

    Attributes:
        frames: how many frames (X-CLIP, arXiv 2208.02816: 8, 16 or 32).
        sampling: `uniform` cuts the video into `frames` equal parts and takes one frame of each, the middle one in
            evaluation and one at random in training (TSN, arXiv 1608.00859); `dense` takes `frames` in a row from the
            middle, or from a random start.
        spacing: whether the parts of `uniform` are equal in their number of frames, or in time, where frames last
            unequally long.
        step: with `dense`, every so many-th frame.
        short: what `dense` takes beyond the end of a short video: its last frame again (`hold`), or from the start
            (`loop`).

    Raises:
        UserError: a value that is none of these.

    >>> FrameChoice(8).numbers(np.arange(31.0)).tolist()  # of 30 frames
    [1, 5, 9, 13, 16, 20, 24, 28]
    """

    frames: int = 8
    sampling: Sampling = "uniform"
    spacing: Spacing = "frame"
    step: int = 1
    short: Short = "hold"

    def __post_init__(self) -> None:
        at_least(1, frames=self.frames, step=self.step)
        for name, kinds in (("sampling", Sampling), ("spacing", Spacing), ("short", Short)):
            if getattr(self, name) not in get_args(kinds):
                raise UserError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(get_args(kinds))}")
        if self.sampling == "dense" and self.spacing == "time":
            raise UserError("spacing='time' goes with sampling='uniform': 'dense' counts frames")

    def numbers(
        self, edges: np.ndarray, chance: np.random.Generator | None = None, *, view: int = 0, views: int = 1
    ) -> np.ndarray:
        """The frames' numbers, int64 `[frames]`, counted from 0.

        Args:
            edges: `[n + 1]`, when each of the video's n frames begins, and when the last one ends, in seconds.
            chance: where the randomness of training comes from; None takes what evaluation takes.
            view, views: without chance, the how-many-th of so many selections that are spread evenly over the video.
        """
        if self.sampling == "dense":
            return self._in_a_row(len(edges) - 1, chance, view, views)
        if self.spacing == "frame":
            return self._of_equal_parts(len(edges) - 1, chance, view, views)
        share = (2 * view + 1) / (2 * views) if chance is None else chance.random(self.frames)
        times = edges[0] + (np.arange(self.frames) + share) * (edges[-1] - edges[0]) / self.frames
        return np.clip(np.searchsorted(edges, times, side="right") - 1, 0, len(edges) - 2)

    def _of_equal_parts(self, n: int, chance: Any, view: int, views: int) -> np.ndarray:
        parts = np.arange(self.frames)
        if chance is None:  # in whole numbers: a half is a half
            return (2 * views * parts + 2 * view + 1) * n // (2 * views * self.frames)
        drawn = np.floor((parts + chance.random(self.frames)) * n / self.frames).astype(np.int64)
        return np.minimum(drawn, n - 1)

    def _in_a_row(self, n: int, chance: Any, view: int, views: int) -> np.ndarray:
        spare = max(0, n - (self.frames - 1) * self.step - 1)
        start = (2 * view + 1) * spare // (2 * views) if chance is None else chance.integers(spare + 1)
        numbers = start + np.arange(self.frames) * self.step
        return numbers % n if self.short == "loop" else np.minimum(numbers, n - 1)
