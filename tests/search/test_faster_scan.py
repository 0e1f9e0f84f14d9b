import time

import numpy as np
import pytest

from nearfar.nearest import score_products
from nearfar.search.kinds import exact, faster_scan, neighbours
from nearfar.search.kinds.exact import exact_search

pytest.importorskip("faiss")


def whole(seed: int, *shape: int) -> np.ndarray:
    """Small whole numbers: every product is exact, and many are equal."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype("f4")


def expected(queries: np.ndarray, vectors: np.ndarray, top: int) -> np.ndarray:
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :top]


@pytest.mark.parametrize("slow", [0, 1])
def test_the_faster_goes_on_and_no_vector_is_scanned_twice(slow):
    queries, vectors = whole(0, 3, 4), whole(1, 5 * faster_scan.BLOCK + 77, 4)
    scanned: tuple[list[range], list[range]] = [], []

    def scan(number):
        def run(some, part, top):
            begin = (part.ctypes.data - vectors.ctypes.data) // vectors.strides[0]
            scanned[number].append(range(begin, begin + len(part)))
            if number == slow:
                time.sleep(0.2)
            return exact_search(some, part, top)

        return run

    scores, rows = faster_scan.faster_scan([scan(0), scan(1)], queries, vectors, 9)
    assert (rows == expected(queries, vectors, 9)).all()
    assert (scores == np.take_along_axis(queries @ vectors.T, rows, 1)).all()
    assert len(scanned[slow]) == faster_scan.TURNS
    assert len(scanned[1 - slow]) == faster_scan.TURNS + 1
    assert sorted(row for part in (*scanned[0], *scanned[1]) for row in part) == [*range(len(vectors))]


def test_one_slow_start_does_not_decide():
    queries, vectors = whole(0, 3, 4), whole(1, 5 * faster_scan.BLOCK, 4)
    calls = []

    def begins_slowly(some, part, top):
        calls.append(len(part))
        time.sleep(0.5 if len(calls) == 1 else 0)
        return exact_search(some, part, top)

    def steady(some, part, top):
        time.sleep(0.2)
        return exact_search(some, part, top)

    faster_scan.faster_scan([begins_slowly, steady], queries, vectors, 2)
    assert calls == [faster_scan.BLOCK, faster_scan.BLOCK, faster_scan.BLOCK]


def test_a_row_that_is_not_there_stays_so():
    """faiss fills up with -1 where vectors are not numbers."""
    scores = iter(range(-9, 0))  # the later part's are the best

    def scan(some, part, top):
        return np.full((len(some), top), next(scores), "f4"), np.full((len(some), top), -1)

    _, rows = faster_scan.faster_scan([scan, scan], whole(0, 3, 4), whole(1, 5 * faster_scan.BLOCK, 4), 2)
    assert (rows == -1).all()


def test_many_queries_of_a_flat_index_are_scanned_by_either_library(monkeypatch):
    for name, value in {"BLOCK": 512, "LEAST": 4096}.items():
        monkeypatch.setattr(faster_scan, name, value)
    monkeypatch.setattr(neighbours, "MANY", 8000)
    monkeypatch.setattr(score_products, "numpy_threads", lambda: None)
    queries, vectors = whole(2, 500, 16), whole(3, 4096, 16)
    best = -np.sort(-(queries @ vectors.T), axis=1)[:, :5]
    used = []
    plain = faster_scan.faster_scan
    monkeypatch.setattr(faster_scan, "faster_scan", lambda scans, *rest: used.append(len(scans)) or plain(scans, *rest))
    for kind, turns in (("flat", [2]), ("fp16", [2]), ("exact", [])):
        used.clear()
        scores, rows = neighbours.neighbours(kind, vectors, None, queries, 5)
        assert used == turns, kind
        assert (scores == best).all(), kind
        assert (np.einsum("qd,qkd->qk", queries, vectors[rows]) == best).all(), kind
        assert all(len({*row}) == 5 for row in rows.tolist()), kind


@pytest.mark.parametrize(("queries", "vectors", "top"), [(7999, 32768, 5), (8000, 32767, 5), (8000, 32768, 4097)])
def test_fewer_are_scanned_by_one_library(queries, vectors, top, monkeypatch):
    monkeypatch.setattr(faster_scan, "faster_scan", lambda *_: pytest.fail("by turns"))
    monkeypatch.setattr(neighbours, "by_product", lambda queries, vectors, top: "by a product")
    assert neighbours.neighbours("flat", np.zeros((vectors, 16), "f4"), None, np.zeros((queries, 16), "f4"), top) == (
        "by a product"
    )


def test_more_queries_than_are_compared_at_a_time_have_the_hits_that_each_has_alone(monkeypatch):
    queries, vectors = whole(4, 25, 3), whole(5, 300, 3)
    at_once = exact_search(queries, vectors, 4)
    among = np.arange(0, 300, 2)
    some = exact_search(queries, vectors, 4, among=among)
    monkeypatch.setattr(exact, "QUERIES", 10)
    sizes = []
    best_of = exact.best_of
    monkeypatch.setattr(exact, "best_of", lambda q, *rest: sizes.append(len(q)) or best_of(q, *rest))
    for whole_answer, answer in (
        (at_once, exact_search(queries, vectors, 4)),
        (some, exact_search(queries, vectors, 4, among=among)),
    ):
        assert all((left == right).all() for left, right in zip(whole_answer, answer, strict=True))
    assert sizes == [10, 10, 5] * 2
