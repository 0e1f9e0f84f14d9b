"""Items that were taken out while the files still hold them: no search finds one, and every answer is that of an index
that never had them."""

import json
import os
import signal

import numpy as np
import pytest

from nearfar.errors import UserError
from nearfar.search import Index
from nearfar.search.index.items import Item
from nearfar.search.index.writer import MOST_REMOVED, REMOVED_SHARE, IndexWriter
from nearfar.search.kinds.graphs import KINDS
from nearfar.search.querying.matching_items import matching_rows

DIM, COUNT = 16, 1200
GONE = [0, 1, 7, 500, 501, 502, COUNT - 1]
EXACT = ("flat", "exact")


def unit(count, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((20, DIM))[rng.integers(0, 20, count)] + 0.5 * rng.standard_normal((count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")


def filled(directory, kind="flat"):
    with IndexWriter.create(directory, model="m", dim=DIM, probe=[], kind=kind) as writer:
        for row, vector in enumerate(unit(COUNT)):
            item = Item(key=str(row), stamp="", source="s", row=-1, captions=(f"number {row}",), id=row)
            writer.put(item, vector, f"picture {row};".encode())
        writer.commit(final=True)
    return Index(directory)


def times_of(directory):
    return {path.name: path.stat().st_mtime_ns for path in directory.iterdir() if path.suffix in (".f32", ".parquet")}


def recall_of_nine(index, queries, kept):
    """The share of each query's nine nearest among these rows that a search finds, on average."""
    right = kept[np.argsort(-(queries @ unit(COUNT)[kept].T), axis=1, kind="stable")[:, :9]]
    keys = np.array([[int(hit.key) for hit in index.hits(*one)] for one in zip(*index.search(queries, 9), strict=True)])
    return np.mean([len({*a} & {*b}) / 9 for a, b in zip(keys, right, strict=True)])


def best(index, query):
    scores, rows = index.search(query, 1)
    return index.hits(scores[0], rows[0])[0].key


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("count", [3, 60])
def test_every_kind_answers_as_an_index_that_never_had_them(tmp_path, kind, count):
    vectors = unit(COUNT)
    queries = np.concatenate([vectors[GONE[:2]], unit(count, 1)])
    index = filled(tmp_path / "index", kind)
    before = times_of(tmp_path / "index")
    removed = index.remove(map(str, GONE))
    assert times_of(tmp_path / "index") == before, "no file but the manifest is written"
    kept = np.setdiff1d(np.arange(COUNT), GONE)
    share = recall_of_nine(index, queries, np.arange(COUNT))
    for opened in (removed, Index(tmp_path / "index")):
        assert (len(opened), opened.manifest.count) == (COUNT - len(GONE), COUNT)
        scores, rows = opened.search(queries, 9)
        keys = np.array([[int(hit.key) for hit in opened.hits(*one)] for one in zip(scores, rows, strict=True)])
        assert not np.isin(keys, GONE).any()
        np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, vectors[keys]), atol=1e-6)
        assert recall_of_nine(opened, queries, kept) >= (1 if kind in EXACT else share - 0.03)
    assert len(index) == COUNT, "what was open stays as it was"
    assert best(index, vectors[:1]) == "0"


@pytest.mark.parametrize("kind", ["flat", "hnsw", "pq"])
def test_as_many_hits_as_there_are_items(tmp_path, kind):
    left = filled(tmp_path / "index", kind).remove(map(str, GONE))
    scores, rows = left.search(unit(2, 1), COUNT)
    assert scores.shape == (2, COUNT - len(GONE))
    assert len({*rows[0][rows[0] >= 0].tolist()}) == (rows[0] >= 0).sum()
    assert rows.max() < len(left)


def test_filters_counts_vectors_and_pictures_are_those_of_the_items_that_are_left(tmp_path):
    left = filled(tmp_path / "index").remove(map(str, GONE))
    assert left.counts == {"picture": COUNT - len(GONE)}
    np.testing.assert_array_equal(left.vectors, np.delete(unit(COUNT), GONE, axis=0))
    np.testing.assert_array_equal(left.rows_of([5, 0, -1]), left.vectors[[5, 0, -1]])
    assert left.labels()[:3] == ["number 10", "number 100", "number 1000"]
    among = matching_rows(left.table, "id < 10")
    scores, rows = left.search(unit(1, 1), 50, among=among)
    hits = left.hits(scores[0], rows[0])
    assert {hit.id for hit in hits} == {2, 3, 4, 5, 6, 8, 9}
    assert all(hit.picture() == f"picture {hit.id};".encode() for hit in hits)


def test_what_is_out_cannot_be_taken_out_again_and_can_come_back(tmp_path):
    left = filled(tmp_path / "index").remove(["5"])
    for again, named in ((["5"], "5"), (["6", "6"], "6"), (["7", "no such key"], "no such key")):
        with pytest.raises(KeyError, match=f"^'{named}'$"):
            left.remove(again)
    assert len(Index(tmp_path / "index")) == COUNT - 1, "nothing of a removal that failed is done"
    with IndexWriter.extend(tmp_path / "index") as writer:
        writer.remove("6")
        writer.put(Item(key="5", stamp="", source="s", row=-1), unit(1, 9)[0])
        assert "6" not in writer.items
        writer.commit(final=True)
    index = Index(tmp_path / "index")
    assert (len(index), index.manifest.count, index.manifest.removed) == (COUNT - 1, COUNT - 1, [])
    assert best(index, unit(1, 9)) == "5"


def test_the_files_are_written_anew_when_many_went_and_when_told_to(tmp_path):
    def pictures(index):
        return (tmp_path / "index" / index.manifest.pictures).read_bytes()

    most = int(min(MOST_REMOVED, REMOVED_SHARE * COUNT))
    left = filled(tmp_path / "index").remove(map(str, range(most)))
    assert (left.manifest.count, len(left.manifest.removed)) == (COUNT, most)
    assert b"picture 1;" in pictures(left)
    small = left.remove([str(most)])
    assert (small.manifest.count, small.manifest.removed) == (COUNT - most - 1, [])
    assert b"picture 1;" not in pictures(small)
    assert json.loads((tmp_path / "index" / "manifest.json").read_text())["format"] == 1
    fewer = small.remove(["100"])
    assert b"picture 100;" in pictures(fewer)
    compact = fewer.compact()
    assert (compact.manifest.count, compact.manifest.removed) == (COUNT - most - 2, [])
    assert b"picture 100;" not in pictures(compact)
    np.testing.assert_array_equal(compact.vectors, np.delete(unit(COUNT), [*range(most + 1), 100], axis=0))


def test_an_older_reader_is_told_by_the_format(tmp_path):
    filled(tmp_path / "index").remove(["5"])
    path = tmp_path / "index" / "manifest.json"
    values = json.loads(path.read_text())
    assert (values["format"], values["removed"]) == (2, [5])
    path.write_text(json.dumps({**values, "format": 5}))
    with pytest.raises(UserError, match="index format 5, this nearfar reads 1 to 4"):
        Index(tmp_path / "index")


def test_nothing_is_written_and_no_item_is_read_where_nothing_happened(tmp_path, monkeypatch):
    filled(tmp_path / "index")
    monkeypatch.setattr("nearfar.search.index.writer.ItemStore", None)
    before = (tmp_path / "index" / "manifest.json").stat().st_mtime_ns
    with IndexWriter.extend(tmp_path / "index") as writer:
        writer.commit(final=True)
        assert (tmp_path / "index" / "manifest.json").stat().st_mtime_ns == before
        writer.remove("5")
        writer.commit(final=True)
        writer.remove("6")
        writer.commit(final=False)
    assert Index(tmp_path / "index").manifest.removed == [5, 6]


def test_a_graph_that_a_killed_run_left_out_is_made_though_nothing_else_happens(tmp_path):
    filled(tmp_path / "index", "hnsw")
    path = tmp_path / "index" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "graph": None, "graph_sum": None}))
    with IndexWriter.extend(tmp_path / "index") as writer:
        writer.commit(final=True)
    assert Index(tmp_path / "index").graph.ntotal == COUNT


def test_an_open_index_whose_files_were_replaced_is_opened_anew(tmp_path):
    old = filled(tmp_path / "index")
    old.remove(["5"]).compact()
    left = old.remove(["6"])
    assert left.manifest.count == COUNT - 1
    assert {"5", "6"}.isdisjoint(left.table["key"].to_pylist())


@pytest.mark.parametrize("damage", ["one fewer", "cut"])
def test_keys_that_are_damaged_are_named(tmp_path, damage):
    import pyarrow.parquet as pq

    index = filled(tmp_path / "index")
    path = tmp_path / "index" / index.manifest.items
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:500])
    else:
        pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(UserError, match=r"is damaged: .*; delete it and make it anew"):
        index.remove(["5"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_removal_that_is_killed_leaves_the_index_as_it_was(tmp_path):
    index = filled(tmp_path / "index")
    child = os.fork()
    if child == 0:
        try:
            os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
            index.remove(["5"])
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(Index(tmp_path / "index")) == COUNT
    assert len(Index(tmp_path / "index").remove(["5"])) == COUNT - 1
