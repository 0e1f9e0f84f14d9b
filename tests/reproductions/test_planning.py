"""The number of seeds comes from the pilot's spread, and gives the power that it promises."""

import numpy as np
import pytest

from nearfar.errors import UserError
from nearfar.reproductions.shared.claims import Claim, Reproduction
from nearfar.reproductions.shared.estimates import of_seeds
from nearfar.reproductions.shared.judging import judge
from nearfar.reproductions.shared.planning import plan, sentence
from nearfar.reproductions.shared.power import cautious, power, seeds_needed


def made(*claims, seeds=12, pilot=3):
    return Reproduction("align", lambda seed: {}, claims, seeds=range(seeds), pilot=pilot)


def recorded(values):
    return {"runs": {str(s): {"arms": {"a": {"m": v}, "b": {"m": 0.0}}} for s, v in enumerate(values)}}


def test_seeds_against_the_textbook():
    """Paired t-test, 5 %, 80 % power: one standard deviation needs 10 pairs, half of one 34, two of them 5."""
    unit = of_seeds(np.sqrt(0.75) * np.array([-1.0, -1.0, 1.0, 1.0]))
    assert unit.error == pytest.approx(0.5)
    for effect, pairs in ((1.0, 10), (0.5, 34), (2.0, 5)):
        assert seeds_needed(unit, effect, 0.05, least=3, most=100) == pairs
    assert seeds_needed(unit, 0.5, 0.05, least=3, most=33) is None
    assert power(1.0, unit.with_seeds(10), 0.05) == pytest.approx(0.803, abs=1e-3)


def test_the_spread_of_three_seeds_is_taken_with_caution():
    """The upper 70 % bound of the variance: times 2 over the 30 % quantile of chi-squared at 2, 0.713."""
    three = of_seeds([0.0, 0.1, 0.2])
    assert cautious(three).error ** 2 / three.error**2 == pytest.approx(2 / 0.7133, rel=1e-3)


def test_the_claim_that_needs_most_decides_and_the_budget_ends_it():
    record = recorded([0.0, 0.02, 0.04])
    easy, hard = (Claim(f"by {e}", "a", "b", "m", effect=e) for e in (0.2, 0.05))
    alone = plan(made(easy), record)
    assert alone["pilot"] == [0, 1, 2]
    assert alone["judged"] == [3, 4, 5]
    both = plan(made(easy, hard, seeds=20), record)
    need = {row["claim"]: row["seeds"] for row in both["claims"]}
    assert len(both["judged"]) == need["by 0.05"] > need["by 0.2"]
    assert both["level"] == 0.025
    short = plan(made(easy, hard, seeds=7), record)
    assert short["judged"] == [3, 4, 5, 6]
    assert short["claims"][1]["power"] < 0.8 < short["claims"][0]["power"]
    assert "too few for: 'by 0.05' (would need" in sentence(short)
    # a premise takes no part
    premise = Claim("premise", "a", "b", "m", premise=True)
    assert plan(made(easy, premise), record)["judged"] == alone["judged"]


def test_what_is_wrong_with_a_plan_is_named():
    with pytest.raises(UserError, match="names no effect"):
        made(Claim("c", "a", "b", "m"))
    with pytest.raises(UserError, match="at least 3 seeds besides its pilot's, got 2"):
        made(seeds=5)
    with pytest.raises(UserError, match="at least 2 seeds"):
        made(pilot=1)
    with pytest.raises(UserError, match="above 0"):
        Claim("c", "a", "b", "m", effect=0.0)
    assert plan(made(Claim("c", "a", "b", "m"), seeds=4, pilot=0), {})["judged"] == [0, 1, 2, 3]


def test_planned_and_judged_as_a_whole_error_and_power_are_as_promised():
    """Papers of one claim: a pilot of 3, as many seeds as planned, then the verdict. Without an effect at most 5 % are
    decided; with the planned one at least 80 % hold. Three standard errors of 300 papers."""
    rng, claim = np.random.default_rng(2), Claim("c", "a", "b", "m", effect=1.6)
    rates = {}
    for effect in (0.0, 1.6):
        verdicts = []
        for _ in range(300):
            values = rng.normal(effect, 1, 40)
            judged = plan(made(claim, seeds=40), recorded(values[:3]))["judged"]
            verdicts.append(judge([claim], recorded(values), judged)[0]["verdict"])
        rates[effect] = sum(v != "not shown" for v in verdicts) / 300, verdicts.count("holds") / 300
    assert rates[0.0][0] < 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5
    assert rates[1.6][1] > 0.8 - 3 * (0.8 * 0.2 / 300) ** 0.5
