"""`nearfar index --recall`: what the kinds of lists aim at, kept with the index; the others say that they have none."""

import json

import pytest

import nearfar.models
from nearfar import cli
from nearfar.data.sources.source import Records
from nearfar.errors import UserError
from nearfar.search import Index, build
from nearfar.search.kinds import graphs
from nearfar.search.lists import list_shards
from search.colours import ColourEncoder

SHARES = {8: 0.6, 12: 0.96, 16: 0.98, 20: 1.0}
"""Recall by how many of the 20 lists are compared."""


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """A table of texts, and faiss with 20 clusters whose recall is in `SHARES`."""
    monkeypatch.setattr(nearfar.models, "load", lambda name, **_: ColourEncoder())
    monkeypatch.setattr(graphs, "clusters_of", lambda count: 20)
    monkeypatch.setattr(list_shards, "recall_of", lambda kind, vectors, graph, sample: SHARES[graph.nprobe])
    path = tmp_path / "t.jsonl"
    words = [f"{'red ' * (i % 7)}{'blue ' * (i // 7)}{'green ' * (i % 3)}" for i in range(60)]
    path.write_text("\n".join(json.dumps({"text": each}) for each in words))
    return path


def indexed(texts, *words):
    out = texts.parent / "index"
    cli.main(["index", "colours", str(texts), "--out", str(out), *words])
    index = Index(out)
    return index, json.loads((out / "manifest.json").read_text())


@pytest.mark.parametrize("kind", ["ivf", "ivf-sq8"])
def test_lists_aim_at_it_and_at_it_again_when_more_is_indexed(texts, kind, capsys):
    index, manifest = indexed(texts, "--kind", kind)
    assert (index.graph.nprobe, index.recall, manifest["format"]) == (12, 0.96, 1)
    assert "target_recall" not in manifest
    index, manifest = indexed(texts, "--recall", "0.97")
    assert (index.graph.nprobe, index.recall) == (16, 0.98)
    assert (manifest["format"], manifest["target_recall"]) == (4, 0.97)
    assert "recall@10 0.980" in capsys.readouterr().out
    before = len(index)
    with texts.open("a") as file:
        file.write('\n{"text": "red blue green"}')
    index, manifest = indexed(texts)
    assert (len(index) - before, index.graph.nprobe, manifest["target_recall"]) == (1, 16, 0.97)
    index, manifest = indexed(texts, "--recall", "0.5")
    assert (index.graph.nprobe, manifest["target_recall"]) == (8, 0.5)
    index, manifest = indexed(texts, "--kind", "sq8")
    assert "target_recall" not in manifest
    assert manifest["format"] == 1


def test_kinds_without_lists_and_numbers_that_are_no_shares_are_refused_before_anything_is_embedded(texts, tmp_path):
    for words in (["--recall", "0.9"], ["--recall", "0.9", "--kind", "hnsw"]):
        with pytest.raises(SystemExit, match=r"ivf, ivf-sq8, ivf-pq, which .* leave --recall out, or choose --kind"):
            indexed(texts, *words, "--block", "8")
    for share in ("0", "1.01", "nan"):
        with pytest.raises(SystemExit, match="above 0 and at most 1, not"):
            indexed(texts, "--kind", "ivf", "--recall", share)
    assert not (tmp_path / "index").exists()
    encoder = ColourEncoder()
    build(encoder, Records([{"text": "red"}]), tmp_path / "other", name="s")
    with pytest.raises(UserError, match="this index is of the kind flat"):
        build(encoder, Records([{"text": "red"}]), tmp_path / "other", recall=0.9, name="s")


def test_a_manifest_that_aims_at_no_share_is_damaged(texts):
    index, manifest = indexed(texts, "--kind", "ivf", "--recall", "0.9")
    (index.directory / "manifest.json").write_text(json.dumps({**manifest, "target_recall": 7}))
    with pytest.raises(UserError, match=r"target_recall in manifest\.json is 7, not a share"):
        Index(index.directory)
