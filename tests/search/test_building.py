import json
import os
import signal
import sys
from itertools import pairwise

import numpy as np
import pytest

from nearfar.data.sources.skipped import Skipped
from nearfar.data.sources.source import Records
from nearfar.errors import UserError
from nearfar.search import Index, build, query
from nearfar.search.index.writer import IndexWriter
from search.colours import ColourEncoder, draw, folder_source


def counts(index, name="photos"):
    return {what: number for what, number in index.manifest.sources[name].items() if number}


def test_finds_what_was_asked_for_in_files_and_in_bytes(encoder, photos, world, tmp_path):
    index = build(encoder, folder_source(photos), tmp_path / "index")
    build(encoder, world, tmp_path / "index")
    index = Index(tmp_path / "index")
    assert len(index) == 9 + 8
    hits = query(index, encoder, text="something red", top=5).hits
    assert {hit.caption.split()[0] for hit in hits if hit.path is None} == {"red"}
    assert all("red" in hit.caption for hit in hits)
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]
    assert all(a.score >= b.score for a, b in pairwise(hits))
    assert all(hit.image().size == (48, 48) for hit in hits)
    of_world = next(hit for hit in hits if hit.key.startswith("world/toy:"))
    assert (of_world.label, of_world.label_name, of_world.captions[0]) == (0, "red disc", "red disc")
    assert of_world.domain_name in ("white", "black")
    assert json.dumps(of_world.as_dict())


def test_unchanged_pictures_are_not_embedded_again(encoder, photos, tmp_path):
    build(encoder, folder_source(photos), tmp_path / "index")
    before = encoder.pictures_read
    draw("yellow").save(photos / "new-disc.png")
    draw("yellow", "square").save(photos / "red-disc.png")
    (photos / "blue-bar.png").unlink()
    index = build(encoder, folder_source(photos), tmp_path / "index")
    assert encoder.pictures_read - before == 2 + 1  # new, changed; and the probe picture
    assert counts(index) == {"added": 1, "updated": 1, "unchanged": 7, "removed": 1}
    hits = query(index, encoder, text="yellow", top=9).hits
    assert {hit.path.rsplit("/")[-1] for hit in hits[:2]} == {"new-disc.png", "red-disc.png"}
    assert not any(hit.path.endswith("blue-bar.png") for hit in hits)
    assert len({hit.key for hit in hits}) == 9


def test_every_vector_still_belongs_to_its_picture_after_many_changes(encoder, tmp_path):
    rng = np.random.default_rng(0)
    names = ["red", "green", "blue", "yellow", "black"]
    state = {}
    for _ in range(6):
        for key in rng.integers(0, 12, 5):
            state[int(key)] = str(rng.choice(names))
        for key in list(state)[:2]:
            del state[key]
        records = [{"image": draw(colour), "text": colour, "index": key} for key, colour in sorted(state.items())]
        index = build(encoder, Records(records), tmp_path / "index")
        assert len(index) == len(state)
        scores, _ = index.search(np.array(index.vectors), 1)
        np.testing.assert_allclose(scores, 1, rtol=1e-5)
        for hit in index.hits(np.zeros(len(index)), range(len(index))):
            assert hit.caption == state[int(hit.key.split(":")[1])]
            own = encoder.encode_image(encoder.preprocess([hit.image()]), normalize=True)[0].numpy()
            np.testing.assert_allclose(index.vectors[hit.rank - 1], own, atol=1e-6)


def test_captions_are_taken_over_without_embedding(encoder, photos, tmp_path):
    build(encoder, folder_source(photos), tmp_path / "index")
    before = encoder.pictures_read
    source = folder_source(photos).map(lambda r: {**r, "text": "new words"})
    index = build(encoder, source, tmp_path / "index")
    assert encoder.pictures_read - before == 1  # the probe
    assert query(index, encoder, text="red", top=1)[0].caption == "new words"


def test_rows_about_one_picture_become_one_item_with_all_captions(encoder, photos, tmp_path):
    path = str(photos / "red-disc.png")
    source = Records([{"image": path, "text": text} for text in ("a disc", "a red disc", "a disc")])
    for _ in range(2):
        index = build(encoder, source, tmp_path / "index", batch_size=2)
        assert len(index) == 1
        assert index.hits([0.0], [0])[0].captions == ("a disc", "a red disc")


def test_broken_pictures_are_skipped_and_listed(encoder, photos, tmp_path):
    (photos / "broken.png").write_bytes(b"not a picture")
    (photos / "empty.png").write_bytes(b"")
    (photos / "cut.png").write_bytes((photos / "red-disc.png").read_bytes()[:60])
    skipped = Skipped()
    source = folder_source(photos) + Records([{"image": str(photos / "gone.png"), "text": "gone"}])
    index = build(encoder, source, tmp_path / "index", name="photos", max_skipped=0.5, skipped=skipped)
    assert counts(index) == {"added": 9, "skipped": 4}
    assert all(any(name in str(p) for p in skipped) for name in ("broken", "empty", "cut", "gone"))
    with pytest.raises(UserError, match="could not be used"):
        build(encoder, source, tmp_path / "other", max_skipped=0.1)


def test_a_picture_that_broke_since_goes(encoder, photos, tmp_path):
    build(encoder, folder_source(photos), tmp_path / "index")
    (photos / "red-disc.png").write_bytes(b"broken now")
    index = build(encoder, folder_source(photos), tmp_path / "index", max_skipped=0.2)
    assert counts(index) == {"unchanged": 8, "removed": 1, "skipped": 1}


def test_a_stream_without_a_length_is_read_in_order(encoder, world, tmp_path):
    index = build(encoder, (record for record in world), tmp_path / "index", name="stream", batch_size=3)
    assert counts(index, "stream") == {"added": 8}
    assert query(index, encoder, text="yellow", top=1)[0].key in ("stream:3", "stream:7")
    with pytest.raises(UserError, match="holds no picture"):
        build(encoder, iter([]), tmp_path / "other", name="nothing")


def test_an_empty_source_changes_nothing(encoder, photos, tmp_path):
    build(encoder, folder_source(photos), tmp_path / "index")
    with pytest.raises(UserError, match="left as it is"):
        build(encoder, Records([], name="photos"), tmp_path / "index")
    assert len(Index(tmp_path / "index")) == 9


def test_another_model_is_refused(encoder, photos, tmp_path):
    build(encoder, folder_source(photos), tmp_path / "index", model="colours")
    with pytest.raises(UserError, match="not the model that made the index"):
        build(ColourEncoder(turn=0.5), folder_source(photos), tmp_path / "index")
    build(ColourEncoder(turn=1e-4), folder_source(photos), tmp_path / "index")  # noise is no other model
    assert Index(tmp_path / "index").model == "colours"


def test_one_writer_at_a_time(encoder, photos, tmp_path):
    build(encoder, folder_source(photos), tmp_path / "index")
    with IndexWriter.extend(tmp_path / "index"), pytest.raises(UserError, match="another process is writing"):
        build(encoder, folder_source(photos), tmp_path / "index")
    build(encoder, folder_source(photos), tmp_path / "index")


def test_what_was_not_committed_is_gone_and_leaves_no_trace(encoder, photos, tmp_path):
    index = build(encoder, folder_source(photos), tmp_path / "index")
    before = sorted(p.name for p in (tmp_path / "index").iterdir())
    size = (tmp_path / "index" / index.manifest.vectors).stat().st_size
    with IndexWriter.extend(tmp_path / "index") as writer:
        item = next(writer.items.in_order())
        writer.put(item, np.ones(7, "f4"))
        writer.remove(item.key)
    (tmp_path / "index" / "vectors-99.f32").write_bytes(b"left by a killed writer")
    assert len(Index(tmp_path / "index")) == 9
    assert (tmp_path / "index" / index.manifest.vectors).stat().st_size > size
    build(encoder, folder_source(photos), tmp_path / "index")
    after = Index(tmp_path / "index")
    assert (tmp_path / "index" / after.manifest.vectors).stat().st_size == size
    assert len(list((tmp_path / "index").iterdir())) == len(before)


def test_a_reader_keeps_its_snapshot_while_the_index_changes(encoder, photos, tmp_path):
    old = build(encoder, folder_source(photos), tmp_path / "index")
    for path in photos.glob("red-*.png"):
        draw("blue").save(path)
    new = build(encoder, folder_source(photos), tmp_path / "index")
    assert "red" in query(old, encoder, text="red", top=1)[0].caption
    assert query(old, encoder, text="red", top=1)[0].score > query(new, encoder, text="red", top=1)[0].score


def test_items_can_be_taken_out_by_key(encoder, photos, tmp_path):
    index = build(encoder, folder_source(photos), tmp_path / "index")
    best = query(index, encoder, text="red", top=1)[0]
    smaller = index.remove([best.key])
    assert len(smaller) == 8
    assert best.key not in {hit.key for hit in query(smaller, encoder, text="red", top=9)}
    with pytest.raises(KeyError, match=best.key):
        smaller.remove([best.key])


class Killed(ColourEncoder):
    def encode_image(self, pixels, normalize=False):
        if self.pictures_read > 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_image(pixels, normalize)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_run_goes_on_where_it_was(encoder, photos, tmp_path):
    child = os.fork()
    if child == 0:
        try:
            build(Killed(), folder_source(photos), tmp_path / "index", batch_size=2, checkpoint=0)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    kept = len(Index(tmp_path / "index"))
    assert 0 < kept < 9
    index = build(encoder, folder_source(photos), tmp_path / "index")
    assert counts(index) == {"unchanged": kept, "added": 9 - kept}


@pytest.mark.parametrize("kind", ["flat", "exact", "hnsw", "ivf"])
def test_every_kind_finds_the_nearest(encoder, kind, tmp_path):
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((300, 24)).astype("f4")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with IndexWriter.create(tmp_path / "index", model="m", dim=24, probe=[], kind=kind) as writer:
        from nearfar.search.index.items import Item

        for row, vector in enumerate(vectors):
            writer.put(Item(key=str(row), stamp="", source="s", row=-1), vector)
        writer.commit(final=True)
    index = Index(tmp_path / "index")
    assert (index.graph is not None) == (kind in ("hnsw", "ivf"))
    for queries in (vectors[:3], vectors[:40]):
        scores, rows = index.search(queries, 5)
        np.testing.assert_array_equal(rows[:, 0], range(len(queries)))
        np.testing.assert_allclose(scores[:, 0], 1, rtol=1e-5)
    smaller = index.remove(["0"])
    assert "0" not in {hit.key for hit in smaller.hits(*(x[0] for x in smaller.search(vectors[:1], 299)))}


def test_flat_needs_no_faiss(encoder, photos, tmp_path, monkeypatch):
    index = build(encoder, folder_source(photos), tmp_path / "index")
    with_faiss = query(index, encoder, text="red", top=9).hits
    monkeypatch.setitem(sys.modules, "faiss", None)
    without = query(index, encoder, text="red", top=9).hits
    np.testing.assert_allclose([h.score for h in with_faiss], [h.score for h in without], rtol=1e-5)
    with pytest.raises(UserError, match=r"nearfar\[search\]"):
        build(encoder, folder_source(photos), tmp_path / "graph", kind="hnsw")


def test_damage_is_named(encoder, photos, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Index(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no index"):
        Index(tmp_path / "empty")
    where = tmp_path / "index"
    index = build(encoder, folder_source(photos), where)
    vectors = where / index.manifest.vectors
    vectors.write_bytes(vectors.read_bytes()[:-4])
    with pytest.raises(UserError, match="cut short"):
        Index(where)
    vectors.unlink()
    with pytest.raises(UserError, match="missing"):
        Index(where)
    (where / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="not a manifest"):
        Index(where)
    with pytest.raises(UserError, match="no kind of index"):
        build(encoder, folder_source(photos), tmp_path / "other", kind="tree")


def test_nothing_is_pickled(encoder, world, tmp_path):
    build(encoder, world, tmp_path / "index")
    for path in (tmp_path / "index").iterdir():
        assert path.suffix in (".json", ".f32", ".bin", ".parquet", "")
        assert not path.read_bytes().startswith(b"\x80\x04")


@pytest.mark.parametrize("kind", ["path", "bytes"])
def test_five_rows_of_one_picture_are_one_hit_with_five_captions(encoder, tmp_path, kind):
    import io

    pictures = {}
    for colour in ("red", "blue"):
        buffer = io.BytesIO()
        draw(colour).save(buffer, "PNG")
        (tmp_path / f"{colour}.png").write_bytes(buffer.getvalue())
        pictures[colour] = str(tmp_path / f"{colour}.png") if kind == "path" else buffer.getvalue()
    rows = [{"image": pictures[c], "text": f"{c} in words {i}"} for i in range(5) for c in pictures]
    for _ in range(2):
        index = build(encoder, Records(rows, name="t"), tmp_path / "index")
        hits = query(index, encoder, text="something red", top=5).hits
        assert [len(hit.captions) for hit in hits] == [5, 5]
        assert hits[0].captions == tuple(f"red in words {i}" for i in range(5))
        assert len({hit.group for hit in hits}) == 2
    assert counts(index, "t") == {"unchanged": 2}
