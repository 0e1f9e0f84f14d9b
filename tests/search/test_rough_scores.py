"""Products in bfloat16 say which scores are computed in float32, and no hit is missed by it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.nearest import rough_scores, score_products, streamed
from nearfar.nearest.rough_scores import RoughScores
from nearfar.search.kinds.exact import exact_search


@pytest.fixture(autouse=True)
def small_searches_count(monkeypatch):
    monkeypatch.setattr(rough_scores, "FEWEST", 1)
    monkeypatch.setattr(rough_scores, "NARROWEST", 1)
    monkeypatch.setattr(rough_scores, "has_bfloat16", lambda: True)


@pytest.fixture
def roughly(monkeypatch):
    """How many entries each block left to compute; None where scores lay too close."""
    plain, calls = streamed.beyond_roughly, []

    def watched(*args):
        few = plain(*args)
        calls.append(None if few is None else len(few[0]))
        return few

    monkeypatch.setattr(streamed, "beyond_roughly", watched)
    return calls


def unit(count, dim, seed):
    x = np.random.default_rng(seed).standard_normal((count, dim)).astype("f4")
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def in_float64(queries, keys, top):
    full = queries.astype(float) @ keys.astype(float).T
    rows = np.argsort(-full, axis=1, kind="stable")[:, :top]
    return np.take_along_axis(full, rows, 1), rows


@pytest.mark.parametrize("dim", [16, 200])
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e-4])
def test_hits_are_those_of_float64(roughly, dim, scale):
    queries, keys = unit(40, dim, 1), scale * unit(20_000, dim, 0) * np.linspace(0.9, 1, 20_000, dtype="f4")[:, None]
    scores, rows = exact_search(queries, keys, 5, block=4000)
    expected, right = in_float64(queries, keys, 5)
    assert (rows == right).all()
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert len(roughly) == 4
    assert 0 < sum(roughly) < 40 * 4 * 20, "few of 40 x 16,000"


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(70, 900), st.integers(1, 9), st.integers(64, 300), st.integers(0, 99))
def test_of_equal_scores_the_lower_row_comes_first(queries, keys, top, block, seed):
    rng = np.random.default_rng(seed)
    q = rng.integers(-9, 10, (queries, 5)).astype("f4")  # small whole numbers: every product is exact
    k = rng.integers(-99, 100, (keys, 5)).astype("f4")
    scores, rows = exact_search(q, k, top, block=block)
    order = np.argsort(-(q @ k.T), axis=1, kind="stable")[:, :top]
    assert (rows == order).all()
    assert (scores == np.take_along_axis(q @ k.T, order, 1)).all()


def test_keys_that_lie_closer_than_bfloat16_tells_are_all_computed(roughly):
    """A key in bfloat16 is off by 4e-3; these differ by 1e-6."""
    keys = np.ones((3000, 32), "f4") / 32**0.5
    keys += 1e-6 * np.random.default_rng(0).standard_normal(keys.shape).astype("f4")
    queries = np.ones((3, 32), "f4")
    _, rows = exact_search(queries, keys, 5, block=500)
    assert roughly == [None] * rough_scores.GIVE_UP, "and no further block is tried"
    assert (np.sort(rows) == np.sort(in_float64(queries, keys, 5)[1])).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.floats(-12, 12), st.integers(0, 10**6))
def test_no_product_is_further_off_than_the_bound(dim, power, seed):
    rng = np.random.default_rng(seed)
    q, k = (torch.from_numpy(rng.standard_normal((30, dim)).astype("f4")) for _ in range(2))
    k = k * 10.0**power + q * rng.random()
    exact, rough = q.double() @ k.double().T, RoughScores(q)
    for best in exact.float().unbind(1):  # of each query the same key is the last that counts
        scores, least = rough.of(k, best)
        assert (scores.float() >= least[:, None])[exact >= best.double()[:, None]].all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38, 1e-30])
@pytest.mark.parametrize("side", ["queries", "keys"])
def test_numbers_that_bfloat16_cannot_tell_are_left_to_float32(roughly, side, value):
    vectors = {"queries": unit(4, 8, 1), "keys": unit(800, 8, 0)}
    vectors[side][3:] = value
    exact_search(vectors["queries"], vectors["keys"], 2, block=200)
    assert roughly == [None] * 3


def test_when_it_pays(monkeypatch):
    query = torch.ones(9, 4)
    assert RoughScores.where_they_pay(query)
    assert not RoughScores.where_they_pay(query.double())
    for name, value in (("FEWEST", 10), ("NARROWEST", 5), ("has_bfloat16", lambda: False)):
        with monkeypatch.context() as patch:
            patch.setattr(rough_scores, name, value)
            assert not RoughScores.where_they_pay(query)


@pytest.mark.parametrize("instructions", [True, False])
def test_rough_scores_take_no_turns_with_faiss(monkeypatch, instructions):
    pytest.importorskip("faiss")
    from nearfar.search.kinds import faster_scan, neighbours

    monkeypatch.setattr(score_products, "numpy_threads", lambda: None)
    monkeypatch.setattr(rough_scores, "has_bfloat16", lambda: instructions)
    turns, plain = [], faster_scan.faster_scan
    monkeypatch.setattr(faster_scan, "faster_scan", lambda *arguments: turns.append(1) or plain(*arguments))
    queries, keys = unit(2000, 64, 1), unit(faster_scan.LEAST, 64, 0)
    _, rows = neighbours.neighbours("flat", keys, None, queries, 3)
    assert bool(turns) == (not instructions)
    assert (rows[:50] == in_float64(queries[:50], keys, 3)[1]).all()
