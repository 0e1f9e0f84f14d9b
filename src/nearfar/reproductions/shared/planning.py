"""How many seeds: planned once, from the spread of the pilot's, and then kept to.

The pilot's seeds are not judged. A number of seeds that is chosen by the spread of seeds that are then judged stops
where that spread is small by chance, and calls a draw decided up to twice as often as it says (simulated: a pilot of
3, tests at 1 %).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nearfar.reproductions.shared.claims import Claim, Reproduction
from nearfar.reproductions.shared.estimates import Estimate, difference
from nearfar.reproductions.shared.judging import LEVEL
from nearfar.reproductions.shared.power import POWER, cautious, power, rounded, seeds_needed

LEAST = 3
FAR = 100
"""How far beyond the budget the number of seeds is looked for."""


def plan(reproduction: Reproduction, record: Mapping[str, Any]) -> dict[str, Any]:
    """The seeds to judge, enough for each claim's effect at 80 % power and at the level of Holm's first step, as far as
    the budget goes; with what each claim would need and has."""
    seeds, pilot = list(reproduction.seeds), reproduction.pilot
    claims = [claim for claim in reproduction.claims if not claim.premise]
    signature = signatures(reproduction.claims)
    if not pilot:
        return {"pilot": [], "judged": seeds, "signature": signature}
    budget = len(seeds) - pilot
    level = LEVEL / max(1, len(claims))
    rows, most = [], LEAST
    for claim in claims:
        spread = cautious(difference(claim, record, seeds[:pilot]))
        rows.append(_row(claim, spread, level, budget))
        most = max(most, min(budget, rows[-1]["seeds"] or budget))
    for row, claim in zip(rows, claims, strict=True):
        spread = cautious(difference(claim, record, seeds[:pilot]))
        row["power"] = rounded(power(claim.effect or 0.0, spread.with_seeds(most), level))
    return {
        "pilot": seeds[:pilot],
        "judged": seeds[pilot : pilot + most],
        "budget": budget,
        "level": level,
        "claims": rows,
        "signature": signature,
    }


def _row(claim: Claim, spread: Estimate, level: float, budget: int) -> dict[str, Any]:
    assert claim.effect is not None
    needed = seeds_needed(spread, claim.effect, level, least=LEAST, most=max(FAR, budget))
    return {"claim": claim.text, "effect": claim.effect, "seeds": needed}


def signatures(claims: Sequence[Claim]) -> list[list[Any]]:
    """What of the claims the plan depends on: all but their words."""
    return [
        [c.method, c.baseline, c.metric, c.direction, c.margin, c.effect, c.floor, c.premise, c.constant, c.over]
        for c in claims
    ]


def sentence(made: Mapping[str, Any]) -> str:
    """The plan in words."""
    judged = made["judged"]
    if not made["pilot"]:
        return f"{len(judged)} seeds, fixed beforehand"
    short = [row for row in made["claims"] if row["power"] < POWER]
    words = (
        f"{len(judged)} seeds, planned from the spread of {len(made['pilot'])} others for {POWER:.0%} power "
        f"at each claim's effect, of at most {made['budget']}"
    )
    if not short:
        return words
    needs = ", ".join(f"{row['claim']!r} ({_needed(row['seeds'])})" for row in short)
    return f"{words}; too few for: {needs}"


def _needed(seeds: int | None) -> str:
    return f"would need {seeds} seeds" if seeds else "would need more than a hundred seeds"
