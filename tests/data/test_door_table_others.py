"""The rows of the same table on shards, datasets and other data; and that the page has these rows and no others."""

import json
import re
from pathlib import Path

import datasets
import pytest

from data import test_door_table  # its rows come first
from data.door_rows import PAGE, ROWS, pack, pairs, png, row, unusable, write
from nearfar.data import open_source, vqa
from nearfar.data.sources.record_groups import Groups
from nearfar.errors import UserError

assert test_door_table


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@row("shards", "files of one key, adjacent or not; dots in names; equal keys")
def test_samples_of_shards():
    pack("s.tar", {"a.jpg": png(), "v1.2.jpg": png(), "a.txt": b"x", "v1.2.txt": b"y"})
    pack("t.tar", {"a.jpg": png(), "a.txt": b"z"})
    assert [(r["key"], r["text"]) for r in open_source("*.tar")] == [
        ("a", ["x"]),
        ("v1.2", ["y"]),
        ("a", ["z"]),
    ]


@row("shards", "a caption without a picture; a second picture of a key; a link; equal keys that are not clear")
def test_members_of_no_sample():
    pack("s.tar", {**pairs(60), "bare.txt": b"x", "k1.jpg": png(), "z.JPG": png(), "z.jpg": png(), "z.txt": b"x"})
    skipped = open_source("s.tar").skipped
    assert [problem.where for problem in skipped] == ["s.tar/z", "s.tar/bare", "s.tar/k1.png"]


@row("shards", "a picture without a caption; an empty file")
def test_pictures_of_shards_without_captions():
    pack("s.tar", {**pairs(), "bare.jpg": png(), "empty.jpg": b"", "empty.txt": b"x"})
    source = open_source("s.tar")
    assert len(source) == 22
    said = unusable(source)
    assert said.startswith("2 skipped")
    assert "s.tar/bare.jpg" in said
    assert "s.tar/empty.jpg" in said


@row("shards", "the rest of a tar that was cut off")
def test_a_tar_that_was_cut_off():
    pack("s.tar", pairs())
    Path("s.tar").write_bytes(Path("s.tar").read_bytes()[:20000])
    assert "s.tar: truncated or broken" in str(open_source("s.tar", max_skipped=1).skipped)


@row("shards", "a compressed tar; no sample")
def test_shards_that_are_refused():
    write(d={"a.tar.gz": b"x"})
    pack("b.tar", {})
    for name in ("d/a.tar.gz", "b.tar"):
        with pytest.raises(UserError, match=r"unpack|no samples"):
            open_source(name)


@row("dataset", "`hub:NAME`, a saved folder, a `datasets.Dataset`, pictures as bytes or paths")
def test_datasets():
    rows = datasets.Dataset.from_dict({"image": [png(1), png(2)], "caption": ["x", "y"]})
    rows.save_to_disk("saved")
    paths = datasets.Dataset.from_dict({"image": ["a.png", "b.png"], "caption": ["x", "y"]})
    for source in (open_source(rows), open_source(paths), open_source("saved"), open_source("hub:saved")):
        assert source.texts() == ["x", "y"]


@row("dataset", "a row without picture or caption")
def test_rows_of_datasets_that_cannot_be_used():
    rows = {"image": [png(1), None, png(3), png(4)], "caption": ["x", "y", None, "z"]}
    assert unusable(open_source(datasets.Dataset.from_dict(rows))).startswith("2 skipped")


@row("dataset", "no such name or split; objects without a named field")
def test_datasets_that_are_refused():
    rows = datasets.Dataset.from_dict({"image": ["a.png"], "caption": [{"en": "x"}]})
    with pytest.raises(UserError, match=r"text=caption\.en"):
        open_source(rows)
    with pytest.raises(UserError, match="no split 'test'"):
        open_source(datasets.DatasetDict(train=rows), split="test", text="caption.en")
    with pytest.raises(UserError, match="cannot be loaded"):
        open_source(f"hub:{Path.cwd()}/nothing")


def coco(count, **changes):
    images = [{"id": 10 + i, "file_name": f"{i}.png"} for i in range(count)]
    captions = [{"image_id": 10 + i, "caption": f"{word} thing {i}"} for word in ("a", "the") for i in range(count - 1)]
    content = {"images": images, "annotations": captions, **changes}
    write(d={"annotations/captions_val2017.json": json.dumps(content)})
    write(**{"d/val2017": {f"{i}.png": png(i) for i in range(count)}})
    return open_source("d/annotations/captions_val2017.json")


@row("captions", "COCO's `captions_val2017.json`, `dataset_flickr30k.json` with its splits, pictures beside")
def test_files_of_captions():
    source = coco(4)
    assert source[1]["text"] == ["a thing 1", "the thing 1"]
    assert all(Path(record["image"]).is_file() for record in source)
    images = [
        {"filename": f"{i}.png", "filepath": "val2017", "split": split, "sentences": [{"raw": f"thing {i}"}] * 2}
        for i, split in enumerate(("train", "train", "test"))
    ]
    write(d={"dataset_flickr30k.json": json.dumps({"images": images})})
    assert len(open_source("d/dataset_flickr30k.json")) == 3
    source = open_source("d/dataset_flickr30k.json", split="test")
    assert (source.texts(), Path(source[0]["image"]).is_file()) == (["thing 2"] * 2, True)
    with pytest.raises(UserError, match="no split 'val'; name one of these: test, train"):
        open_source("d/dataset_flickr30k.json", split="val")


@row("captions", "a picture without a caption")
def test_pictures_that_have_no_caption():
    assert str(coco(4).skipped).endswith("captions_val2017.json, picture 13 (3.png): no caption")


@row("captions", "another kind of JSON")
def test_other_json():
    for changes in ({"images": [{"id": 1}]}, {"annotations": [{"image_id": 1}]}, {"images": 3}):
        with pytest.raises(UserError, match="no file of captions: 'images' with 'id'"):
            coco(2, **changes)


def questions(count, **changes):
    entries = [{"question_id": i, "image_id": i // 2, "question": "what?"} for i in range(count)]
    answers = [{"question_id": i, "answers": [{"answer": "x"}]} for i in range(count)]
    content = {"data_subtype": "val", "questions": entries, **changes}
    write(d={"questions.json": json.dumps(content), "annotations.json": json.dumps({"annotations": answers})})


BOXES = {
    "images": [{"id": 5, "file_name": "5.jpg"}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [
        {"image_id": 5, "category_id": 1, "bbox": [0, 1, 2, 3]},
        {"image_id": 5, "category_id": 1, "bbox": [0, 0, 0, 3]},
        {"image_id": 6, "category_id": 1, "bbox": [0, 0, 1, 3]},
        {"image_id": 5, "category_id": 2, "bbox": [0, 0, 1, 3]},
    ],
}


@row("boxes", "COCO's `instances_val2017.json`, LVIS's, pictures beside")
def test_boxes():
    write(d={"annotations/instances.json": json.dumps(BOXES), "images/5.jpg": png()})
    (record,) = open_source("d/annotations/instances.json")
    assert record["objects"] == [{"name": "cat", "box": (0, 1, 2, 4)}]
    assert Path(record["image"]).is_file()


@row("boxes", "an empty box; a box of an unknown picture or category")
def test_boxes_that_are_none():
    write(d={"instances.json": json.dumps(BOXES), "5.jpg": png()})
    assert open_source("d/instances.json").skipped.count == 3


@row("VQA", "questions, with annotations and pictures beside")
def test_questions_and_answers():
    questions(4)
    source = open_source("d/questions.json")
    assert (source.column("group"), source[0]["answers"]) == ([0, 0, 1, 1], ["x"])


@row("VQA", "a picture that is not there")
def test_questions_without_a_picture():
    questions(4)
    write(**{"d/val": {"COCO_val_000000000000.jpg": png()}})
    assert unusable(open_source("d/questions.json")).startswith("2 skipped")


@row("VQA", "another kind of JSON; questions of another split than the annotations")
def test_questions_that_are_refused():
    write(e={"a.json": "{}"})
    with pytest.raises(UserError, match="no list of 'questions'"):
        open_source("e/a.json")
    questions(2, questions=[{"question_id": 99, "image_id": 1, "question": "what?"}])
    with pytest.raises(UserError, match="of the same split"):
        vqa("d/questions.json")


@row("text", "`.txt`, `.md` and `.rst` files")
def test_running_text():
    write(d={"a.txt": "one", "b.md": "two", "c.rst": "three", "d.csv": "four"})
    assert open_source("text:d").texts() == ["one", "two", "three"]


@row("text", "a file that is not UTF-8; no text")
def test_texts_that_are_refused():
    write(a={"a.txt": b"caf\xe9"}, b={"a.txt": ""})
    for folder, words in (("a", "UTF-8"), ("b", "no text")):
        with pytest.raises(UserError, match=words):
            open_source(f"text:{folder}")


@row("joined", "`'world/emoji + photos/'`")
def test_joined_sources():
    write(a=["cat/1.png", "dog/1.png"], b=["dog/2.png", "fox/2.png"])
    source = open_source("a + b")
    assert source.classes == ["cat", "dog", "fox"]
    assert source.column("label") == [0, 1, 1, 2]


@row("joined", "a stream")
def test_joined_streams():
    pack("s.tar", pairs(2))
    with pytest.raises(UserError, match="only sources can be joined"):
        open_source("s.tar + s.tar", streaming=True)


@row("any", "rows of one picture, the same file or the same bytes")
def test_one_group_a_picture():
    write(
        d={
            "1.png": png(1),
            "2.png": png(1),
            "3.png": png(3),
            "a.csv": "image,caption\n1.png,x\n1.png,y\n2.png,z\n3.png,w",
        }
    )
    source = open_source("d/a.csv")
    groups = Groups(source)
    numbers = [groups(record, place, place) for place, record in enumerate(source)]
    assert numbers[0] == numbers[1] == numbers[2] != numbers[3]


@row("any", "an address; a name that is nothing here")
def test_words_that_are_refused():
    with pytest.raises(UserError, match="download it first"):
        open_source("https://example.org/pairs.csv")
    with pytest.raises(UserError, match="no such file or folder"):
        open_source("nowhere")


def test_the_page_has_a_row_for_each_test():
    part = PAGE.read_text("utf-8").partition("### What is read, skipped and refused")[2].partition("\n## ")[0]
    rows = re.findall(
        r"^\| (folder|table|shards|dataset|captions|boxes|VQA|text|joined|any) \| (.*) \| .* \|$", part, re.MULTILINE
    )
    assert rows == list(ROWS)
