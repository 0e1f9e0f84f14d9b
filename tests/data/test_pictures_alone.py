"""`captions: none`: pictures without any text, from every kind of source."""

import io
import json
import tarfile

import pytest
from PIL import Image

from nearfar.data import Loader, Records, open_source
from nearfar.errors import UserError


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def photos(tmp_path):
    """A folder as a camera fills it, a table, shards, and a dataset on disk; each of 4 pictures."""
    import datasets

    (tmp_path / "photos").mkdir()
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for i in range(4):
            Image.new("RGB", (8, 8), (60 * i, 0, 0)).save(tmp_path / "photos" / f"IMG_{i:04}.jpg")
            content = (tmp_path / "photos" / f"IMG_{i:04}.jpg").read_bytes()
            notes = json.dumps({"caption": {"en": "one"}}).encode()
            for name, held in ((f"{i}.jpg", content), (f"{i}.json", notes), (f"{i}.cls", b"0")):
                member = tarfile.TarInfo(name)
                member.size = len(held)
                tar.addfile(member, io.BytesIO(held))
    rows = [{"image": f"photos/IMG_{i:04}.jpg", "caption": {"en": "one"}, "label": "ab"[i % 2]} for i in range(4)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    paths = [str(tmp_path / row["image"]) for row in rows]
    held = datasets.Dataset.from_dict({"image": paths, "caption": [["one", "two"]] * 4})
    held.cast_column("image", datasets.Image()).save_to_disk(tmp_path / "saved")
    return tmp_path


@pytest.mark.parametrize("name", ["photos", "t.jsonl", "s.tar", "saved", "t.jsonl + photos"])
def test_every_source_reads_its_pictures_and_no_text(photos, name, monkeypatch):
    monkeypatch.chdir(photos)
    source = open_source(name, captions="none")
    assert len(source) == 8 if "+" in name else 4
    assert "text" not in source.columns
    assert [record["image"] for record in source if "text" in record] == []
    assert source[1]["image"] is not None


@pytest.mark.parametrize("name", ["s.tar", "saved"])
def test_a_stream_does_too(photos, name):
    stream = open_source(photos / name, captions="none", streaming=True)
    assert "text" not in stream.columns
    assert [sorted(set(record) & {"image", "text"}) for record in stream] == [["image"]] * 4
    assert len(list(stream.read(0, skip=3))) == 1


def test_what_else_is_known_of_a_picture_stays(photos):
    source = open_source(photos / "t.jsonl", captions="none")
    assert (source.classes, source.column("label")) == (["a", "b"], [0, 1, 0, 1])
    world = open_source("world/emoji", captions="none", split="val", styles=["noto"])
    assert "text" not in world[0]
    assert world[0]["category"]


def test_a_folder_keeps_the_columns_of_its_table_where_one_is_named(photos):
    (photos / "photos" / "metadata.csv").write_text("file_name,text,kind\nIMG_0001.jpg,a,x\nIMG_0002.jpg,b,y\n")
    named = open_source(photos / "photos", captions="none", label="kind")
    assert (named.columns, named.classes, len(named)) == (["image", "label"], ["x", "y"], 2)
    assert len(open_source(photos / "photos", captions="none")) == 4


def test_records_in_memory():
    source = open_source(Records([{"image": "a.jpg", "text": "a"}]), captions="none")
    assert source[0] == {"image": "a.jpg"}


@pytest.mark.parametrize(
    ("spec", "options", "why"),
    [
        ("text:python", {}, "no pictures, and captions='none'"),
        ("world/emoji", {"text": "name"}, "reads no texts"),
        ("world/emoji", {"captions": "class"}, "is for a folder of pictures"),
        (
            Records([{"text": "a"}], name="lines"),
            {"text": "b", "captions": None},
            "is open already: leave out text='b'",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(spec, options, why):
    with pytest.raises(UserError, match=why):
        open_source(spec, **{"captions": "none"} | options)


def test_a_loader_that_needs_no_text_batches_them(photos):
    loader = Loader(open_source(photos / "photos", captions="none"), batch_size=2, image_size=8)
    assert next(iter(loader))["image"].shape[0] == 2
