"""Verdicts against numbers worked out by hand, and the error of a whole paper by simulation."""

import numpy as np
import pytest

from nearfar.errors import UserError
from nearfar.reproductions.shared.claims import Claim
from nearfar.reproductions.shared.judging import holm, judge


def recorded(arms):
    """A record of arms with one metric: `{"a": [a figure a seed]}`."""
    seeds = range(len(next(iter(arms.values()))))
    return {"runs": {str(s): {"arms": {arm: {"m": v[s]} for arm, v in arms.items()}} for s in seeds}}


def judged(claims, **arms):
    record = recorded(arms)
    return judge(claims, record, [int(seed) for seed in record["runs"]])


@pytest.mark.parametrize(
    ("a", "direction", "margin", "verdict"),
    [
        ([0.60, 0.61, 0.62], "higher", 0.0, "holds"),
        ([0.60, 0.61, 0.62], "lower", 0.0, "reversed"),
        ([0.40, 0.55, 0.62], "higher", 0.0, "not shown"),
        ([0.60, 0.61, 0.62], "higher", 0.2, "reversed"),
        ([0.49, 0.49, 0.48], "higher", -0.05, "holds"),
        ([0.42, 0.43, 0.44], "higher", 0.0, "reversed"),
    ],
)
def test_one_claim(a, direction, margin, verdict):
    claim = Claim("a against b", "a", "b", "m", direction=direction, margin=margin)
    assert judged([claim], a=a, b=[0.5, 0.5, 0.5])[0]["verdict"] == verdict


def test_holm_by_hand():
    """0.01 * 4 = 0.04; 0.015 * 3 = 0.045; 0.03 * 2 = 0.06 fails, and with it 0.04, which alone would pass."""
    actual = holm([0.03, 0.01, 0.04, 0.015])
    assert [round(adjusted, 6) for adjusted, _ in actual] == [0.06, 0.04, 0.06, 0.045]
    assert [level for _, level in actual] == pytest.approx([0.025, 0.0125, 0.025, 0.05 / 3])
    # an adjusted p-value is never below that of a claim before it, nor above 1
    assert [adjusted for adjusted, _ in holm([0.04, 0.0399, 0.9])] == pytest.approx([0.1197, 0.1197, 0.9])


def test_a_second_claim_takes_away_what_one_alone_would_show():
    """Differences of 0.1, 0.2, 0.3: t = 0.2 / (0.1 / sqrt(3)) = 3.464 at 2 degrees of freedom, p = 0.0742; at 3 more
    seeds of the same, t = 5.477 at 5, p = 0.00276."""
    six, zero = [0.1, 0.2, 0.3] * 2, [0.0] * 6
    first, second = Claim("a", "a", "zero", "m"), Claim("b", "b", "zero", "m")
    b = [0.05, 0.15, -0.05, 0.2, 0.1, 0.0]  # mean 0.075, sd 0.0935: t = 1.964, p = 0.1067
    rows = judged([first, second], a=six, b=b, zero=zero)
    assert [row["p"] for row in rows] == pytest.approx([2 * 0.00276496, 0.1066866], rel=1e-3)
    assert [row["verdict"] for row in rows] == ["holds", "not shown"]
    assert [row["level"] for row in rows] == [0.025, 0.05]
    # the interval excludes the margin exactly when the test does
    for row in rows:
        assert (row["low"] > row["margin"] or row["high"] < row["margin"]) == (row["verdict"] != "not shown")
    alone = judged([second], b=[0.1, 0.2, 0.1, 0.2], zero=[0.0] * 4)[0]
    assert (alone["p"], alone["verdict"]) == (pytest.approx(0.013847, abs=1e-6), "holds")  # t = 5.196 at 3
    crowd = [second, *(Claim(f"other {i}", "zero", "zero", "m") for i in range(4))]
    rows = judged(crowd, b=[0.1, 0.2, 0.1, 0.2], zero=[0.0] * 4)
    assert (rows[0]["p"], rows[0]["verdict"]) == (pytest.approx(5 * 0.013847, abs=1e-5), "not shown")


def test_a_premise_is_not_among_the_claims_that_are_corrected_for():
    a = [0.1, 0.2, 0.1, 0.2]
    claim, premise = Claim("c", "a", "zero", "m"), Claim("p", "a", "zero", "m", premise=True)
    rows = judged([claim, premise, premise, premise], a=a, zero=[0.0] * 4)
    assert {row["verdict"] for row in rows} == {"holds"}
    assert len({row["p"] for row in rows}) == 1


def test_of_two_arms_at_chance_neither_has_learnt_anything():
    """0.464 against 0.501 where chance is 0.5: the difference is clear, and the better arm is not above chance."""
    arms = {"better": [0.49, 0.51, 0.50, 0.504], "worse": [0.455, 0.47, 0.465, 0.466], "chance": [0.5] * 4}
    row = judged([Claim("it teaches", "better", "worse", "m", floor=0.5)], **arms)[0]
    assert row["verdict"] == "not shown"
    assert row["low"] > 0  # the difference alone would have held
    assert row["above_floor"]["arm"] == "better"
    assert row["above_floor"]["low"] < 0 < row["above_floor"]["high"]
    same = judged([Claim("it teaches", "better", "worse", "m", floor="chance")], **arms)[0]
    assert same["above_floor"]["low"] == pytest.approx(row["above_floor"]["low"])
    # turned round, the winner is the baseline, and is no better above chance
    assert judged([Claim("no", "worse", "better", "m", floor=0.5)], **arms)[0]["verdict"] == "not shown"
    learnt = {**arms, "better": [0.7, 0.72, 0.71, 0.69]}
    assert judged([Claim("it teaches", "better", "worse", "m", floor=0.5)], **learnt)[0]["verdict"] == "holds"
    below = judged([Claim("lower", "worse", "better", "m", "lower", floor=0.4)], **arms)[0]
    assert below["verdict"] == "not shown", "lower is better, and the winner is above its floor"


def test_not_shown_says_what_would_have_been_found_and_what_is_excluded():
    """sd 0.1 over 4 seeds: standard error 0.05, quantile 3.182 at 3 degrees of freedom. 80 % power needs a difference
    of 0.212 (noncentrality 4.24, from the noncentral t distribution)."""
    values = np.array([-1.0, -1.0, 1.0, 1.0]) * 0.1 * np.sqrt(3) / 2
    row = judged([Claim("c", "a", "zero", "m")], a=values.tolist(), zero=[0.0] * 4)[0]
    assert row["verdict"] == "not shown"
    assert (row["low"], row["high"]) == pytest.approx((-0.1591, 0.1591), abs=1e-4)
    draws = np.random.default_rng(0).normal(row["detectable"], 0.1, (20000, 4))
    t = draws.mean(1) / (draws.std(1, ddof=1) / 2)
    assert (t > 3.182).mean() == pytest.approx(0.8, abs=0.01)


def test_a_constant_must_be_one():
    claim = Claim("beats a table", "a", "published", "m", constant=True)
    assert judged([claim], a=[0.3, 0.31, 0.32], published=[0.1] * 3)[0]["verdict"] == "holds"
    with pytest.raises(UserError, match="differs by seed"):
        judged([claim], a=[0.3, 0.31, 0.32], published=[0.1, 0.1, 0.2])


def test_a_claim_about_an_arm_that_is_not_there_names_those_that_are():
    with pytest.raises(UserError, match=r"no arm 'c' with the metric 'm'.*there are: a, b"):
        judged([Claim("text", "a", "c", "m")], a=[1, 2, 3], b=[1, 2, 3])


def test_of_papers_without_any_effect_one_in_twenty_has_a_decided_claim():
    """Five claims, three of which share a baseline, on 4 seeds; 600 papers: at most 5 % and three standard errors."""
    rng = np.random.default_rng(1)
    claims = [Claim(f"{a} {b}", a, b, "m") for a, b in ("ab", "cb", "db", "ef", "gh")]
    wrong = 0
    for _ in range(600):
        arms = {arm: rng.normal(0, 1, 4).tolist() for arm in "abcdefgh"}
        wrong += any(row["verdict"] != "not shown" for row in judged(claims, **arms))
    assert wrong / 600 < 0.05 + 3 * (0.05 * 0.95 / 600) ** 0.5
    assert wrong > 5, "a test that never decides is not at its level"
