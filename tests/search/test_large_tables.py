"""Items of an index are written as they come and read by row group: memory a vector is bounded, and nothing is lost."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.errors import UserError
from nearfar.search import Index
from nearfar.search.index import damage, digests, item_file, item_store, item_table, items
from nearfar.search.index.digests import Digests
from nearfar.search.index.items import Item
from nearfar.search.index.kept import KeptTypes, to_columns
from nearfar.search.index.writer import IndexWriter

DIM = 8


@pytest.fixture
def small_groups(monkeypatch):
    for module in (items, item_file, item_store, item_table):
        monkeypatch.setattr(module, "GROUP", 50)


def item(number, word="a", **more):
    return Item(
        key=f"s:{number}", stamp=f"{number}:1", source="s", row=-1, path=f"/photos/{number}.jpg",
        captions=(f"{word} photo of the thing that has the number {number}",), id=number, **more,
    )  # fmt: skip


def vector(number):
    row = np.random.default_rng(number).standard_normal(DIM)
    return (row / np.linalg.norm(row)).astype("f4")


def filled(folder, numbers, **more):
    exists = (folder / "manifest.json").exists()
    with IndexWriter.extend(folder) if exists else IndexWriter.create(folder, model="m", dim=DIM, probe=[]) as writer:
        for number in numbers:
            writer.put(item(number, **more), vector(number), b"picture %d;" % number)
        writer.commit(final=True)
    return Index(folder)


def peak(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_grows_by_some_numbers_a_vector(tmp_path, small_groups, monkeypatch):
    """A Python object of each item would take some 1,000 bytes. What Arrow reads it reads by row group."""

    monkeypatch.setattr("nearfar.search.index.digests.FEW", 100)

    def extended(folder):
        with IndexWriter.extend(folder) as writer:
            for number in range(100):
                writer.put(item(-1 - number), vector(number))
            writer.commit(final=True)

    def refreshed(folder):
        with IndexWriter.extend(folder) as writer:
            for number in range(900, 0, -1):
                writer.refresh(item(number, "another"))
            writer.commit(final=True)

    def opened(folder):
        index = Index(folder)
        index.hits(*(part[0] for part in index.search(vector(1), 10)))

    sizes = (1_000, 3_000)
    grown = {}
    for name in ("built", "extended", "refreshed", "opened"):
        peaks, held = [], []
        for size in sizes:
            folder = tmp_path / str(size)
            work = {"extended": extended, "refreshed": refreshed, "opened": opened}.get(name)
            arrow = pa.total_allocated_bytes()
            peaks.append(peak(lambda: work(folder) if work else filled(folder, range(size))))  # noqa: B023
            held.append(pa.total_allocated_bytes() - arrow)
        grown[name] = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
        assert max(held) < 1 << 25, name
    assert grown["built"] < 260, "entries that are not sorted yet are a dict's"
    assert grown["extended"] < 200
    assert grown["refreshed"] < 200
    assert grown["opened"] < 20


def rewritten(index, change):
    """The index's items with other keys, in row groups of 50."""
    path = index.directory / index.manifest.items
    table = pq.read_table(path)
    keys = change(table["key"].to_pylist())
    pq.write_table(table.set_column(0, "key", pa.array(keys)), path, row_group_size=50, write_page_checksum=True)
    return index.directory


def test_two_items_of_one_key_are_damage_wherever_they_lie(tmp_path, small_groups):
    index = filled(tmp_path / "index", range(170))
    with pytest.raises(UserError, match=r"items-1\.parquet has two items of one key"):
        Index(rewritten(index, lambda keys: [*keys[:-1], keys[3]]))
    with pytest.raises(UserError, match="has two items of one key"):
        Index(rewritten(index, lambda keys: [keys[1], *keys[1:-1], "other"]))


def test_keys_of_one_hash_are_no_fault(tmp_path, small_groups, monkeypatch):
    index = filled(tmp_path / "index", range(170))
    monkeypatch.setattr(damage, "hash", lambda key: int(key[-1]) - 1, raising=False)
    assert len(Index(index.directory)) == 170
    with pytest.raises(UserError, match="has two items of one key"):
        Index(rewritten(index, lambda keys: [*keys[:-1], keys[3]]))


def test_what_was_put_taken_over_and_taken_out_is_there_in_the_order_of_the_rows(tmp_path, small_groups):
    folder = tmp_path / "index"
    filled(folder, range(220), kept={"price": 1})
    with IndexWriter.extend(folder) as writer:
        writer.manifest.kept = {"s": ["price"]}
        for number in (219, 5, 120, 5):
            writer.refresh(item(number, f"new {number}", kept={"price": 2.5}))
        writer.put(item(7, "put again"), vector(7), b"anew")
        for number in [*range(60, 115), 219]:
            writer.remove(f"s:{number}")
        assert [one.id for one in writer.items.in_order()][-2:] == [218, 7]
        writer.commit(final=False)
        assert writer.items["s:120"].captions == item(120, "new 120").captions
        writer.refresh(item(30, "later"))
        writer.put(item(500), vector(500), b"five hundred")
        writer.remove("s:31")
        with pytest.raises(KeyError):
            writer.remove("s:31")
        with pytest.raises(KeyError):
            writer.refresh(item(60))
        writer.commit(final=True)
    index = Index(folder)
    expected = [n for n in range(220) if n not in {7, 31, 219} and not 60 <= n < 115] + [7, 500]
    records = index.table.records(np.arange(len(index)))
    assert [record["id"] for record in records] == expected
    assert [record["row"] for record in records] == list(range(len(expected)))
    words = {5: "new 5", 120: "new 120", 7: "put again", 30: "later"}
    assert [record["captions"] for record in records] == [[*item(n, words.get(n, "a")).captions] for n in expected]
    pictures = {7: b"anew", 500: b"five hundred"}
    for record, number in zip(records, expected, strict=True):
        hit = index.hits([1.0], [record["row"]])[0]
        assert hit.picture() == pictures.get(number, b"picture %d;" % number)
        np.testing.assert_array_equal(index.vectors[record["row"]], vector(number))
    assert [record["kept:price"] for record in records] == [2.5 if n in (5, 120) else None for n in expected]
    some = np.array([3, 160, 51, 3, 0])
    left = index.remove(["s:0", "s:5"])
    assert [r["id"] for r in left.table.records(some)] == [[n for n in expected if n not in (0, 5)][k] for k in some]
    assert left.table["id"].to_pylist() == [n for n in expected if n not in (0, 5)]
    assert pq.ParquetFile(next(folder.glob("items-*"))).num_row_groups == -(-len(expected) // 50)


def test_row_groups_are_held_while_they_fit_the_last_used_ones(tmp_path, small_groups, monkeypatch):
    index = filled(tmp_path / "index", range(200))
    table, read = index.table, []
    whole = table._file

    class Watched:
        def read_row_group(self, number, **settings):
            read.append(number)
            return whole.read_row_group(number, **settings)

    table._file = Watched()
    size = table._group(0).nbytes
    monkeypatch.setattr(item_table, "HELD", int(2.5 * size))
    read.clear()
    for row, expected in ((60, [1]), (7, []), (120, [2]), (8, []), (61, [1]), (121, [2])):
        read.clear()
        assert [record["id"] for record in table.records(np.array([row]))] == [row]
        assert read == expected, row
    monkeypatch.setattr(item_table, "HELD", 0)
    some = np.array([199, 0, 60, 199, 1, 149, 150])
    for _ in range(2):
        assert [record["id"] for record in table.records(some)] == some.tolist()
        assert len(table._held) == 1, "one is held, however large"


def test_stamps_and_texts_of_odd_characters_are_told_apart():
    assert len({item_store.stamp_number(str(number)) for number in range(10_000)}) == 10_000
    assert len({digests.digest(text) for text in ("caf\udce9", "caf\udcea", "caf?", "caf\ufffd")}) == 4


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.integers(-3, 3) | st.floats(-5, 5)
    | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=1), inner, max_size=1), max_leaves=4,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.lists(VALUES, max_size=7) | st.lists(st.integers(-3, 3) | st.floats(-5, 5) | st.none(), max_size=7),
    st.integers(1, 7),
)
def test_columns_are_stored_alike_however_many_rows_come_at_a_time(values, size):
    rows = [{"a": value} for value in values]
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    whole, by_parts = KeptTypes(["a"]), KeptTypes(["a"])
    whole.add(rows)
    for part in parts:
        by_parts.add(part)
    assert whole.columns() == by_parts.columns()
    columns = to_columns(rows, by_parts.columns())
    if "kept:a" in columns:
        assert columns["kept:a"].to_pylist() == values


def test_a_whole_number_beyond_floating_point_is_not_rounded():
    types = KeptTypes(["a"])
    types.add([{"a": 2**53 + 1}])
    assert types.columns() == {"a": pa.int64()}
    types.add([{"a": 0.5}])
    assert types.columns() == {"a": None}


def alike(text):
    """A digest whose first half many texts have, and whose last half some have."""
    low, high = divmod(int(text), 3)
    return high.to_bytes(8, "little") + (low % 7).to_bytes(4, "little") + (low // 7).to_bytes(4, "little")


@pytest.mark.parametrize("made_by", [digests.digest, alike])
@pytest.mark.parametrize("count", [0, 1, 3, 20, 100, 200])
def test_digests_are_a_dict(made_by, count, monkeypatch):
    monkeypatch.setattr(digests, "FEW", 5)
    monkeypatch.setattr(digests, "digest", made_by)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        made, expected = Digests(), {}
        for key, number in zip(rng.integers(0, 41, count).tolist(), rng.integers(0, 100, count).tolist(), strict=True):
            if number % 3:
                made[str(key)] = expected[str(key)] = number
            else:
                assert made.setdefault(str(key), number) == expected.setdefault(str(key), number)
            assert len(made._new) <= max(5, len(made._sorted) // 8)
        assert {str(k): made.get(str(k)) for k in range(42)} == {str(k): expected.get(str(k)) for k in range(42)}
        numbers = np.arange(100)
        numbers[::2] = -1
        numbers[1::2] -= 1
        other = made.renumbered(numbers)
        assert all(other.get(k) == (n - 1 if n % 2 else None) for k, n in expected.items())
        assert all(made.get(k) == n for k, n in expected.items()), "the old one stays as it was"
