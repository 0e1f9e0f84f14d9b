import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.nearest import streamed
from nearfar.search.kinds import exact
from nearfar.search.kinds.exact import exact_search


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 12), st.integers(1, 50), st.integers(0, 2**31))
def test_equals_a_full_sort_in_float64(queries, keys, dim, top, seed):
    rng = np.random.default_rng(seed)
    q, k = rng.standard_normal((queries, dim)), rng.standard_normal((keys, dim))
    scores, rows = exact_search(q.astype("f4"), k.astype("f4"), top, block=7)
    full = q @ k.T
    assert scores.shape == rows.shape == (queries, min(top, keys))
    np.testing.assert_allclose(scores, -np.sort(-full, axis=1)[:, :top], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(full, rows, 1), scores, rtol=1e-4, atol=1e-5)
    assert all(len(set(row)) == len(row) for row in rows.tolist())


def test_reads_vectors_mapped_from_disk_and_leaves_them_alone(tmp_path):
    keys = np.random.default_rng(0).standard_normal((50, 8)).astype("f4")
    keys.tofile(tmp_path / "v")
    mapped = np.memmap(tmp_path / "v", "f4", mode="r", shape=(50, 8))
    _, rows = exact_search(keys[:3], mapped, 1)
    assert rows[:, 0].tolist() == np.argmax(keys[:3] @ keys.T, axis=1).tolist()
    assert (np.fromfile(tmp_path / "v", "f4").reshape(50, 8) == keys).all()


def test_refuses_widths_that_differ_and_a_top_of_nothing():
    with pytest.raises(ValueError, match="of one D"):
        exact_search(np.zeros((1, 3), "f4"), np.zeros((1, 4), "f4"), 1)
    with pytest.raises(ValueError, match="at least 1"):
        exact_search(np.zeros((1, 3), "f4"), np.zeros((1, 3), "f4"), 0)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 700),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 400),
    st.integers(0, 99),
)
def test_of_equal_scores_the_lower_row_comes_first_whatever_the_block(queries, keys, levels, top, block, seed):
    rng = np.random.default_rng(seed)
    q = rng.integers(-1, 2, (queries, 3)).astype("f4")  # small whole numbers: every product is exact
    k = rng.integers(0, levels, (keys, 3)).astype("f4")
    scores, rows = exact_search(q, k, top, block=block)
    order = np.argsort(-(q @ k.T), axis=1, kind="stable")[:, :top]
    assert (rows == order).all()
    assert (scores == np.take_along_axis(q @ k.T, order, 1)).all()


def test_among_thousands_of_equals_the_first_are_taken_for_one_query_and_for_many():
    keys = np.zeros((20_000, 8), "f4")
    keys[[7, 9000, 19_999], 0] = 1  # the last group and block hold one too
    for queries in (1, 5, 100):
        scores, rows = exact_search(np.eye(8, dtype="f4")[:1].repeat(queries, 0), keys, 6)
        assert rows.tolist() == [[7, 9000, 19_999, 0, 1, 2]] * queries
        assert scores.tolist() == [[1, 1, 1, 0, 0, 0]] * queries


@pytest.mark.parametrize("block", [63, 64, 200, 1000, 1024])
@pytest.mark.parametrize("queries", [1, 7, 40])
def test_few_of_the_later_scores_are_sorted_and_no_hit_is_missed(block, queries, monkeypatch):
    rng = np.random.default_rng(block)
    q = rng.integers(-9, 10, (queries, 5)).astype("f4")  # whole numbers: products are exact, and many are equal
    k = rng.integers(-9, 10, (6007, 5)).astype("f4")
    whole = []
    best_in = streamed.best_in
    monkeypatch.setattr(streamed, "best_in", lambda score, *rest: whole.append(len(score)) or best_in(score, *rest))
    scores, rows = exact_search(q, k, 6, block=block)
    order = np.argsort(-(q @ k.T), axis=1, kind="stable")[:, :6]
    assert (rows == order).all()
    assert (scores == np.take_along_axis(q @ k.T, order, 1)).all()
    if block >= 200:  # of whole rows no more are gone through than those of a few blocks
        assert sum(whole) <= queries * (2 + 6007 / block / 3)


def test_rising_scores_which_always_beat_what_is_there():
    keys = np.arange(1.0, 3001)[:, None].astype("f4")
    for block in (60, 64, 130):
        scores, rows = exact_search(np.ones((3, 1), "f4"), keys, 5, block=block)
        assert rows.tolist() == [[2999, 2998, 2997, 2996, 2995]] * 3
        assert (scores == rows + 1).all()


def test_keys_mapped_from_disk_are_not_copied_and_nothing_is_warned(tmp_path, monkeypatch, recwarn):
    keys = np.random.default_rng(0).standard_normal((70_000, 8)).astype("f4")
    keys.tofile(tmp_path / "v")
    mapped = np.memmap(tmp_path / "v", "f4", mode="r", shape=keys.shape)
    blocks = []

    def watched(query, candidates, k):
        blocks.extend(candidates)
        return streamed.best_of(query, blocks, k)

    monkeypatch.setattr(exact, "best_of", watched)
    _, rows = exact.exact_search(keys[:1], mapped, 1)
    assert rows[0, 0] == np.argmax(keys @ keys[0])
    assert [start for start, _ in blocks] == [0, 65_536]
    assert all(np.shares_memory(block.numpy(), mapped) for _, block in blocks)
    assert not recwarn.list


@pytest.mark.parametrize("numbers", [0, 1, 3, 100, 500, 1000, 1024, 40_000])
def test_blocks_of_scores_keep_their_rows_in_line(numbers):
    block = exact.keys_a_block(numbers)
    assert block % streamed.GROUP == 0
    assert streamed.GROUP <= block <= exact.ROWS
    assert block == streamed.GROUP or 4 * block * numbers <= exact.BLOCK_BYTES
    assert block == exact.ROWS or 4 * (block + streamed.GROUP) * numbers > exact.BLOCK_BYTES
