"""Lists on a disk: shards, kills, merges, and files that are not the index's own."""

import json
import os
import shutil
import signal

import faiss
import numpy as np
import pytest

from nearfar.errors import UserError
from nearfar.search import Index, VectorIndex
from nearfar.search.index import damage
from nearfar.search.index.items import Item
from nearfar.search.index.writer import IndexWriter
from nearfar.search.kinds import graphs
from nearfar.search.kinds.exact import exact_search
from nearfar.search.kinds.neighbours import neighbour_sample, recall_of
from nearfar.search.lists import list_shards, vector_index
from nearfar.search.lists.list_files import MadeLists, StoredLists, write_lists
from nearfar.search.lists.list_shards import Shards, build_lists

DIM, COUNT = 16, 1500


def clustered(count=COUNT, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((40, DIM))
    vectors = centres[rng.integers(0, 40, count)] + 0.5 * rng.standard_normal((count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")


VECTORS, QUERIES = clustered(), clustered(40, seed=1)


def share(rows, right):
    return np.mean([len({*a} & {*b}) / len(b) for a, b in zip(rows, right, strict=True)])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(list_shards, "BLOCK", 256)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An index of vectors, of several shards."""
    folder = tmp_path_factory.mktemp("lists") / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(list_shards, "BLOCK", 256)
        VectorIndex.build(folder, [VECTORS[:700], VECTORS[700:]], shard=512)
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


@pytest.mark.parametrize("kind", ["ivf", "ivf-sq8"])
def test_merged_shards_are_what_faiss_makes_at_once(tmp_path, kind):
    contents = []
    for shard in (256, 512, 2048):
        build_lists(kind, VECTORS, tmp_path / "a.faiss", tmp_path / "shards", shard=shard)
        contents.append((tmp_path / "a.faiss").read_bytes())
    assert len({*contents}) == 1, "however many shards there were"
    merged = faiss.read_index(str(tmp_path / "a.faiss"))
    at_once = faiss.deserialize_index(np.frombuffer(graphs.build_graph(kind, VECTORS), np.uint8))
    assert (merged.ntotal, merged.nlist) == (at_once.ntotal, at_once.nlist) == (COUNT, 38)
    for number in range(merged.nlist):
        size = merged.invlists.list_size(number)
        assert size == at_once.invlists.list_size(number)
        for get, width in (("get_ids", 1), ("get_codes", merged.code_size)):
            mine, faiss_own = (
                faiss.rev_swig_ptr(getattr(graph.invlists, get)(number), size * width) for graph in (merged, at_once)
            )
            np.testing.assert_array_equal(mine, faiss_own)


def test_a_build_that_is_killed_goes_on_with_the_next_shard(tmp_path, monkeypatch):
    folder, right = tmp_path / "index", tmp_path / "right"
    VectorIndex.build(right, VECTORS, shard=256)
    child = os.fork()
    if child == 0:
        try:
            real = list_shards.codes_of
            calls = []

            def codes_of(*arguments):
                calls.append(1)
                if len(calls) == 4:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments)

            list_shards.codes_of = codes_of
            VectorIndex.build(folder, VECTORS, shard=256)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(list((folder / ".shards").glob("shard-*.faiss"))) == 3
    with pytest.raises(UserError, match="holds no index of vectors"):
        VectorIndex(folder)
    (folder / ".shards" / "shard-00001.faiss").write_bytes(b"damaged")
    coded, learnt = [], []
    monkeypatch.setattr(list_shards, "trained_graph", lambda *_: learnt.append(1))
    real = list_shards.codes_of
    monkeypatch.setattr(list_shards, "codes_of", lambda *a: (coded.append(len(a[1])), real(*a))[1])
    VectorIndex.build(folder, VECTORS, shard=256)
    assert (coded, learnt) == ([256, 256, 256, COUNT - 5 * 256], []), "the damaged one and the missing ones"
    assert (folder / "ivf-sq8-0.faiss").read_bytes() == (right / "ivf-sq8-0.faiss").read_bytes()
    assert not (folder / ".shards").exists()


def test_shards_of_other_vectors_are_made_anew(tmp_path):
    folder = tmp_path / ".shards"
    Shards("ivf-sq8", VECTORS, folder, 512).make(0)
    before = (folder / "shard-00000.faiss").read_bytes()
    changed = VECTORS.copy()
    changed[[3, 4]] = VECTORS[[4, 3]]
    learnt = (folder / "trained.faiss").stat().st_mtime_ns
    Shards("ivf-sq8", changed, folder, 512).make(0)  # the sample is every row here, so all is learnt anew
    assert (folder / "trained.faiss").stat().st_mtime_ns > learnt
    assert (folder / "shard-00000.faiss").read_bytes() != before
    shutil.rmtree(folder)
    folder.symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"\.shards is a link"):
        build_lists("ivf-sq8", VECTORS, tmp_path / "a.faiss", folder)


def test_an_index_of_vectors_finds_the_neighbours_with_exact_scores(made):
    index = VectorIndex(made, [VECTORS[:100], VECTORS[100:]])
    right_scores, right = exact_search(QUERIES, VECTORS, 10)
    scores, rows = index.search(QUERIES)
    assert (len(index), index.dim, index.kind) == (COUNT, DIM, "ivf-sq8")
    assert share(rows, right) > 0.95
    assert index.recall > 0.95
    assert share(index.search(QUERIES, probes=1)[1], right) < share(rows, right)
    scores, rows = index.search(QUERIES, probes=38)
    np.testing.assert_array_equal(rows, right)
    np.testing.assert_allclose(scores, right_scores, atol=1e-6)
    by_codes, rows = VectorIndex(made).search(QUERIES, probes=38)
    assert 0.9 < share(rows, right) < 1
    np.testing.assert_allclose(by_codes, scores, atol=0.02)
    one = index.search(QUERIES[5], 3, probes=38)
    np.testing.assert_array_equal(one[1], right[5:6, :3])
    assert index.search(QUERIES[0], 2000, probes=1)[1].min() == -1, "what the one list does not hold"


def test_of_equal_scores_the_lower_row_comes_first(tmp_path):
    same = np.concatenate([VECTORS[:300], VECTORS[:300][::-1]])
    index = VectorIndex.build(tmp_path / "index", same, shard=256)
    rows = index.search(VECTORS[:300], 2)[1]
    np.testing.assert_array_equal(rows, np.stack([np.arange(300), 599 - np.arange(300)], 1))


def test_indices_that_learnt_the_same_are_merged(made, tmp_path):
    """As the one that faiss would have filled with all of them."""
    more = clustered(600, seed=4).astype("f2")
    VectorIndex.build(tmp_path / "more", more, like=made)
    merged = VectorIndex.merge(tmp_path / "merged", [made, tmp_path / "more"], [VECTORS, more])
    at_once = VectorIndex.build(tmp_path / "once", [VECTORS, more], like=made, shard=256)
    assert len(merged) == COUNT + 600
    for a, b in zip(merged.search(QUERIES, probes=9), at_once.search(QUERIES, probes=9), strict=True):
        np.testing.assert_array_equal(a, b)
    merged.graph.nprobe = at_once.graph.nprobe
    assert faiss.serialize_index(merged.graph).tobytes() == faiss.serialize_index(at_once.graph).tobytes()
    VectorIndex.build(tmp_path / "other", VECTORS[:1000])
    with pytest.raises(UserError, match="were not built alike"):
        VectorIndex.merge(tmp_path / "mixed", [made, tmp_path / "other"])
    with pytest.raises(UserError, match="another for the merged one"):
        VectorIndex.merge(made, [made])
    with pytest.raises(UserError, match=r"the parts hold 1,500 vectors of 16 numbers, not \(600, 16\)"):
        VectorIndex.merge(tmp_path / "mixed", [made], more)
    with pytest.raises(UserError, match="is ivf-sq8 of 16 numbers a vector, not ivf of 16"):
        VectorIndex.build(tmp_path / "ivf", more, kind="ivf", like=made)


def change(folder, **values):
    path = folder / vector_index.NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


FAULTS = {
    "no JSON": lambda f: (f / "vectors.json").write_text("{"),
    "a list": lambda f: (f / "vectors.json").write_text("[]"),
    "another kind": lambda f: change(f, kind="flat"),
    "count -1": lambda f: change(f, count=-1),
    "large a text": lambda f: change(f, large="no"),
    "of fewer": lambda f: change(f, count=COUNT - 1),
    "missing": lambda f: (f / "ivf-sq8-0.faiss").unlink(),
    "a flipped bit": lambda f: flip(f / "ivf-sq8-0.faiss", -9),
    "cut": lambda f: (f / "ivf-sq8-0.faiss").write_bytes((f / "ivf-sq8-0.faiss").read_bytes()[:-8]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_index_of_vectors_is_refused(copy, fault):
    FAULTS[fault](copy)
    with pytest.raises(UserError, match=r"^the index \S+ is damaged: .*; build it anew$"):
        VectorIndex(copy, VECTORS)


def test_other_vectors_and_files_of_other_indices_are_refused(copy, tmp_path):
    for other in (VECTORS[::-1], VECTORS[:-1], VECTORS[:, :8]):
        with pytest.raises(UserError, match="was made of other vectors"):
            VectorIndex(copy, other)
    for wrong, why in (([], "arrays"), ([VECTORS, VECTORS[:, :8]], "of one D"), ([VECTORS.astype(int)], "int64")):
        with pytest.raises(UserError, match=why):
            VectorIndex.build(tmp_path / "wrong", wrong)
    with pytest.raises(UserError, match=r"the queries are 3-d and the index \S+ is 16-d"):
        VectorIndex(copy).search(np.zeros((1, 3), "f4"))
    with pytest.raises(UserError, match="no kind of lists is called 'hnsw'"):
        VectorIndex.build(tmp_path / "hnsw", VECTORS, kind="hnsw")
    VectorIndex.build(tmp_path / "other", VECTORS[::-1])
    shutil.copy(tmp_path / "other" / "ivf-sq8-0.faiss", copy)
    with pytest.raises(UserError, match="has changed since it was written"):
        VectorIndex(copy)


def test_a_shard_of_another_index_is_not_merged(tmp_path):
    trained, others = (graphs.trained_graph("ivf-sq8", vectors) for vectors in (VECTORS, VECTORS[:1400]))
    codes = np.zeros((5, trained.code_size), np.uint8)
    path = tmp_path / "shard.faiss"
    write_lists(path, trained, [MadeLists(np.arange(5), codes, trained.nlist, 7)])
    lists = StoredLists(path, trained, shift=100)
    assert (lists.count, lists.rows(2).tolist(), len(lists.codes(2))) == (5, [109], trained.code_size)
    assert lists.rows(9).tolist() == []
    for wrong in (others, graphs.trained_graph("ivf", VECTORS)):
        with pytest.raises(UserError, match="is not whole, or holds lists of another index"):
            StoredLists(path, wrong)
    for content in (path.read_bytes()[:-1], path.read_bytes() + b"0", path.read_bytes()[:50], b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is not whole, or holds lists of another index"):
            StoredLists(path, trained)


def test_of_a_large_file_only_the_head_is_read_to_open_it(tmp_path, monkeypatch):
    """And a row that no vector has is noticed when a search returns it."""
    monkeypatch.setattr(damage, "CHECKED", 1000)
    monkeypatch.setattr("nearfar.search.index.writer.CHECKED", 1000)
    folder = tmp_path / "index"
    with IndexWriter.create(folder, model="m", dim=DIM, probe=[], kind="ivf-sq8") as writer:
        for row, vector in enumerate(VECTORS):
            writer.put(Item(key=str(row), stamp="", source="s", row=-1), vector)
        writer.commit(final=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    path, head = folder / manifest["graph"], manifest["graph_head"]
    assert (manifest["format"], path.stat().st_size - head) == (3, COUNT * (DIM + 8))
    content = path.read_bytes()
    flip(path, head - 1)
    with pytest.raises(UserError, match="has changed since it was written"):
        Index(folder)
    path.write_bytes(content[:-8])
    with pytest.raises(UserError, match="has changed since it was written"):
        Index(folder)
    path.write_bytes(content)
    graph = faiss.read_index(str(path))
    number = next(i for i in range(graph.nlist) if graph.invlists.list_size(i))
    faiss.rev_swig_ptr(graph.invlists.get_ids(number), 1)[0] = COUNT
    faiss.write_index(graph, str(path))
    assert path.read_bytes()[:head] == content[:head]
    with pytest.raises(UserError, match="points to vectors that are not there; delete it and make it anew"):
        Index(folder).search(VECTORS, 50)
    path.write_bytes(content)
    index = Index(folder).remove(["5"])
    assert "5" not in {hit.key for hit in index.hits(*(x[0] for x in index.search(VECTORS[5], 20)))}
    assert json.loads((folder / "manifest.json").read_text())["format"] == 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sampled", [COUNT, 10])
def test_a_vector_of_no_finite_numbers_is_refused_by_its_file_and_row(tmp_path, monkeypatch, value, sampled):
    """Whether the sample that is learnt from holds it or not."""
    monkeypatch.setattr(list_shards, "sample_of", lambda kind, vectors: vectors[:sampled])
    monkeypatch.setattr(graphs, "sample_of", lambda kind, vectors: vectors[:1000])
    broken = VECTORS.copy()
    broken[1203, 5] = broken[1400, 2] = value
    for number, part in enumerate((broken[:700], broken[700:])):
        np.save(tmp_path / f"part-{number}.npy", part)
    arrays = [np.load(tmp_path / f"part-{number}.npy", mmap_mode="r") for number in range(2)]
    where = r"part-1\.npy, row 503 \(row 1,203 of all\): the vector holds NaN or infinity"
    with pytest.raises(UserError, match=where):
        VectorIndex.build(tmp_path / "index", arrays, shard=256)
    with pytest.raises(UserError, match=r"^array 0, row 1,203: the vector holds NaN"):
        VectorIndex.build(tmp_path / "index", broken, shard=256)
    with pytest.raises(UserError, match="holds no index of vectors"):
        VectorIndex(tmp_path / "index")
    VectorIndex.build(tmp_path / "index", VECTORS, shard=256)
    with pytest.raises(UserError, match="NaN or infinity"):
        VectorIndex.build(tmp_path / "index", broken, shard=256)
    assert len(VectorIndex(tmp_path / "index", VECTORS)) == COUNT, "the index that was there stays"


def test_what_another_kind_left_of_its_shards_goes(tmp_path):
    with IndexWriter.create(tmp_path, model="m", dim=DIM, probe=[], kind="flat") as writer:
        (tmp_path / ".shards").mkdir()
        writer.put(Item(key="a", stamp="", source="s", row=-1), VECTORS[0])
        writer.commit(final=False)
        assert (tmp_path / ".shards").exists()
        writer.put(Item(key="b", stamp="", source="s", row=-1), VECTORS[1])
        writer.commit(final=True)
    assert not (tmp_path / ".shards").exists()


def test_a_folder_keeps_its_index_until_the_next_one_is_whole(copy, monkeypatch):
    old = VectorIndex(copy, VECTORS)
    more = clustered(seed=3)

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(vector_index, "write_about", fail)
        with pytest.raises(KeyboardInterrupt):
            VectorIndex.build(copy, more, kind="ivf")
    assert VectorIndex(copy, VECTORS).search(QUERIES)[1].tolist() == old.search(QUERIES)[1].tolist()
    assert VectorIndex.build(copy, more, kind="ivf").kind == VectorIndex(copy, more).kind == "ivf"
    assert [path.name for path in copy.glob("*.faiss")] == ["ivf-1.faiss"]
    assert len(old.search(QUERIES)[1]) == 40, "what is open stays open"


@pytest.mark.parametrize("kind", ["ivf", "ivf-sq8", "ivf-pq"])
def test_a_search_compares_as_few_lists_as_find_enough(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(graphs, "clusters_of", lambda count: 120)
    spread = np.random.default_rng(2).standard_normal((COUNT, DIM))
    spread = (spread / np.linalg.norm(spread, axis=1, keepdims=True)).astype("f4")
    tried, chosen = list_shards.steps(120), {}
    for recall in (0.3, 0.8, 0.95):
        index = VectorIndex.build(tmp_path / f"{recall}", spread, kind=kind, recall=recall)
        assert index.recall >= recall
        own, right = neighbour_sample(spread)
        for probes in (index.probes, tried[max(0, tried.index(index.probes) - 1)]):
            index.graph.nprobe = probes
            measured = recall_of(kind, spread, index.graph, (own, right))
            chosen.setdefault(recall, []).append((probes, measured))
        assert VectorIndex(tmp_path / f"{recall}").recall == pytest.approx(chosen[recall][0][1], abs=1e-4)
    assert chosen[0.3][0][0] == 8
    for recall in (0.8, 0.95):
        (probes, reached), (fewer, short) = chosen[recall]
        assert (fewer < probes, reached >= recall, short < recall) == (True, True, True)
    with pytest.raises(UserError, match=r"above 0 and at most 1, not 1\.5"):
        VectorIndex.build(tmp_path / "more", spread, recall=1.5)


def test_where_no_lists_find_enough_as_few_come_near_to_all(tmp_path, monkeypatch):
    shares = {8: 0.5, 12: 0.8, 16: 0.895, 24: 0.9, 32: 0.9, 38: 0.9}
    monkeypatch.setattr(list_shards, "recall_of", lambda kind, vectors, graph, sample: shares[graph.nprobe])
    index = VectorIndex.build(tmp_path / "index", VECTORS)
    assert (index.probes, index.recall) == (16, 0.895)
