"""The evolution of sets: its draws, its bounds, what it finds, and what it does after a kill."""

from itertools import chain, combinations, pairwise
from random import Random

import pytest

from nearfar.errors import UserError
from nearfar.prompting.score_log import ScoreLog
from nearfar.prompting.set_operators import Operators, draw_probabilities, drawn_new
from nearfar.prompting.set_search import SearchSize, best_of, evolve

VALUES = [0.1, 3.0, -1.0, 0.5, -2.0, 1.0]


def worth(items):
    """A sum in which one pair spoils each other."""
    return sum(VALUES[i] for i in items) - 4.0 * (1 in items and 5 in items)


def subsets(n):
    return chain.from_iterable(combinations(range(n), k) for k in range(1, n + 1))


def test_it_finds_the_best_of_all_subsets():
    truth = max(map(frozenset, subsets(6)), key=worth)
    scores = evolve([frozenset({4})], range(6), worth, SearchSize(generations=6), step="all")
    assert best_of(scores, 1) == [truth] == [frozenset({0, 1, 3})]


def test_no_set_is_scored_twice_and_no_generation_is_too_large():
    calls = []

    def counted(items):
        calls.append(items)
        return -abs(sum(items) - 200) - 0.1 * len(items)

    at, size = [], SearchSize(generations=6)
    evolve([frozenset({i}) for i in range(4)], range(100), counted, size, step="count", after=at.append)
    assert len(calls) == len(set(calls))
    assert size.most == 120
    grown = [after.scored - before.scored for before, after in pairwise(at)]
    assert all(0 < count <= size.most for count in grown)
    assert max(grown) > 90
    # Elitism: the best is never lost.
    assert [one.score for one in at] == sorted(one.score for one in at)
    assert [one.number for one in at] == list(range(7))


def test_without_generations_the_best_start_stays():
    scores = evolve([frozenset({0}), frozenset({1})], range(6), worth, SearchSize(generations=0), step="none")
    assert scores == {frozenset({0}): 0.1, frozenset({1}): 3.0}
    assert best_of(scores, 1) == [frozenset({1})]


def test_the_last_generation_counts():
    """The released code scores it and throws it away."""
    last = []
    for generations in (1, 2, 3):
        scores = evolve([frozenset({4})], range(6), worth, SearchSize(generations, adds=1), step="last")
        last.append(max(scores.values()))
    one = evolve([frozenset({4})], range(6), worth, SearchSize(1, adds=1), step="last")
    assert last[0] == max(one.values()) > worth({4})


def test_a_seed_is_a_search_and_the_order_of_sets_is_none():
    def run(seed, start):
        return evolve([frozenset(start)], range(30), lambda s: -abs(sum(s) - 77), SearchSize(2), step="s", seed=seed)

    assert run(3, [1, 2, 9]) == run(3, [9, 2, 1])
    assert run(3, [1, 2, 9]) != run(4, [1, 2, 9])


def test_equal_scores_prefer_the_smaller_set():
    scores = {frozenset({1, 2}): 1.0, frozenset({7}): 1.0, frozenset({3}): 1.0, frozenset({0}): 0.5}
    assert best_of(scores, 3) == [frozenset({3}), frozenset({7}), frozenset({1, 2})]


def test_each_operator_by_itself():
    operators, draw = Operators(range(5)), Random(0)
    base = frozenset({0, 1, 2})
    for _ in range(50):
        more, less, other = operators.add(base, draw), operators.remove(base, draw), operators.replace(base, draw)
        assert more > base
        assert len(more) == 4
        assert less < base
        assert len(less) == 2
        assert len(other) == 3
        assert len(other & base) == 2
        assert len(operators.mutate(3, draw)) == 3
        onto = operators.mutate(2, draw, onto=base)
        assert onto == frozenset(range(5))
    assert operators.add(frozenset(range(5)), draw) is None
    assert operators.remove(frozenset({1, 2}), draw) is None
    assert operators.replace(frozenset(), draw) is None
    assert Operators([]).mutate(2, draw) is None


def test_a_cross_keeps_what_all_parents_hold():
    operators, draw = Operators(range(9)), Random(1)
    parents = [frozenset({0, 1, 2}), frozenset({0, 1, 3}), frozenset({0, 1, 4})]
    children = [operators.cross(parents, draw) for _ in range(600)]
    assert all({0, 1} < child <= {0, 1, 2, 3, 4} for child in children)
    sizes = [len(child) for child in children]
    assert {3, 4, 5} == set(sizes)
    assert all(150 < sizes.count(size) < 250 for size in (3, 4, 5))
    # What three of four parents hold is drawn three times as often as what one holds.
    uneven = [frozenset({1}), frozenset({1}), frozenset({1, 2}), frozenset({2, 3})]
    ones = [operators.cross(uneven, draw) for _ in range(3000)]
    single = [next(iter(child)) for child in ones if len(child) == 1]
    assert single.count(1) / len(single) == pytest.approx(0.5, abs=0.05)
    assert single.count(3) / len(single) == pytest.approx(1 / 6, abs=0.04)


def test_heavy_items_are_added_and_light_ones_removed():
    assert draw_probabilities([1.0, 3.0]) == pytest.approx([0.250012, 0.749988], abs=1e-6)
    assert draw_probabilities([1.0, 3.0], reverse=True) == pytest.approx([0.749938, 0.250062], abs=1e-6)
    assert draw_probabilities([-1.0, 1.0]) == pytest.approx([1e-4 / 2.0002, 2.0001 / 2.0002])
    operators, draw = Operators(range(4), {0: 0.0, 1: 1.0, 2: 3.0, 3: 0.0}), Random(0)
    added = [next(iter(operators.add(frozenset({0, 3}), draw) - {0, 3})) for _ in range(2000)]
    assert added.count(2) / 2000 == pytest.approx(0.75, abs=0.04)
    kept = [operators.remove(frozenset({0, 1, 2}), draw) for _ in range(2000)]
    assert kept.count(frozenset({0, 1})) < kept.count(frozenset({0, 2})) < kept.count(frozenset({1, 2}))


def test_a_small_library_runs_out_and_ends():
    drawn = {}
    drawn_new(lambda: frozenset({1}), 8, {}, drawn)
    assert list(drawn) == [frozenset({1})]
    drawn_new(lambda: frozenset({2}), 0, {}, drawn)
    assert list(drawn) == [frozenset({1})]
    calls = []
    drawn_new(lambda: calls.append(1), 8, {}, {})
    assert len(calls) == 8 + 64
    assert evolve([frozenset({0})], [0], worth, SearchSize(3), step="one") == {frozenset({0}): 0.1}


class Killed(Exception):
    pass


@pytest.mark.parametrize("torn", [False, True], ids=["between", "within a line"])
def test_a_search_goes_on_after_a_kill(tmp_path, torn):
    def run(path, score):
        return evolve(
            [frozenset({0}), frozenset({5})], range(40), score, SearchSize(4), step="s", seed=2, log=ScoreLog(path)
        )

    whole = run(None, lambda s: -abs(sum(s) - 111))
    calls = []

    def dying(items):
        calls.append(items)
        if len(calls) > 150:
            raise Killed
        return -abs(sum(items) - 111)

    log = tmp_path / "scores.jsonl"
    with pytest.raises(Killed):
        run(log, dying)
    if torn:
        with log.open("ab") as file:
            file.write(b'{"step": "s, 2", "scores": [[[1, 2], -')
    calls.clear()
    again = []

    def counted(items):
        again.append(items)
        return -abs(sum(items) - 111)

    assert run(log, counted) == whole
    assert list(run(log, counted)) == list(whole)
    assert len(again) < len(whole) - 100  # the generations before were not scored anew, nor anything the third time
    with log.open() as file:
        assert len(file.readlines()) == 5


def test_wrong_sizes_are_named():
    with pytest.raises(UserError, match="parents is 0"):
        SearchSize(parents=0)
    with pytest.raises(UserError, match="adds is -1"):
        SearchSize(adds=-1)
