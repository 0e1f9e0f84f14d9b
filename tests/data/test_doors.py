"""Odd data that people really have: read right, or refused with the line and the remedy."""

import json

import pytest

from nearfar.data import concat, open_source, table
from nearfar.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def jsonl(folder, *captions):
    rows = [{"image": f"{i}.png", "caption": caption} for i, caption in enumerate(captions)]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "t.jsonl"


@pytest.mark.parametrize(
    ("caption", "text", "right"),
    [
        ({"en": "a cat", "fr": "un chat"}, "caption.fr", ["un chat"]),
        ([{"raw": "one", "n": 1}, {"raw": "two", "n": 2}], "caption.raw", ["one", "two"]),
        ([["one", "two"], ["three"]], None, ["one", "two", "three"]),
        ({"en": ["one", "two"], "fr": []}, "caption.en", ["one", "two"]),
        ({"said": {"en": "deep"}}, "caption.said.en", ["deep"]),
    ],
)
def test_captions_inside_objects_and_lists(tmp_path, caption, text, right):
    source = table(jsonl(tmp_path, caption, caption), text=text)
    assert source[1]["text"] == right
    assert source.texts() == right * 2


@pytest.mark.parametrize("caption", [{"en": "a cat", "fr": "un chat"}, [{"en": "one"}, {"en": "two"}]])
def test_an_object_is_never_a_caption_by_its_keys(tmp_path, caption):
    with pytest.raises(UserError, match=r"'caption'.*fields en.*text=caption\.en"):
        table(jsonl(tmp_path, caption))


@pytest.mark.parametrize(
    ("name", "content", "right"),
    [
        ("t.csv", "image,caption\na.png,x,\nb.png,y,\n", ["x", "y"]),
        ("t.csv", "image;caption\na.png;x, y\nb.png;z\n", ["x, y", "z"]),
        ("t.csv", "image\tcaption\na.png\tx\nb.png\ty\n", ["x", "y"]),
        ("t.tsv", 'image\tcaption\na.png\t"Hello" she said\nb.png\t"no\nc.png\tz\n', ['"Hello" she said', '"no', "z"]),
        ("t.tsv", 'image\tcaption\na.png\t"one\ttwo"\nb.png\t"say ""hi"""\n', ["one\ttwo", 'say "hi"']),
    ],
)
def test_rows_that_can_be_told_are_read(tmp_path, name, content, right):
    (tmp_path / name).write_text(content)
    source = table(tmp_path / name)
    assert source.texts() == right
    assert source[0]["image"].endswith("a.png")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("image,caption\na.png,x,more\nb.png,y,more\n", r"t\.csv: line 2 has 3 fields, and the header 2.*in quotes"),
        ("image,caption\na.png,x\nb.png,y,more\n", r"line 3 has 3 fields"),
        ('image,caption\na.png,"x\ny"\nb.png,y,more\n', r"line 4 has 3 fields"),
        ("image,caption\nhttps://example.org/a.png,x\n", r"'image' holds addresses.*[Dd]ownload.*image=COLUMN"),
    ],
)
def test_rows_that_cannot_be_told_name_their_line_and_the_remedy(tmp_path, content, why):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(UserError, match=why):
        table(tmp_path / "t.csv")


@pytest.mark.parametrize("column", ["photo", "bild", "where"])
def test_pictures_under_another_name_are_not_left_out(tmp_path, column):
    (tmp_path / "t.csv").write_text(f"{column},caption\na.png,x\n")
    assert table(tmp_path / "t.csv")[0]["image"] == str(tmp_path / "a.png")


def test_open_a_dataset_of_the_datasets_library():
    import datasets

    rows = datasets.Dataset.from_dict({"image": ["a.png"], "text": ["a cat"]})
    assert open_source(rows)[0] == {"image": "a.png", "text": ["a cat"]}
    assert open_source(rows, text="image")[0]["text"] == ["a.png"]
    with pytest.raises(UserError, match="no option 'colour'"):
        open_source(rows, colour=1)
    assert len(open_source(datasets.DatasetDict(train=rows, test=rows), split="test")) == 1
    assert next(iter(open_source(rows.to_iterable_dataset())))["text"] == ["a cat"]


def test_joined_sources_are_one_word(tmp_path):
    (tmp_path / "t.csv").write_text("image,caption\na.png,x\n")
    joined = open_source(f"world/clipart + {tmp_path / 't.csv'}")
    apart = concat(open_source("world/clipart"), open_source(tmp_path / "t.csv"))
    assert len(joined) == len(apart)
    assert joined[len(joined) - 1]["text"] == ["x"]


def test_an_address_is_one_message_with_its_remedy():
    with pytest.raises(UserError, match=r"an address.*download it first"):
        open_source("https://example.org/pairs.csv")
