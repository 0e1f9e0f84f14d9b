"""What a reproduction states before it runs: the claims of a paper, its arms, and how many seeds it may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nearfar.errors import UserError
from nearfar.reproductions.shared.choosing import Grid

Arms = dict[str, dict[str, Any]]
"""What one seed measured: arm -> metric -> a number, or a `PerQuery`, whose mean is the number."""


@dataclass(frozen=True)
class Claim:
    """One claim of a paper: on `metric`, `method` beats `baseline`.

    Args:
        text: the claim in words.
        method, baseline: names of arms.
        metric: what is compared.
        direction: whether "higher" or "lower" is better.
        margin: the difference that is claimed. 0: method is better. Negative: method is worse by no more than that
            ("at no loss in retrieval"). Positive: better by at least that.
        effect: the smallest difference beyond the margin that is worth finding, in the metric's unit, above 0. The
            number of seeds is planned for it. Needed where there is a pilot.
        floor: an arm, or a number, that the better arm must beat too, such as chance: of two arms at chance neither
            has learnt anything, whatever their difference.
        premise: not an idea of the paper, but what it builds on ("plain CLIP retrieves"). Judged by itself, and
            not counted among the claims.
        constant: the baseline is a number that was published or worked out, the same for every seed. Counted apart.
        over: "seeds": the interval is about other trainings (and other test data, where seeds draw their own or the
            values of queries are recorded). "queries": nothing that is compared was trained on the seed, which only
            draws queries, so all queries of all seeds are one sample.

    Raises:
        UserError: a setting out of its range.
    """

    text: str
    method: str
    baseline: str
    metric: str
    direction: Literal["higher", "lower"] = "higher"
    margin: float = 0.0
    effect: float | None = None
    floor: str | float | None = None
    premise: bool = False
    constant: bool = False
    over: Literal["seeds", "queries"] = "seeds"

    def __post_init__(self) -> None:
        if self.direction not in ("higher", "lower"):
            raise UserError(f"claim {self.text!r}: direction is {self.direction!r}; write 'higher' or 'lower'")
        if self.over not in ("seeds", "queries"):
            raise UserError(f"claim {self.text!r}: over is {self.over!r}; write 'seeds' or 'queries'")
        if self.effect is not None and not self.effect > 0:
            raise UserError(f"claim {self.text!r}: effect is {self.effect}, but must be above 0")

    @property
    def sign(self) -> int:
        """1 where higher is better, else -1."""
        return 1 if self.direction == "higher" else -1


@dataclass(frozen=True)
class Reproduction:
    """How a paper is re-run.

    Args:
        slug: the paper's.
        run: `run(seed) -> Arms`, all arms on one seed; with a grid `run(seed, chosen)`, where `chosen[arm]` is the
            arm's own setting.
        claims: what is to be judged.
        seeds: all that may be run, in this order: the budget. At least three are judged.
        pilot: how many of them, the first ones, only plan: their spread says how many of the others are run, and
            they take no part in the verdict. 0: all seeds are judged, without a plan.
        grid: how each arm's setting is chosen before the first seed runs.
        config: everything that was chosen by hand (data, sizes, steps), recorded beside the figures.
        note: what a reader should know of the result: what differs from the paper, what was tried.

    Raises:
        UserError: too few seeds, or a claim without an effect to plan for.
    """

    slug: str
    run: Callable[..., Arms]
    claims: Sequence[Claim]
    seeds: Sequence[int] = tuple(range(12))
    pilot: int = 3
    grid: Grid | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        judged = len(self.seeds) - self.pilot
        if judged < 3:
            raise UserError(f"{self.slug}: a reproduction needs at least 3 seeds besides its pilot's, got {judged}")
        if self.pilot < 0 or self.pilot == 1:
            raise UserError(f"{self.slug}: pilot is {self.pilot}; a spread needs at least 2 seeds, 0 is for no plan")
        for claim in self.claims:
            if self.pilot and claim.effect is None and not claim.premise:
                raise UserError(f"{self.slug}: claim {claim.text!r} names no effect; set effect=, or pilot=0")
