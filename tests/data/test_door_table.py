"""Each row of the table in `docs/data.md` of what is read, skipped and refused, in its order: folders and tables."""

import json
import os
from pathlib import Path

import datasets
import pytest

from data.door_rows import many, png, row, unusable, write
from nearfar.data import open_source
from nearfar.data.sources.record_groups import Groups
from nearfar.errors import UserError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


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


@row("table", "a column whose cells change their form after thousands of rows")
def test_columns_that_change():
    rows = ["x,7,7", *["x,8,9"] * 10_000, "x,7.5,seven"]
    write(d={"a.csv": "\n".join(["caption,price,size", *rows])})
    source = open_source("d/a.csv")
    assert [source[0]["price"], source[10_001]["price"]] == [7.0, 7.5]
    assert [source[0]["size"], source[10_001]["size"]] == ["7", "seven"]


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
