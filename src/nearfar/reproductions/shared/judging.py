"""The verdict of each claim: computed from the judged seeds, corrected for the number of claims, never written by hand.

A claim's p-value is two-sided, of the difference being the margin. A claim with a floor needs the better arm above the
floor as well, so its p-value is the larger of the two. Holm's procedure goes through a paper's claims from the smallest
p-value on: the j-th of m is tested at 5 % / (m - j + 1), and the first that fails ends it, with all after it "not
shown". The chance that any claim that is in truth a draw is called decided is then at most 5 %. Premises are no claims
of the paper: each is tested by itself at 5 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nearfar.errors import UserError
from nearfar.reproductions.shared.claims import Claim
from nearfar.reproductions.shared.estimates import Estimate, above_floor, difference
from nearfar.reproductions.shared.power import detectable

LEVEL = 0.05
"""The chance, for all claims of a paper together, to call a draw decided."""


@dataclass(frozen=True)
class Evidence:
    """What the seeds say of a claim, before it is compared with the other claims."""

    claim: Claim
    difference: Estimate
    floor: Estimate | None

    @property
    def winner(self) -> str:
        return self.claim.method if self.difference.mean > self.claim.margin else self.claim.baseline

    @property
    def p(self) -> float:
        """The p-value of the whole claim: also of its floor, which an arm on the wrong side of it does not pass."""
        alone = self.difference.p(self.claim.margin)
        if self.floor is None:
            return alone
        return max(alone, self.floor.p(0.0)) if self.floor.mean > 0 else 1.0


def judge(claims: Sequence[Claim], record: Mapping[str, Any], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Each claim with its difference (positive: in the claimed direction), interval, p-value and verdict.

    'holds': the difference is above the margin. 'reversed': it is below. Else 'not shown', with `detectable`, the
    difference beyond the margin that would have been found with 80 % power. `low` and `high` are the interval at
    `level`, the level at which Holm tested the claim, so that it excludes the margin exactly when the test does;
    those of the claims not shown cover together with 95 %. `p` is Holm's adjusted p-value, to be held against 5 %.

    >>> arms = [{"a": {"r": 0.5 + s / 100}, "b": {"r": 0.4}} for s in range(3)]
    >>> record = {"runs": {str(s): {"arms": each} for s, each in enumerate(arms)}}
    >>> judge([Claim("a beats b", "a", "b", "r")], record, [0, 1, 2])[0]["verdict"]
    'holds'
    """
    evidence = [weigh(claim, record, seeds) for claim in claims]
    family = [each for each in evidence if not each.claim.premise]
    adjusted = dict(zip(map(id, family), holm([each.p for each in family]), strict=True))
    return [_verdict(each, *adjusted.get(id(each), (each.p, LEVEL))) for each in evidence]


def weigh(claim: Claim, record: Mapping[str, Any], seeds: Sequence[int]) -> Evidence:
    """The estimates of a claim; those of the floor are of the arm that is better."""
    if claim.constant:
        _require_constant(claim, record, seeds)
    evidence = Evidence(claim, difference(claim, record, seeds), None)
    if claim.floor is None:
        return evidence
    return Evidence(claim, evidence.difference, above_floor(claim, evidence.winner, record, seeds))


def holm(p: Sequence[float], level: float = LEVEL) -> list[tuple[float, float]]:
    """Of each p-value: its adjusted value, and the level at which it is tested.

    >>> [(round(adjusted, 3), round(tested, 4)) for adjusted, tested in holm([0.03, 0.001, 0.04])]
    [(0.06, 0.025), (0.003, 0.0167), (0.06, 0.025)]
    """
    result = [(1.0, level)] * len(p)
    so_far, stopped_at = 0.0, None
    for j, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        left = len(p) - j
        so_far = max(so_far, min(1.0, left * p[i]))
        tested = stopped_at or level / left
        if so_far >= level:
            stopped_at = tested
        result[i] = (so_far, tested)
    return result


def _verdict(evidence: Evidence, p: float, level: float) -> dict[str, Any]:
    claim, difference = evidence.claim, evidence.difference
    decided = p < LEVEL
    verdict = ("holds" if difference.mean > claim.margin else "reversed") if decided else "not shown"
    low, high = difference.interval(level)
    row = {
        **asdict(claim),
        "about": difference.about,
        "difference": difference.mean,
        "low": low,
        "high": high,
        "level": level,
        "p": p,
        "verdict": verdict,
    }
    if evidence.floor is not None:
        bottom, top = evidence.floor.interval(level)
        row["above_floor"] = {"arm": evidence.winner, "difference": evidence.floor.mean, "low": bottom, "high": top}
    if not decided:
        row["detectable"] = detectable(difference, level)
    return row


def _require_constant(claim: Claim, record: Mapping[str, Any], seeds: Sequence[int]) -> None:
    values = {record["runs"][str(seed)]["arms"].get(claim.baseline, {}).get(claim.metric) for seed in seeds}
    if len(values) > 1:
        raise UserError(
            f"claim {claim.text!r}: its baseline {claim.baseline!r} is marked as a constant, but differs by seed: "
            "take constant=True away"
        )
