import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.search.index.exact import exact_search


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
