"""Equal care for every arm: its setting is chosen on validation data, from one small grid that all arms share."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nearfar.errors import UserError

Setting = dict[str, Any]


@dataclass(frozen=True)
class Grid:
    """The settings that every arm tries, and how they are compared.

    Args:
        arms: the arms to choose for, the baselines first.
        options: the values of each setting, such as `{"lr": [1e-3, 3e-3], "steps": [100, 300]}`; every combination
            is tried. The first of equal settings is chosen, so list the cheaper ones first.
        validate: `validate(arm, setting, seed) -> number`, higher is better, on data that no test reads.
        metric: what that number is, in words.
        seeds: its own seeds, none of the reproduction's; a setting's figure is the mean over them.
    """

    arms: Sequence[str]
    options: Mapping[str, Sequence[Any]]
    validate: Callable[[str, Setting, int], float]
    metric: str
    seeds: Sequence[int] = (1000,)

    def __post_init__(self) -> None:
        if not self.arms or not self.seeds or not self.options or not all(self.options.values()):
            raise UserError("a grid needs at least one arm, one seed, and one value of each option")

    def settings(self) -> list[Setting]:
        """Every combination of the options, the last option changing fastest.

        >>> Grid(["a"], {"lr": [1, 2], "steps": [3]}, lambda arm, setting, seed: 0.0, "R@1").settings()
        [{'lr': 1, 'steps': 3}, {'lr': 2, 'steps': 3}]
        """
        return [dict(zip(self.options, values, strict=True)) for values in itertools.product(*self.options.values())]

    def declared(self) -> dict[str, Any]:
        """The grid as it is recorded."""
        return {
            "arms": list(self.arms),
            "options": {name: list(values) for name, values in self.options.items()},
            "metric": self.metric,
            "seeds": list(self.seeds),
        }

    def trials(self) -> list[tuple[str, Setting, int]]:
        """Everything that is to be tried, arm by arm."""
        return [(arm, setting, seed) for arm in self.arms for setting in self.settings() for seed in self.seeds]


def key(arm: str, setting: Setting, seed: int) -> str:
    """The name of a trial in the record.

    >>> key("CLIP", {"lr": 0.001, "steps": 30}, 1000)
    'CLIP | lr=0.001 steps=30 | seed 1000'
    """
    return f"{arm} | {' '.join(f'{name}={value}' for name, value in setting.items())} | seed {seed}"


def chosen(grid: Grid, figures: Mapping[str, float]) -> dict[str, Setting]:
    """Each arm's best setting by the mean over the grid's seeds; the first of equal ones."""

    def mean(arm: str, setting: Setting) -> float:
        return statistics.fmean(figures[key(arm, setting, seed)] for seed in grid.seeds)

    return {arm: max(grid.settings(), key=lambda setting: mean(arm, setting)) for arm in grid.arms}


def at_the_edge(grid: Mapping[str, Any]) -> list[str]:
    """Of a recorded grid: arms whose choice is the first or last of three or more ordered values, so that a better one
    may lie beyond."""
    return [
        f"{arm} ({name} {setting[name]})"
        for arm, setting in grid["chosen"].items()
        for name, values in grid["options"].items()
        if len(values) > 2 and setting[name] in (values[0], values[-1])
    ]
