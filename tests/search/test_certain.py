"""Kinds that are exact by a bound: the same rows as comparing every vector, in the hardest cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.search import Index
from nearfar.search.index import stored_index
from nearfar.search.index.items import Item
from nearfar.search.index.writer import IndexWriter
from nearfar.search.kinds import certain, neighbours
from nearfar.search.kinds.graphs import EXACT, build_graph, open_graph
from nearfar.search.querying.matching_items import matching_rows

pytest.importorskip("faiss")
DIM = 24


def unit(vectors):
    vectors = np.asarray(vectors, np.float64)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")


def drawn(count, seed=0, dim=DIM):
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


def halfway(count, seed=0):
    """Numbers in the middle between two of float16, all rounded the same way: as far off as rounding can be."""
    rng = np.random.default_rng(seed)
    near = np.full((count, 16), 0.25 + 2.0**-13 - 2.0**-20)
    near[rng.random(near.shape) < 0.4] = 0.25 - 2.0**-14 + 2.0**-20
    return unit(near)


def subnormal(count, seed=0):
    """One number of almost all the length; the others are smaller than float16's normal ones, or than all of its."""
    rng = np.random.default_rng(seed)
    return unit(np.concatenate([np.ones((count, 1)), 10 ** rng.uniform(-9, -4.5, (count, DIM - 1))], 1))


def one_apart(count, seed=0):
    """One that a query may be near to, among others that no scan can tell from each other."""
    vectors = unit(drawn(1, seed) + 3e-8 * drawn(count, seed))
    vectors[min(700, count - 1)] = drawn(1, seed + 2)
    return vectors


CASES = {
    "random": lambda n, seed: drawn(n, seed),
    "a few, many times": lambda n, seed: drawn(3, seed)[np.random.default_rng(seed).integers(0, 3, n)],
    "all the same": lambda n, seed: drawn(1, seed).repeat(n, 0),
    "near-equal": lambda n, seed: unit(drawn(1, seed) + 1e-5 * np.random.default_rng(seed).standard_normal((n, DIM))),
    "nearer than float32": lambda n, seed: unit(drawn(1, seed) + 3e-8 * drawn(n, seed)),
    "one apart": one_apart,
    "halfway": halfway,
    "subnormal": subnormal,
}


def filled(folder, kind, vectors, removed=()):
    with IndexWriter.create(folder, model="m", dim=vectors.shape[1], probe=[], kind=kind) as writer:
        for row, vector in enumerate(vectors):
            writer.put(Item(key=str(row), stamp="", source="s", row=-1, id=row), vector)
        writer.commit(final=True)
    return Index(folder).remove(map(str, removed)) if removed else Index(folder)


def right(vectors, queries, top):
    """By all scores: float32 products as a hit's score is computed, of equal ones the lower row."""
    scores = np.stack([certain.products(query[None].repeat(len(vectors), 0), vectors) for query in queries])
    order = np.stack([np.lexsort((np.arange(len(vectors)), -row)) for row in scores])[:, :top]
    return np.take_along_axis(scores, order, 1), order


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("queries", [1, 3, 5, 25])
def test_the_same_rows_as_comparing_all(tmp_path, case, queries):
    vectors = CASES[case](1500, 1)
    queried = np.concatenate([vectors[700:701], drawn(queries, 2, vectors.shape[1])])[:queries]
    for kind in EXACT:
        index = filled(tmp_path / kind, kind, vectors)
        for top in (1, 10, 40, 2000):
            scores, rows = index.search(queried, top)
            expected_scores, expected = right(vectors, queried, top)
            np.testing.assert_array_equal(rows, expected, err_msg=f"{kind} {top}")
            np.testing.assert_array_equal(scores, expected_scores)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(list(CASES)), st.integers(1, 300), st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**20),
    st.floats(1e-6, 1e6),
)  # fmt: skip
def test_any_index_and_queries_of_any_length(tmp_path_factory, case, count, queries, top, seed, length):
    vectors = CASES[case](count, seed)
    queried = (length * drawn(queries, seed + 1, vectors.shape[1])).astype("f4")
    index = filled(tmp_path_factory.mktemp("any") / "index", "fp16", vectors)
    np.testing.assert_array_equal(index.search(queried, top)[1], right(vectors, queried, top)[1])


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("queries", [2, 30])
@pytest.mark.parametrize("scanned", [0, neighbours.SCANNED])
def test_beside_what_was_removed_and_among_what_a_filter_lets_through(tmp_path, monkeypatch, kind, queries, scanned):
    monkeypatch.setattr(neighbours, "SCANNED", scanned)
    vectors = np.concatenate([CASES["near-equal"](500, 3), CASES["a few, many times"](700, 4)])
    gone = [0, 3, 499, 640, 641, 1199]
    left = np.setdiff1d(np.arange(1200), gone)
    queried = np.concatenate([vectors[:1], vectors[-1:], drawn(queries, 5)])
    index = filled(tmp_path / "index", kind, vectors, gone)
    np.testing.assert_array_equal(index.search(queried, 33)[1], right(vectors[left], queried, 33)[1])
    among = matching_rows(index.table, "id < 900 and not id in [7, 8]")
    expected = among[right(vectors[left][among], queried, 33)[1]]
    np.testing.assert_array_equal(index.search(queried, 33, among=among)[1], expected)


def test_more_are_fetched_only_where_it_is_not_certain(tmp_path, monkeypatch):
    counts = []
    real = neighbours.neighbours

    def watched(kind, vectors, graph, queries, top, *rest):
        counts.append((len(queries), top))
        return real(kind, vectors, graph, queries, top, *rest)

    monkeypatch.setattr(stored_index, "neighbours", watched)
    copies = drawn(1, 8).repeat(100, 0)
    vectors = np.concatenate([drawn(3000, 6), copies])
    index = filled(tmp_path / "index", "fp16", vectors)
    apart, close = drawn(1, 9), copies[:1]
    for queried, expected in (
        (apart, [(1, 26)]),
        (close, [(1, 26), (1, 104)]),
        (np.concatenate([apart, close]), [(2, 26), (1, 104)]),
    ):
        counts.clear()
        index.search(queried, 10)
        assert counts == expected, "a hundred copies: the next one is far below"
    monkeypatch.setattr(certain, "MOST_FETCHED", 100)
    for block in (7, 999):
        counts.clear()
        monkeypatch.setattr(certain, "COMPARED", 4 * DIM * block)
        np.testing.assert_array_equal(index.search(close, 10)[1], [np.arange(3000, 3010)])
        assert counts == [(1, 26)], "then all are compared"


@pytest.mark.parametrize("dim", [16, 384])
@pytest.mark.parametrize("kind", EXACT)
def test_no_scan_is_off_by_more_than_the_bound(tmp_path, kind, dim):
    vectors = np.concatenate([drawn(300, 1, dim), np.tile(halfway(300), (1, dim // 16)) / np.sqrt(dim / 16)]).astype(
        "f4"
    )
    queried = np.concatenate([drawn(20, 2, dim), unit(np.ones((1, dim)))])
    graph = None
    if kind == "fp16":
        (tmp_path / "graph").write_bytes(build_graph(kind, vectors))
        graph = open_graph(tmp_path / "graph")
    bound = certain.scan_error(kind, queried)
    furthest = 0.0
    for query, most in zip(queried, bound, strict=True):
        scores, rows = neighbours.neighbours(kind, vectors, graph, query[None], 600)
        real = vectors[rows[0]].astype(np.float64) @ query.astype(np.float64)
        furthest = max(furthest, np.abs(scores[0] - real).max() / most)
    assert furthest <= 1
    if kind == "fp16":
        assert furthest > 0.3, "the bound is one that rounding comes near to"


def test_the_bound_is_that_of_its_sums_and_of_numbers_of_11_bits():
    """At 2^14 dimensions D u is 2^-10, so a sum is off by 1/1023 of the lengths; float16 by 2^-11 of them, and by 2^-25
    times the root of D, which is 2^7; and products that are too small by 2^-125 in all D of them."""
    dim = 2**14
    queries = np.zeros((2, dim), "f4")
    queries[0, 5] = 8.0
    sums, halves = 1 / 1023, 2**-11 + 2**-18
    expected = {"flat": 2 * sums, "exact": 2 * sums, "fp16": 2 * sums + halves * (1 + sums)}
    for kind, relative in expected.items():
        bound = certain.scan_error(kind, queries)
        np.testing.assert_allclose(bound, [certain.LONGEST * 8 * relative, 2**14 * 2.0**-125], rtol=1e-12)


def test_a_vector_that_can_be_as_good_as_the_last_hit_is_looked_for():
    query, scores = np.eye(4, dtype="f4")[:1], np.array([[0.9, 0.5]], "f4")
    as_good = scores[:, 1] + certain.scan_error("fp16", query)
    assert not certain.enough("fp16", query, scores, scores, as_good), "it would come first, if its row is lower"
    assert certain.enough("fp16", query, scores, scores, np.nextafter(as_good, 1))


def test_a_scan_that_is_off_by_more_than_it_can_be_proves_nothing():
    query, scores = np.eye(4, dtype="f4")[:1], np.array([[0.9, 0.5]], "f4")
    exact = scores + np.array([[0, 4e-4]], "f4")
    assert certain.enough("fp16", query, scores, exact, exact[:, 0])
    assert not certain.enough("flat", query, scores, exact, exact[:, 0])
    assert not certain.enough("fp16", query, scores, exact * np.nan, exact[:, 0])
