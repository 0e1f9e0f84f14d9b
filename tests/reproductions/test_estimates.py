"""What an interval is about: other seeds, other queries, or both."""

import numpy as np
import pytest

from nearfar.errors import UserError
from nearfar.reproductions.shared.claims import Claim
from nearfar.reproductions.shared.estimates import difference, of_seeds, quantile
from nearfar.reproductions.shared.per_query import PerQuery, split


def recorded(runs):
    """A record of seeds, each `{arm: {"m": PerQuery or number}}`."""
    record = {"runs": {}, "queries": {}}
    for seed, arms in enumerate(runs):
        figures, queries, groups = split(arms)
        record["queries"] |= groups
        record["runs"][str(seed)] = {"arms": figures, "queries": queries}
    return record


def estimate(runs, **options):
    return difference(Claim("c", "a", "b", "m", **options), recorded(runs), range(len(runs)))


def test_quantiles_of_any_number_of_seeds():
    """Against the printed table of Student's t, beyond 15 degrees of freedom too, and not the normal's 1.96."""
    table = {2: 4.303, 15: 2.131, 16: 2.120, 20: 2.086, 30: 2.042, 60: 2.000}
    assert {freedom: round(quantile(0.05, freedom), 3) for freedom in table} == table


def test_interval_against_the_textbook():
    low, high = of_seeds([2.0, 4.0, 6.0, 8.0]).interval(0.05)
    assert (low + high) / 2 == pytest.approx(5)
    assert (high - low) / 2 == pytest.approx(3.182446 * (20 / 3) ** 0.5 / 2)


def test_queries_of_their_own_are_in_the_spread_of_the_seeds_already():
    runs = [
        {
            "a": {"m": PerQuery([1, 1, 0], [s * 3, s * 3 + 1, s * 3 + 2])},
            "b": {"m": PerQuery([0, 1, 0], range(s * 3, s * 3 + 3))},
        }
        for s in range(3)
    ]
    actual = estimate(runs)
    assert (actual.about, actual.mean, actual.error) == ("seeds", pytest.approx(1 / 3), 0)


def test_shared_queries_add_their_variance():
    """Two groups of differences, 0 and 1, ten of each, in three seeds alike: no spread over seeds; over queries the
    variance of the mean is 0.25 / 20 * 20 / 19."""
    group = list(range(20))
    run = {"a": {"m": PerQuery([1] * 20, group)}, "b": {"m": PerQuery([1] * 10 + [0] * 10, group)}}
    actual = estimate([run] * 3)
    assert (actual.about, actual.mean) == ("seeds and queries", 0.5)
    assert actual.error == pytest.approx((0.25 / 19) ** 0.5, rel=0.05)
    assert actual.freedom == 19
    # pairs of queries that go together count once: ten groups
    paired = [each // 2 for each in group]
    run = {"a": {"m": PerQuery([1] * 20, paired)}, "b": {"m": PerQuery([1] * 10 + [0] * 10, paired)}}
    assert estimate([run] * 3).error == pytest.approx((0.25 / 9) ** 0.5, rel=0.05)


def test_both_spreads_by_satterthwaite():
    group = list(range(50))
    rng = np.random.default_rng(0)
    runs = [
        {"a": {"m": PerQuery(rng.normal(s / 10, 1, 50), group)}, "b": {"m": PerQuery(np.zeros(50), group)}}
        for s in range(4)
    ]
    actual = estimate(runs)
    seeds, queries = actual.parts
    assert (seeds.freedom, queries.freedom) == (3, 49)
    assert actual.error**2 == pytest.approx(seeds.variance + queries.variance)
    assert 3 < actual.freedom < 52
    assert actual.with_seeds(8).parts[1] == queries, "more seeds bring no other queries"
    assert actual.with_seeds(8).parts[0].variance == pytest.approx(seeds.variance / 2)


def test_where_nothing_is_trained_all_queries_are_one_sample():
    """Over three seeds of 32 queries: 96 of them, where three means would give 2 degrees of freedom."""
    rng = np.random.default_rng(3)
    values = rng.normal(0.2, 1, (3, 32))
    runs = [
        {
            "a": {"m": PerQuery(row, range(s * 32, s * 32 + 32))},
            "b": {"m": PerQuery(0 * row, range(s * 32, s * 32 + 32))},
        }
        for s, row in enumerate(values)
    ]
    actual = estimate(runs, over="queries")
    assert (actual.about, actual.freedom) == ("queries", 95)
    assert actual.mean == pytest.approx(values.mean(), abs=1e-6)
    assert actual.error == pytest.approx(values.std(ddof=1) / 96**0.5, rel=0.05)
    assert actual.with_seeds(6).freedom == 191
    with pytest.raises(UserError, match="records no values"):
        estimate([{"a": {"m": 1.0}, "b": {"m": 0.0}}] * 3, over="queries")


def test_the_interval_covers_other_seeds_and_other_queries():
    """400 worlds, each with effects of 60 queries, of 4 seeds and noise: the interval has the true mean in 95 %."""
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(400):
        query, seed = rng.normal(0, 0.5, 60), rng.normal(0, 0.05, 4)
        values = query + seed[:, None] + rng.normal(0, 0.3, (4, 60))
        runs = [{"a": {"m": PerQuery(row, range(60))}, "b": {"m": PerQuery(0 * row, range(60))}} for row in values]
        low, high = estimate(runs).interval(0.05)
        inside += low < 0 < high
    assert inside / 400 > 0.95 - 3 * (0.05 * 0.95 / 400) ** 0.5


def test_values_survive_the_record():
    whole = PerQuery([1, 0, 1], [7, 8, 9])
    parts = PerQuery([0.5, -2.25, 1e-4], [7, 7, 9])
    alone = PerQuery([3.5], [2])
    for each in (whole, parts, alone):
        again = PerQuery.unpacked(*each.packed())
        assert again.values.tolist() == each.values.tolist()
        assert again.group.tolist() == each.group.tolist()
    with pytest.raises(ValueError, match="same queries"):
        whole - parts
    with pytest.raises(ValueError, match="finite"):
        PerQuery([float("nan")], [0])
