"""Texts with pictures in them: as batches, as scenes of the embedded world, and as tables."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from nearfar.data import Loader, Records, open_source, train_tokenizer
from nearfar.data.fields.field import BatchChance, RecordChance
from nearfar.data.fields.text_field import FieldTokenizer
from nearfar.data.pictures.image_field import ImageField
from nearfar.data.scenes.documents import documents
from nearfar.data.sources.skipped import BadRecord
from nearfar.data.texts.documents_field import DocumentsField
from nearfar.errors import UserError
from nearfar.models.vlm.interleaved.mark_tokens import marks_of, with_marks

SHADES = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


@pytest.fixture(scope="module")
def tokenizer():
    return with_marks(train_tokenizer(["all red", "see green"] * 3, 300), 64)


def shade(name):
    return Image.new("RGB", (8, 8), SHADES[name])


def field_of(tokenizer, **settings):
    return DocumentsField(ImageField(8, views="none"), FieldTokenizer(tokenizer, 64), **settings)


def prepared(field, record):
    canvases, text, paired = field.prepare(record, RecordChance(0, 0, 0))
    colours = [tuple(canvas[:, 0, 0].tolist()) for canvas, _ in canvases]
    return [name for colour in colours for name, own in SHADES.items() if own == colour], text, paired


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"image": "red", "text": "all red"}, (["red"], "<visual>all red", True)),
        ({"images": ["red"], "text": ["all red"]}, (["red"], "<visual>all red", True)),
        ({"image": "red", "text": "a <visual> mark"}, (["red"], "<visual>a   mark", True)),
        ({"images": ["red"], "text": "see <visual>red"}, (["red"], "see <visual>red", False)),
        ({"images": ["red", "blue"], "text": ["one", "two"]}, (["red", "blue"], "<visual>one<visual>two", False)),
        ({"images": ["red", "blue"], "text": "a<visual><visual>b"}, (["red", "blue"], "a<visual><visual>b", False)),
        (
            {"images": ["red", "blue", "white", "green"], "text": "a<visual>b<visual>c<visual>d<visual>e"},
            (["red", "blue", "white"], "a<visual>b<visual>c<visual>d", False),
        ),
    ],
)
def test_a_record_is_a_picture_with_its_caption_or_a_document(tokenizer, record, expected):
    held = dict(record)
    for key in ("image", "images"):
        if key in held:
            held[key] = shade(held[key]) if key == "image" else [shade(name) for name in held[key]]
    assert prepared(field_of(tokenizer), held) == expected


def test_a_caption_is_drawn_as_for_other_methods(tokenizer):
    record = {"image": shade("red"), "text": ["one", "two"]}
    assert prepared(field_of(tokenizer, caption="first"), record)[1] == "<visual>one"
    texts = {field_of(tokenizer).prepare(record, RecordChance(0, epoch, 0))[1] for epoch in range(9)}
    assert texts == {"<visual>one", "<visual>two"}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"images": [1, 2], "text": "a<visual>b"}, "2 pictures, and 1 places"),
        ({"images": [1, 2], "text": ["a", "b", "c"]}, "2 pictures, and 3 places"),
        ({"images": [], "text": "a"}, "0 pictures, and 1 places"),
        ({"images": [b"no picture", b""], "text": ["a", "b"]}, "not an image|no picture|empty|broken"),
        ({"image": b"no picture", "text": ["a", "b"]}, "not an image|broken"),
        ({"image": 1, "text": []}, "no caption"),
    ],
)
def test_a_record_that_does_not_fit_together_is_left_out(tokenizer, record, words):
    with pytest.raises(BadRecord, match=words):
        field_of(tokenizer).prepare(record, RecordChance(0, 0, 0))


def test_a_batch_holds_both_kinds(tokenizer):
    field = field_of(tokenizer)
    records = [
        {"image": shade("red"), "text": "all red"},
        {"images": [shade("blue"), shade("green")], "text": ["all", "see green"]},
    ]
    parts = [field.prepare(record, RecordChance(0, 0, n)) for n, record in enumerate(records)]
    batch = field.collate(parts, BatchChance(0, 0, 0, 2, [0, 1]))
    assert batch["images"].shape == (2, 2, 3, 8, 8)
    assert batch["image_count"].tolist() == [1, 2]
    assert batch["paired"].tolist() == [1, 0]
    assert (batch["images"][0, 1] == 0).all()
    alone = ImageField(8, views="none")
    for place, name in (((0, 0), "red"), ((1, 0), "blue"), ((1, 1), "green")):
        canvas = [alone.prepare({"image": shade(name)}, RecordChance(0, 0, 0))]
        pixels = alone.collate(canvas, BatchChance(0, 0, 0, 1, [0]))["image"][0]
        assert torch.equal(batch["images"][place], pixels)
    picture = marks_of(tokenizer).picture
    assert (batch["text"]["input_ids"] == picture).sum(1).tolist() == [1, 2]
    again = replace(BatchChance(0, 3, 9, 8, [5, 2]))
    assert torch.equal(field.collate(parts, again)["images"], batch["images"])


def test_a_loader_reads_them_and_counts_what_it_cannot_use(tokenizer):
    rows = [{"image": shade("red"), "text": f"all red {n}"} for n in range(7)]
    rows += [{"images": [shade("red"), shade("blue")], "text": "one picture <visual>"}]
    loader = Loader(Records(rows, name="rows"), [field_of(tokenizer)], batch_size=4, max_skipped=0.5)
    batches = list(loader)
    assert [len(batch["paired"]) for batch in batches] == [4, 4]
    assert loader.skipped.count == 1


def test_scenes_of_a_document_have_captions_of_one_kind():
    source = documents("train", vocabulary="shapes", n=40, size=32, pictures=3, single=0.5)
    records = list(source)
    counts = [len(record["images"]) for record in records]
    assert set(counts) == {1, 3}
    assert 10 <= counts.count(1) <= 30
    assert all(len(record["text"]) == len(record["images"]) for record in records)
    assert len({record["group"] for record in records}) == 40

    def frame(text):
        words = text.split()
        return words[0], "the" in words[1:]

    for record in records:
        assert len({frame(text)[0] == "the" for text in record["text"]}) == 1
    again = documents("train", vocabulary="shapes", n=9, size=32)
    assert again[5]["text"] == documents("train", vocabulary="shapes", n=6, size=32)[5]["text"]
    assert {len(record["images"]) for record in documents("val", vocabulary="shapes", n=9, size=32, single=0)} == {3}
    assert open_source("world/documents", vocabulary="shapes", n=3).name == "world/documents:train"
    assert documents("val", n=2, size=32, pictures=4, single=0).texts()[:1] != []
    for settings, words in (({"pictures": 1}, "pictures=1"), ({"single": 2}, "single=2"), ({"split": "no"}, "split")):
        with pytest.raises(UserError, match=words):
            documents(**{"split": "train", "n": 2, **settings})


def test_a_table_of_lists_of_pictures_is_a_source_of_documents(tokenizer, tmp_path):
    (tmp_path / "images").mkdir()
    for name in SHADES:
        shade(name).save(tmp_path / "images" / f"{name}.png")
    rows = [
        {"images": ["red.png", "blue.png"], "text": "see <visual>red and <visual>blue"},
        {"images": ["white.png"], "text": "all white"},
    ]
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(tmp_path / "documents.jsonl")
    assert [prepared(field_of(tokenizer), record) for record in source] == [
        (["red", "blue"], "see <visual>red and <visual>blue", False),
        (["white"], "<visual>all white", True),
    ]
    assert source.texts() == ["see <visual>red and <visual>blue", "all white"]
