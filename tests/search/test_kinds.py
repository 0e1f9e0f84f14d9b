"""The kinds that hold vectors in fewer bytes: what they find, what they say of themselves, and what they survive."""

import json
import os
import re
import signal

import faiss
import numpy as np
import pytest

import nearfar.models
from nearfar import cli
from nearfar.data.sources.source import Records
from nearfar.errors import UserError
from nearfar.search import Index, build
from nearfar.search.index.items import Item
from nearfar.search.index.writer import IndexWriter
from nearfar.search.kinds.graphs import LEAST, QUANTISED
from search.colours import ColourEncoder, draw

DIM, COUNT = 24, 1500
BYTES = {"fp16": 2 * DIM, "sq8": DIM, "pq": DIM / 4, "ivf-sq8": DIM + 8, "ivf-pq": DIM / 4 + 8}
"""A vector's own; the file has the codes' tables besides."""
CENTRES = 4 * DIM * 38
TABLES = {
    "fp16": 0, "sq8": 8 * DIM, "pq": 1024 * DIM, "ivf-sq8": 8 * DIM + CENTRES, "ivf-pq": 1024 * DIM + CENTRES,
}  # fmt: skip
KINDS = list(QUANTISED)


def clustered(count=COUNT, dim=DIM, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((40, dim))[rng.integers(0, 40, count)] + 0.5 * rng.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")


def fill(directory, vectors, kind, first=0):
    exists = (directory / "manifest.json").exists()
    writer = IndexWriter.extend(directory) if exists else IndexWriter.create(
        directory, model="m", dim=vectors.shape[1], probe=[], kind=kind
    )  # fmt: skip
    with writer:
        for row, vector in enumerate(vectors, first):
            writer.put(Item(key=str(row), stamp="", source="s", row=-1), vector)
        writer.commit(final=True)
    return Index(directory)


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    return request.param, fill(tmp_path_factory.mktemp("kinds") / "index", clustered(), request.param)


def exact(vectors, queries, top):
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :top]


def test_scores_are_exact_and_nearly_all_neighbours_are_found(made):
    kind, index = made
    vectors, queries = clustered(), clustered(60, seed=1)
    for some in (queries[:1], queries):
        scores, rows = index.search(some, 10)
        np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", some, vectors[rows]), atol=1e-6)
        assert (np.diff(scores, axis=1) <= 0).all()
        right = exact(vectors, some, 10)
        assert np.mean([len({*a} & {*b}) / 10 for a, b in zip(rows, right, strict=True)]) > 0.95, kind


def test_recall_and_bytes_are_measured_and_stored(made):
    kind, index = made
    vectors = clustered()
    own = np.linspace(0, COUNT - 1, 200).astype(int)
    _, rows = index.search(vectors[own], 11)
    right = exact(vectors, vectors[own], 11)
    shares = [len({*a} & {*b[1:]}) / 10 for a, b in zip(rows, right, strict=True)]
    assert index.recall == pytest.approx(np.mean(shares), abs=0.002)
    assert json.loads((index.directory / "manifest.json").read_text())["recall"] == index.recall
    assert index.bytes_per_vector == pytest.approx(BYTES[kind] + TABLES[kind] / COUNT, abs=2)
    assert Index(index.directory).recall == index.recall


def test_a_filter_gives_the_best_of_the_matching(made, monkeypatch):
    kind, index = made
    vectors, queries = clustered(), clustered(30, seed=2)
    among = np.flatnonzero(np.arange(COUNT) % 3 == 0)
    right = among[exact(vectors[among], queries, 5)]
    _, rows = index.search(queries, 5, among=among)
    np.testing.assert_array_equal(rows, right)
    monkeypatch.setattr("nearfar.search.kinds.neighbours.SCANNED", 0)
    scores, rows = index.search(queries, 5, among=among)
    assert np.isin(rows, among).all()
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, vectors[rows]), atol=1e-6)
    assert np.mean([len({*a} & {*b}) / 5 for a, b in zip(rows, right, strict=True)]) > 0.9, kind


@pytest.mark.parametrize("kind", KINDS)
def test_items_come_and_go(tmp_path, kind):
    index = fill(tmp_path / "index", clustered(), kind)
    more = clustered(100, seed=5)
    index = fill(tmp_path / "index", more, kind, first=COUNT)
    assert len(index) == index.graph.ntotal == COUNT + 100
    np.testing.assert_array_equal(index.search(more, 1)[1][:, 0], np.arange(COUNT, COUNT + 100))
    smaller = index.remove([str(COUNT), "0"])
    assert len(smaller) == COUNT + 98
    assert smaller.compact().graph.ntotal == COUNT + 98
    smaller = Index(tmp_path / "index")
    keys = {hit.key for hit in smaller.hits(*(x[0] for x in smaller.search(more[:1], 5)))}
    assert str(COUNT) not in keys
    np.testing.assert_allclose(smaller.search(more[1:], 1)[0][:, 0], 1, atol=1e-6)
    fewer = smaller.remove([str(i) for i in range(1, 1200)])
    assert (fewer.graph is None) == (kind in LEAST), "too few to learn codes from: searched exactly"
    assert fewer.search(more[1:2], 399)[1].shape == (1, 399)
    assert fewer.recall is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_writer_that_is_killed_leaves_the_index_as_it_was(tmp_path, kind):
    fill(tmp_path / "index", clustered(), kind)
    child = os.fork()
    if child == 0:
        try:
            with IndexWriter.extend(tmp_path / "index") as writer:
                writer.put(Item(key="new", stamp="", source="s", row=-1), clustered(1)[0])
                type(writer.manifest).save = lambda self, directory: os.kill(os.getpid(), signal.SIGKILL)
                writer.commit(final=True)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(list((tmp_path / "index").glob("*.faiss"))) == 2
    index = Index(tmp_path / "index")
    assert len(index) == index.graph.ntotal == COUNT
    index = fill(tmp_path / "index", clustered(1, seed=9), kind, first=COUNT)
    assert len(index) == index.graph.ntotal == COUNT + 1
    assert len(list((tmp_path / "index").glob("*.faiss"))) == 1


def test_too_few_items_are_answered_before_anything_is_embedded(tmp_path, monkeypatch, capsys):
    encoder = ColourEncoder()
    texts = [{"text": f"{'red ' * (i % 7)}{'blue ' * (i // 7)}", "index": i} for i in range(30)]
    for kind in LEAST:
        with pytest.raises(
            UserError, match=f"the kind {kind} learns its codes from at least 1,000 items, and there are 30"
        ):
            build(encoder, Records(texts), tmp_path / kind, kind=kind)
        assert not (tmp_path / kind).exists()
    monkeypatch.setattr(nearfar.models, "load", lambda name, **_: encoder)
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, texts)))
    command = ["index", "colours", str(tmp_path / "t.jsonl"), "--out", str(tmp_path / "index"), "--kind"]
    with pytest.raises(SystemExit, match="choose --kind flat, or sq8, which needs a quarter of the memory"):
        cli.main([*command, "pq"])
    cli.main([*command, "sq8"])
    said = capsys.readouterr().out
    assert re.search(
        r"recall@10 [\d.]+ against exact search \(items as queries\); \d+ bytes a vector \(float32: 28\)", said
    )
    build(encoder, iter([{"image": draw("red"), "text": "red"}]), tmp_path / "stream", kind="pq", name="s")
    cli.main([*command[:3], "--out", str(tmp_path / "stream")])
    assert "exact for now: pq learns its codes from 1,000 items, and there are 30" in capsys.readouterr().out


def other(kind, vectors):
    from nearfar.search.kinds.graphs import build_graph

    return build_graph(kind, vectors)


FAULTS = {
    "of fewer": lambda kind, v: other(kind, v[:1200]),
    "of another width": lambda kind, v: other(kind, np.ascontiguousarray(v[:, :12])),
    "of another kind": lambda kind, v: other("sq8" if kind == "fp16" else "fp16", v),
    "cut": lambda kind, v: other(kind, v)[:-40],
    "empty": lambda kind, v: b"",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_graph_that_does_not_fit_is_refused(tmp_path, kind, fault):
    """Also where its checksum was made to fit."""
    import zlib

    index = fill(tmp_path / "index", clustered(), kind)
    path = tmp_path / "index" / index.manifest.graph
    path.write_bytes(FAULTS[fault](kind, clustered()))
    with pytest.raises(UserError, match="has changed since it was written"):
        Index(tmp_path / "index")
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    for checksum in (zlib.crc32(path.read_bytes()), None):
        text = json.dumps({**manifest, "graph_sum": checksum})
        (tmp_path / "index" / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=r"is damaged: .*; delete it and make it anew"):
            Index(tmp_path / "index")


def test_codes_are_learnt_from_a_sample(monkeypatch):
    from nearfar.search.kinds import graphs

    calls = []
    monkeypatch.setattr(graphs, "SAMPLE", 1024)
    monkeypatch.setattr(graphs, "training_sample", lambda v, most: (calls.append(most), v[:most])[1])
    index = faiss.deserialize_index(np.frombuffer(graphs.build_graph("pq", clustered(4000)), np.uint8))
    assert (index.ntotal, index.pq.M, calls) == (4000, 6, [max(1024, 40 * 102)])
