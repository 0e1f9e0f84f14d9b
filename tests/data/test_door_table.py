"""Each row of the table in `docs/data.md` of what is read, skipped and refused, in the table's order."""

import io
import json
import os
import re
import tarfile
from pathlib import Path

import datasets
import pytest
from PIL import Image

from nearfar.data import Loader, open_source, train_tokenizer, vqa
from nearfar.data.sources.record_groups import Groups
from nearfar.errors import UserError

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
ROWS = {}


def row(source, holds):
    """The test of a row, by its first two cells."""

    def keep(test):
        ROWS[source, holds] = test
        return test

    return keep


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def png(shade=0):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(**folders):
    """Files by folder: a list of pictures' names, or contents by name."""
    for folder, files in folders.items():
        for number, name in enumerate(files):
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            data = files[name] if isinstance(files, dict) else png(number)
            path.write_bytes(data if isinstance(data, bytes) else data.encode())


def many(folder, count=20):
    write(**{folder: {f"red_{i}.png": png(i) for i in range(count)}})


def pack(name, members):
    with tarfile.open(name, "w") as shard:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))


def pairs(count=20):
    return {f"k{i}.{e}": d for i in range(count) for e, d in (("png", png(i)), ("txt", b"text"))}


def unusable(source):
    """What a loader could not use in an epoch."""
    tokenizer = train_tokenizer(["a"], 300)
    options = {"batch_size": 4, "shuffle": False, "drop_last": False, "max_skipped": 1}
    loader = Loader(source, image_size=8, tokenizer=tokenizer, **options)
    for _ in loader:
        pass
    return str(loader.skipped)


@row("folder", "`a.jpg` with `a.txt` or `a.jpg.txt`, endings in upper case too")
def test_captions_in_files_beside():
    write(
        d={"a.jpg": png(), "a.txt": "one\ntwo", "b.jpg": png(), "b.jpg.txt": "three", "c.JPG": png(), "c.TXT": "four"}
    )
    assert [record["text"] for record in open_source("d")] == [["one", "two"], ["three"], ["four"]]


@row("folder", "`captions.txt` beside `Images/`; `metadata.jsonl` here or in its folders")
def test_tables_of_a_folder():
    write(a={"captions.txt": "image,caption\n1.jpg,one", "Images/1.jpg": png()})
    write(b={"x/metadata.jsonl": json.dumps({"file_name": "1.jpg", "text": "one"}), "x/1.jpg": png()})
    for folder in "ab":
        assert open_source(folder).texts() == ["one"]
        assert Path(open_source(folder)[0]["image"]).is_file()


@row("folder", "`images/a.jpg` and `captions/a.txt`; `Flickr8k.token.txt` beside its pictures")
def test_captions_in_a_folder_of_their_own():
    write(a={f"images/x/{i}.png": png(i) for i in range(3)})
    write(a={f"captions/x/{i}.txt": f"thing {i}" for i in range(3)})
    assert open_source("a").texts() == ["thing 0", "thing 1", "thing 2"]
    write(b={"pics/1.jpg": png(), "Flickr8k.token.txt": "1.jpg#0\ta dog\n1.jpg#1\tone dog, running\n"})
    source = open_source("b")
    assert source.texts() == ["a dog", "one dog, running"]
    assert [Path(record["image"]).is_file() for record in source] == [True, True]
    write(c=["dog/1.png", "car/1.png"])
    write(c={"notes/1.txt": "x"})  # whose it is, nobody can tell
    assert open_source("c").texts() == ["car", "dog"]


@row("folder", "`dog/indoor/1.jpg` and `car/indoor/1.jpg`")
def test_folders_as_classes():
    write(d=["dog/indoor/1.jpg", "car/indoor/1.jpg"])
    assert open_source("d").classes == ["car/indoor", "dog/indoor"]
    assert open_source("d").texts() == ["car indoor", "dog indoor"]


@row("folder", "`red_car.jpg` alone")
def test_names_as_captions():
    write(d=["red_car.jpg"])
    assert open_source("d").texts() == ["red car"]
    assert "names of the files" in open_source("d").remark


@row("folder", "a picture without a caption; an empty file; a link to nowhere")
def test_pictures_that_are_no_pairs():
    write(d={**{f"k{i}.{e}": d for i in range(30) for e, d in (("png", png()), ("txt", "x"))}, "bare.png": png()})
    write(d={"empty.png": b"", "empty.txt": "x", "gone.txt": "x"})
    Path("d/gone.png").symlink_to("nowhere.png")
    skipped = open_source("d").skipped
    assert skipped.count == 3
    for words in ("bare.png: no caption", "empty.png: the file is empty", "gone.png: No such file"):
        assert words in str(skipped)


@row("folder", "a text file without a picture (`readme.txt` and the like are none)")
def test_texts_of_no_picture():
    write(d={"a.png": png(), "a.txt": "x", "b.jpg": png(), "b.jpg.txt": "y", "b.txt": "z", "c.heic": b"", "c.txt": "x"})
    write(d={"gone.txt": "x", "README.txt": "x", "classes.txt": "x"})
    source = open_source("d", max_skipped=0.5)
    assert source.texts() == ["x", "y"]  # `b.jpg.txt` says more of `b.jpg` than `b.txt`
    assert [problem.where for problem in source.skipped] == ["d/c.heic", "d/gone.txt"]


@row("folder", "`.heic`; a picture that the table does not name; `IMG_0001.jpg` alone")
def test_pictures_that_nothing_names():
    many("a")
    write(a={"x.heic": b"x", "IMG_0001.jpg": png()})
    assert open_source("a").skipped.count == 2
    write(b={"metadata.csv": "file_name,text\n1.jpg,one", "1.jpg": png(), "2.jpg": png()})
    assert "2.jpg: no caption: 'metadata.csv' does not name it" in str(open_source("b").skipped)


@row("folder", "a caption, or a name that would be one, that is not UTF-8")
def test_what_is_not_utf8_in_a_folder():
    write(a={**{f"{i}.{e}": d for i in range(20) for e, d in (("png", png()), ("txt", "x"))}, "3.txt": b"caf\xe9"})
    assert "3.txt' is not UTF-8" in str(open_source("a").skipped)
    many("b")
    Path("b", os.fsdecode(b"caf\xe9.png")).write_bytes(png())
    assert "caf\\udce9.png: no caption: the name is not UTF-8" in str(open_source("b").skipped)


@row("folder", "no picture; more unusable ones than `max_skipped`")
def test_folders_that_are_refused():
    write(a={"notes.md": "x"}, b=["IMG_1.png", "IMG_2.png"])
    with pytest.raises(UserError, match="no images in it"):
        open_source("a")
    with pytest.raises(UserError, match="2 of the 2 records"):
        open_source("b")


@row("folder", "a table of another name, or archives, and no captions")
def test_folders_that_hold_something_else():
    write(a={"IMG_1.png": png(), "shop.csv": "image,caption\nIMG_1.png,x"}, b={"p.zip": b"x"})
    write(c={"data/0.parquet": b"x", "data/1.parquet": b"x"}, e={"red_car.png": png(), "shop.csv": "x"})
    for folder, words in (
        ("a", r"no captions beside its images; it holds a table.*a/shop\.csv"),
        ("b", r"no images in it; it holds an archive: unpack it: b/p\.zip"),
        ("c", r"c/data/0\.parquet and 1 more"),
    ):
        with pytest.raises(UserError, match=words):
            open_source(folder)
    assert "names of the files are taken for captions; it holds a table" in open_source("e").remark


@row("table", "columns under usual names; pictures under another name")
def test_columns_that_are_guessed():
    write(d={"a.csv": "file_name,title\na.png,x", "b.csv": "bild,caption\na.png,x"})
    for name in "ab":
        assert open_source(f"d/{name}.csv")[0] == {"image": "d/a.png", "text": ["x"]}


@row("table", "semicolons; a comma too many at the end of rows; a TSV text that begins with a quote")
def test_odd_separators():
    write(d={"a.csv": "image;caption\na.png;x, y", "b.csv": "image,caption\na.png,x,\nb.png,y,"})
    write(d={"c.tsv": 'image\tcaption\na.png\t"x" y'})
    assert [open_source(f"d/{n}").texts() for n in ("a.csv", "b.csv", "c.tsv")] == [["x, y"], ["x", "y"], ['"x" y']]


@row("table", "no header, but a picture and its caption in two columns; two columns of one name for captions")
def test_headers():
    write(d={"a.csv": "a.png,x\nb.png,y", "b.csv": "image,caption,caption\na.png,x,y", "c.csv": "a.png,x,3\nb.png,y,4"})
    assert open_source("d/a.csv").texts() == open_source("d/b.csv").texts() == ["x", "y"]
    assert Path(open_source("d/a.csv")[0]["image"]) == Path("d/a.png")
    with pytest.raises(UserError, match="line 1 holds a picture and no names of columns"):
        open_source("d/c.csv")
    write(d={"d.csv": "image,image,caption\na.png,b.png,x"})
    with pytest.raises(UserError, match="two columns are called 'image'"):
        open_source("d/d.csv")


@row("table", "quotes within texts: at their start in CSV, with backslashes")
def test_quotes_within_texts():
    rows = [f"{i}.png,thing {i}".replace(",", ',"' if i in (3, 7) else ",") for i in range(10)]
    write(d={"a.csv": "\n".join(["image,caption", *rows])})
    source = open_source("d/a.csv")
    assert len(source) == 10
    assert source.texts()[3] == '"thing 3'
    write(d={"b.csv": 'image,caption\na.png,"a \\"big\\" car, red"\nb.png,"x"'})
    assert open_source("d/b.csv").texts() == ['a "big" car, red', "x"]
    write(d={"c.csv": 'image,caption\na.png,"the ""big"" car\nand a dog, too"\nb.png,x'})
    assert open_source("d/c.csv").texts() == ['the "big" car\nand a dog, too', "x"]
    write(d={"d.csv": "\n".join(["image,caption", *rows, 'z.png,"a car, red"'])})
    with pytest.raises(UserError, match="line 5 opens a quote that is not closed on it"):
        open_source("d/d.csv")


@row("table", "pictures in a folder beside the table; `file://` addresses; paths with backslashes")
def test_places_of_pictures():
    write(d={"pics/a.png": png(), "pics/red car.png": png()})
    write(d={"a.csv": "image,caption\na.png,x", "b.csv": "image,caption\npics\\a.png,x"})
    write(d={"c.csv": f"image,caption\nfile://{Path('d/pics/red%20car.png').absolute()},x"})
    write(d={"d.csv": "bild,caption\n,x\npics/a.png,y"})  # whose first cell is blank
    for name, place in (("a", 0), ("b", 0), ("c", 0), ("d", 1)):
        assert Path(open_source(f"d/{name}.csv")[place]["image"]).is_file(), name
    assert unusable(open_source("d/d.csv")).startswith("1 skipped:\n  d.csv, record 0: image: there is none")


@row("table", "`.json` with a list of rows")
def test_json_of_rows():
    write(d={"a.json": json.dumps([{"image": "a.png", "caption": "x"}, {"image": "b.png", "caption": "y"}])})
    assert open_source("d/a.json").texts() == ["x", "y"]


@row("table", "captions inside objects (`text=caption.en`) and lists")
def test_captions_inside():
    write(d={"a.jsonl": json.dumps({"image": "a.png", "caption": {"en": ["x", "y"], "fr": "z"}})})
    write(d={"b.jsonl": json.dumps({"image": "a.png", "caption": [["x"], ["y"]]})})
    assert open_source("d/a.jsonl", text="caption.en").texts() == open_source("d/b.jsonl").texts() == ["x", "y"]


@row("table", "`007`, `null`; a blank, `nan` or `null` in `group`")
def test_cells_as_they_are_written():
    write(
        d={"a.csv": "image,caption,group\na.png,007,4\nb.png,null,\nc.png,x,\nd.png,x,nan\ne.png,x,nan\nf.png,x,None"}
    )
    source = open_source("d/a.csv")
    assert source.texts()[:3] == ["007", "null", "x"]
    groups = Groups(source)
    numbers = [groups(record, place, place) for place, record in enumerate(source)]
    assert numbers[0] == 4
    assert len(set(numbers)) == 6


@row("table", "a row whose picture is not there, or whose caption is blank or an unseen letter; an address among paths")
def test_rows_that_cannot_be_used():
    write(d={f"{i}.png": png(i) for i in range(3)})
    write(d={"a.csv": "image,caption\n0.png,x\ngone.png,x\n1.png,\nhttps://example.org/a.png,x\n2.png,x\n2.png,\u200b"})
    said = unusable(open_source("d/a.csv"))
    assert said.startswith("4 skipped")
    for words in ("gone.png", "no caption", "https://example.org/a.png"):
        assert words in said


@row("table", "an object without a named field; a column that is not there")
def test_columns_that_are_refused():
    write(d={"a.jsonl": json.dumps({"image": "a.png", "caption": {"en": "x"}}), "b.csv": "image,caption\na.png,x"})
    with pytest.raises(UserError, match=r"text=caption\.en"):
        open_source("d/a.jsonl")
    with pytest.raises(UserError, match="no column 'titel'"):
        open_source("d/b.csv", text="titel")


@row("table", "a row longer than the header; text that is not UTF-8; a broken line")
def test_lines_that_are_refused():
    write(d={"a.csv": "image,caption\na.png,x,y", "b.csv": b"image,caption\na.png,caf\xe9"})
    write(d={"c.jsonl": '{"image": "a.png", "caption": "x"}\n{"image": '})
    for name in ("a.csv", "b.csv", "c.jsonl"):
        with pytest.raises(UserError, match="line 2"):
            open_source(f"d/{name}")


@row("table", "addresses for pictures; no rows")
def test_tables_that_are_refused():
    write(d={"a.csv": "image,caption\nhttps://example.org/a.png,x", "b.csv": "image,caption\n"})
    with pytest.raises(UserError, match="Download them first"):
        open_source("d/a.csv")
    with pytest.raises(UserError, match="no rows"):
        open_source("d/b.csv")


@row("table", "spreadsheets, also under the name of a CSV file; compressed files; `'*.csv'`")
def test_files_that_are_no_tables():
    write(d={"a.xlsx": b"PK\x03\x04", "b.csv": b"PK\x03\x04", "c.csv.gz": b"x", "e.csv": "x"})
    for name, words in (
        ("a.xlsx", "spreadsheet: save it as .csv"),
        ("b.csv", "spreadsheet or an archive: save it as CSV"),
        ("c.csv.gz", "archive: unpack it first"),
        ("*.csv", "one by one, several joined by"),
    ):
        with pytest.raises(UserError, match=words):
            open_source(f"d/{name}")


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
        r"^\| (folder|table|shards|dataset|captions|VQA|text|joined|any) \| (.*) \| .* \|$", part, re.MULTILINE
    )
    assert rows == list(ROWS)
