"""Files as people have them: older encodings, captions that look like numbers, links that lead nowhere or round."""

import io
import json
import os
import random

import pytest
import torch
from PIL import Image

from data.door_rows import pack
from nearfar.data import BadImage, Loader, folder, load_image, open_source, shards, table, train_tokenizer
from nearfar.errors import UserError


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def pairs(root, count=20):
    for i in range(count):
        (root / f"{i:02d}.png").write_bytes(png())
        (root / f"{i:02d}.txt").write_text(f"picture {i}")
    return root


# Tables


@pytest.mark.parametrize(("name", "separator"), [("t.csv", ","), ("t.tsv", "\t")])
def test_captions_and_paths_that_look_like_numbers_stay_as_they_are_written(tmp_path, name, separator):
    rows = [("image", "text", "label"), ("0010", "007", "3"), ("0020", "1.50", "4"), ("0030", "", "5")]
    (tmp_path / name).write_text("".join(separator.join(row) + "\n" for row in rows))
    source = table(tmp_path / name)
    assert [record["text"] for record in source] == [["007"], ["1.50"], []]
    assert [os.path.basename(record["image"]) for record in source] == ["0010", "0020", "0030"]
    assert source.column("label") == [3, 4, 5]


LATE = {
    "price": ("7", "7.5", 7.0),
    "ratio": ("7.5", "8", 7.5),
    "stock": ("7", "", "7"),
    "weight": ("0.5", "", 0.5),
    "size": ("7", "7 kg", "7"),
    "sold": ("True", "", "True"),
    "label": ("7", "8.0", 7),
    "mark": ("7", "short", "7"),
}
"""Columns: what stands in the first rows, what stands in the last one, and how the first is read."""


@pytest.mark.parametrize("rows", [2, 10_050])
def test_a_column_that_changes_its_form_late_is_read_as_in_a_small_table(tmp_path, rows):
    first, last = ([each[n] for each in LATE.values()] for n in (0, 1))
    lines = [",".join(["caption", *LATE]), *[",".join(["x", *first])] * (rows - 1), ",".join(["x", *last[:-1]])]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    source = table(tmp_path / "a.csv", text="caption")
    assert len(source) == rows
    record = source[0]
    assert {name: record[name] for name in LATE} == {name: value for name, (_, _, value) in LATE.items()}
    assert [source[rows - 1][name] for name in ("price", "ratio", "stock", "size")] == [7.5, 8.0, "", "7 kg"]
    cells = source.cells(["price", "stock", "size", "mark"])
    assert cells(0) == {"price": 7.0, "stock": 7, "size": "7", "mark": 7}
    assert cells(rows - 1) == {"price": 7.5, "stock": None, "size": "7 kg", "mark": None}


@pytest.mark.parametrize("seed", range(5))
def test_small_tables_are_read_as_by_a_reader_of_all_their_rows(tmp_path, seed):
    import pandas

    written = ("7", "-2", "+3", "1.5", ".5", "2.", "1e3", "inf", "True", "false", "", "nan", "7 kg", "1_000", "0", "-")
    chance = random.Random(seed)
    columns = {f"c{n}": chance.choices(chance.sample(written, chance.choice((1, 2, 3))), k=6) for n in range(60)}
    lines = [",".join(["caption", *columns]), *(",".join(["x", *row]) for row in zip(*columns.values(), strict=True))]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    right = pandas.read_csv(tmp_path / "a.csv", keep_default_na=False, skipinitialspace=True)
    source = table(tmp_path / "a.csv", text="caption")
    for name in columns:
        read = source.column(name)
        assert read == right[name].tolist(), (name, columns[name])
        assert {type(cell) for cell in read} == {type(cell) for cell in right[name].tolist()}, columns[name]


def test_spaces_after_the_commas(tmp_path):
    (tmp_path / "t.csv").write_text('image, text , n\na.png, "red, mostly", 3\n')
    record = table(tmp_path / "t.csv")[0]
    assert (record["text"], os.path.basename(record["image"])) == (["red, mostly"], "a.png")


def test_one_caption_or_a_list_of_them_from_row_to_row(tmp_path):
    rows = [{"image": "a.png", "text": "x"}, {"image": "b.png", "text": ["y", "z"]}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [record["text"] for record in table(tmp_path / "t.jsonl")] == [["x"], ["y", "z"]]


def test_weights_are_numbers_or_none(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png())
    (tmp_path / "t.csv").write_text("image,text,weight\n0.png,a,0.5\n1.png,b,\n2.png,c,5 kg\n3.png,d,nan\n")
    source = table(tmp_path / "t.csv")
    tokenizer = train_tokenizer(source.texts(), 300)
    batch = next(iter(Loader(source, batch_size=4, image_size=8, tokenizer=tokenizer, shuffle=False)))
    assert torch.equal(batch["weight"], torch.tensor([0.5, 1.0, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("t.csv", "image,text\na.png,x\nb.png,café\n".encode("latin-1"), "line 3 is not UTF-8 text: save it as UTF-8"),
        ("t.tsv", "image\ttext\na.png\tcafé".encode("latin-1"), "line 2 is not UTF-8"),
        ("t.jsonl", '{"image": "a.png", "text": "café"}\n'.encode("latin-1"), "line 1 is not UTF-8"),
        ("t.csv", "image,text\na.png,x\n".encode("utf-16"), "line 1 is not UTF-8"),
        ("t.csv", b"image,text\n", "it holds no rows"),
        ("t.jsonl", b"\n\n", "it holds no rows"),
        ("t.csv", b"image,text,label\na.png,x,0.5\n", r"t\.csv: column 'label' holds float"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line_and_remedy(tmp_path, name, content, why):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=why):
        table(tmp_path / name)


def test_the_line_is_right_across_pieces_of_a_large_file(tmp_path):
    rows = ["image,text"] + ["a.png,é" + "x" * 60] * 40_000
    data = "\n".join(rows).encode()
    broken = data.index(b"\n", 2_200_000) + 1
    (tmp_path / "t.csv").write_bytes(data[:broken] + b"a.png,caf\xe9\n" + data[broken:])
    with pytest.raises(UserError, match=f"line {data[:broken].count(10) + 1} is not UTF-8"):
        table(tmp_path / "t.csv")


def test_an_empty_parquet_file(tmp_path):
    import pyarrow
    from pyarrow import parquet

    empty = {"image": pyarrow.array([], pyarrow.binary()), "text": pyarrow.array([], pyarrow.string())}
    parquet.write_table(pyarrow.table(empty), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="it holds no rows"):
        table(tmp_path / "t.parquet")


# Folders


def test_captions_in_upper_case_files_and_in_utf_16(tmp_path):
    (tmp_path / "a.PNG").write_bytes(png())
    (tmp_path / "a.TXT").write_text("a shout")
    (tmp_path / "b.png").write_bytes(png())
    (tmp_path / "b.txt").write_text("café", encoding="utf-16")
    assert [record["text"] for record in folder(tmp_path)] == [["a shout"], ["café"]]


def test_a_caption_in_an_older_encoding_is_skipped_and_listed(tmp_path):
    pairs(tmp_path)
    (tmp_path / "03.txt").write_bytes("café".encode("latin-1"))
    source = folder(tmp_path)
    assert len(source) == 19
    assert "03.txt' is not UTF-8 text: save it as UTF-8" in str(source.skipped)


def test_a_link_to_nowhere_is_skipped_and_listed(tmp_path):
    pairs(tmp_path)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "gone.txt").write_text("x")
    source = folder(tmp_path)
    assert len(source) == 20
    assert "gone.png: No such file" in str(source.skipped)


def test_a_link_to_a_folder_above_is_not_read_over_and_over(tmp_path):
    (tmp_path / "data" / "inner").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    pairs(tmp_path / "data", 2)
    pairs(tmp_path / "other", 3)
    (tmp_path / "data" / "round").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "inner" / "up").symlink_to(tmp_path)
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "other")
    names = sorted(os.path.relpath(record["image"], tmp_path / "data") for record in folder(tmp_path / "data"))
    assert names == ["00.png", "01.png", "linked/00.png", "linked/01.png", "linked/02.png"]


def test_a_kind_of_captions_that_there_is_not(tmp_path):
    with pytest.raises(UserError, match="captions='json': choose one of txt, class, name"):
        folder(pairs(tmp_path), captions="json")


@pytest.mark.parametrize("name", ["pipe.png", "/dev/zero"])
def test_what_has_no_end_is_not_read(tmp_path, name):
    if name == "pipe.png":
        os.mkfifo(tmp_path / name)
    with pytest.raises(BadImage, match="not a regular file"):
        load_image(tmp_path / name)


@pytest.mark.parametrize(
    "start", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", b"\xc5\xd0\xd3\xc6" + bytes(28)]
)
def test_postscript_is_never_run(start, monkeypatch):
    from PIL import EpsImagePlugin

    def run(*_, **__):
        raise AssertionError("Ghostscript was called")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    with pytest.raises(BadImage, match="PostScript"):
        load_image(start)


# Shards


def test_notes_of_a_sample_that_are_no_numbers(tmp_path):
    notes = {"caption": "a cat", "group": "flickr", "index": "7f", "weight": "5 kg", "domain": True, "label": "cat"}
    pack(tmp_path / "s.tar", {"a.png": png(), "a.json": json.dumps(notes).encode()})
    source = shards(tmp_path / "s.tar")
    assert source[0].keys() == {"key", "caption", "image", "text"}
    tokenizer = train_tokenizer(source.texts(), 300)
    assert next(iter(Loader(source, batch_size=1, image_size=8, tokenizer=tokenizer)))["group"].tolist() == [0]
    pack(tmp_path / "s.tar", {"a.png": png(), "a.json": b'{"group": 3, "weight": 0.5}'})
    assert (shards(tmp_path / "s.tar")[0]["group"], shards(tmp_path / "s.tar")[0]["weight"]) == (3, 0.5)


def classes_of_shard(path, labels, **options):
    members = {}
    for i, label in enumerate(labels):
        members |= {f"{i:02d}.png": png()} | ({} if label is None else {f"{i:02d}.cls": label.encode()})
    pack(path / "s.tar", members)
    return shards(path / "s.tar", **options)


def test_names_of_classes_in_shards_are_understood_as_class_folders_are(tmp_path):
    source = classes_of_shard(tmp_path, ["red_fox\n", "cat", "red_fox", "007", None])
    assert source.classes == ["007", "cat", "red_fox"]
    assert source.column("label") == [2, 1, 2, 0, -1]
    assert source.column("text") == [["red fox"], ["cat"], ["red fox"], ["007"], []]
    for name in ("red_fox", "cat"):
        (tmp_path / "animals" / name).mkdir(parents=True)
        (tmp_path / "animals" / name / "a.png").write_bytes(png())
    animals = folder(tmp_path / "animals")
    assert [(r["text"], animals.classes[r["label"]]) for r in animals] == [
        (r["text"], source.classes[r["label"]]) for r in (source[1], source[0])
    ]
    batch = next(
        iter(Loader(source[:3], batch_size=3, image_size=8, tokenizer=train_tokenizer(["a"], 300), shuffle=False))
    )
    assert batch["label"].tolist() == [2, 1, 2]


def test_a_caption_goes_before_the_name_of_the_class(tmp_path):
    members = {"a.png": png(), "a.cls": b"cat", "a.txt": b"a tabby", "b.png": png(), "b.cls": b"dog", "b.txt": b" "}
    pack(tmp_path / "s.tar", members)
    source = shards(tmp_path / "s.tar")
    assert source.column("text") == [["a tabby"], []]
    assert source.column("label") == [0, 1]


def test_a_stream_of_shards_has_names_of_classes_for_captions_only(tmp_path):
    stream = classes_of_shard(tmp_path, ["red_fox", "cat"], streaming=True)
    assert stream.classes is None
    assert [record["text"] for record in stream] == [["red fox"], ["cat"]]
    assert not any("label" in record for record in stream)


def test_a_key_that_is_named_holds_names_of_classes_and_others_do_not(tmp_path):
    members = {}
    for i, animal in enumerate(["dog", "cat"]):
        members |= {f"{i}.png": png(), f"{i}.json": json.dumps({"text": "x", "label": animal}).encode()}
    pack(tmp_path / "s.tar", members)
    assert "label" not in shards(tmp_path / "s.tar")[0]
    named = shards(tmp_path / "s.tar", label="label")
    assert (named.classes, named.column("label")) == (["cat", "dog"], [1, 0])


@pytest.mark.parametrize("label", ["0.5", "1, 2", "--3", "²", "-", "", "9" * 5000])
def test_labels_that_are_neither_number_nor_name(tmp_path, label):
    source = classes_of_shard(tmp_path, [" 3\n", label, "-4"])
    names = label in ("--3", "²", "-")
    assert source.classes == (sorted(["3", "-4", label]) if names else None)
    if not names:
        assert source.column("label", None) == [3, None, -4]


@pytest.mark.parametrize("name", ["we[ird] dir/a.tar", "plain/A.TAR"])
def test_names_of_shards(tmp_path, name):
    (tmp_path / name).parent.mkdir()
    pack(tmp_path / name, {"a.png": png(), "a.txt": b"x"})
    for spec in (tmp_path / name, (tmp_path / name).parent):
        assert open_source(spec)[0]["text"] == ["x"]


def test_captions_of_shards_in_other_encodings(tmp_path):
    members = {}
    for i, text in enumerate(["café".encode(), "café".encode("utf-16"), "café".encode("latin-1")]):
        members |= {f"{i}.png": png(), f"{i}.txt": text}
    pack(tmp_path / "s.tar", members)
    source = shards(tmp_path / "s.tar")
    assert [record["text"] for record in source] == [["café"], ["café"], []]
    tokenizer = train_tokenizer(source.texts(), 300)
    options = {"batch_size": 3, "image_size": 8, "tokenizer": tokenizer, "shuffle": False, "drop_last": False}
    loader = Loader(source, max_skipped=0.5, **options)
    assert sum(len(batch["index"]) for batch in loader) == 2
    assert "no caption" in str(loader.skipped)
