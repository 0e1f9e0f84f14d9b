"""Odd data that people really have: read right, or refused with the line and the remedy."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from nearfar import cli
from nearfar.data import concat, folder, open_source, table, train_tokenizer
from nearfar.errors import UserError
from nearfar.models import create


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that was never trained, on disk."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["a cat", "a dog"], 300)
    create("tiny", tokenizer=tokenizer, image_size=32, embed_dim=8).save_pretrained(folder)
    return str(folder)


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


@pytest.mark.parametrize(
    ("caption", "text", "why"),
    [
        ({"en": "a cat"}, "caption.de", r"t\.jsonl: 'caption' has no field 'de'; its fields are: en"),
        ([{"raw": "a cat"}], "caption.row", r"'caption' has no field 'row'; its fields are: raw Did you mean 'raw'"),
        ({"said": {"en": "a cat"}}, "caption.said.de", r"'caption\.said' has no field 'de'"),
        ("a cat", "caption.en", r"'caption' is no object that could have the field 'en': text=caption$"),
    ],
)
def test_a_field_that_no_caption_has_is_refused(tmp_path, caption, text, why):
    with pytest.raises(UserError, match=why):
        table(jsonl(tmp_path, caption, caption), text=text)


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


@pytest.mark.parametrize("name", ["train.target.csv", "runs.target/pairs.csv", "runs.tar/pairs.csv", "pairs.tar.csv"])
def test_names_that_only_look_like_shards(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("text,text2\na cat,a tabby\n")
    assert open_source(tmp_path / name)[0]["text"] == ["a cat"]


def test_an_address_is_one_message_with_its_remedy():
    with pytest.raises(UserError, match=r"an address.*download it first"):
        open_source("https://example.org/pairs.csv")


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (
            "t.jsonl",
            '{"text": "a"}\n{"text": }\n',
            r"JSONL: line 2 is no JSON from character 10 on: mend it there$",
        ),
        ("t.jsonl", '{"text": "a"}\n[1]\n', r"line 2 is not an object"),
        (
            "t.json",
            '{"questions": [}',
            r"t\.json is not JSON: it is no JSON from line 1, character 16 on: mend it there$",
        ),
        ("t.parquet", "no parquet", r"cannot be read as PARQUET: it is no whole Parquet file: write or copy it anew$"),
    ],
)
def test_what_a_parser_says_is_said_in_words(tmp_path, name, content, why):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=why):
        open_source(tmp_path / name)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (
            ["search", "--image", "https://example.org/a.png", "--index", "index"],
            "https://example.org/a.png: an address",
        ),
        (["index", "https://example.org/model", "t.csv"], "an address, not a model here: name it as OWNER/NAME"),
        (["adapt", "https://example.org/a/"], "an address, not a file or folder here: download it first"),
        (
            ["index", "MODEL", "t.csv", "--out", "other"],
            "record 1: https://example.org/0.png is an address, not a file",
        ),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_an_address_is_the_same_message_at_every_door(tmp_path, monkeypatch, model, words, why):
    monkeypatch.chdir(tmp_path)
    files(tmp_path, "a.png")
    (tmp_path / "t.csv").write_text(
        "image,caption\na.png,x\n" + "".join(f"https://example.org/{i}.png,y\n" for i in range(9))
    )
    (tmp_path / "own.csv").write_text("image,caption\na.png,x\n")
    cli.main(["index", model, "own.csv"])
    with pytest.raises(SystemExit, match=why):
        cli.main([word.replace("MODEL", model) for word in words])


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def files(root, *names, **texts):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png())
    for name, text in texts.items():
        (root / name).write_text(text)
    return root


def test_the_layout_of_flickr8k_on_kaggle(tmp_path):
    files(tmp_path, *(f"Images/{i}.jpg" for i in range(3)))
    (tmp_path / "captions.txt").write_text("image,caption\n0.jpg,one\n0.jpg,two\n1.jpg,three\n")
    source = folder(tmp_path)
    assert source.texts() == ["one", "two", "three"]
    assert source[2]["image"] == str(tmp_path / "Images" / "1.jpg")
    assert [(Path(p.where).name, p.why) for p in source.skipped] == [
        ("2.jpg", "no caption: 'captions.txt' does not name it")
    ]


def test_metadata_in_folders_of_the_folder(tmp_path):
    files(tmp_path, "train/a.png", "test/b.png")
    for split, name in (("train", "a"), ("test", "b")):
        row = {"file_name": f"{name}.png", "text": f"picture {name}"}
        (tmp_path / split / "metadata.jsonl").write_text(json.dumps(row))
    assert sorted(folder(tmp_path).texts()) == ["picture a", "picture b"]
    assert folder(tmp_path, split="train").texts() == ["picture a"]


def test_captions_named_after_the_whole_picture(tmp_path):
    files(tmp_path, "a.png", "b.png")
    (tmp_path / "a.png.txt").write_text("one")
    (tmp_path / "b.png.txt").write_text("two")
    assert folder(tmp_path).texts() == ["one", "two"]


def test_pictures_of_kinds_that_are_not_read_are_counted(tmp_path):
    files(tmp_path, *(f"red_{c}.png" for c in "abcdefghijklmnopqrst"), "phone.heic")
    source = folder(tmp_path)
    assert len(source) == 20
    assert source.skipped.count == 1
    assert ".heic pictures are not read: convert it" in str(source.skipped)
    with pytest.raises(UserError, match=r"only \.heic files"):
        folder(files(tmp_path / "only", "x.heic"))


def test_folders_of_one_name_in_different_ones_are_different_classes(tmp_path):
    files(tmp_path, "dog/indoor/1.png", "car/indoor/1.png", "car/outdoor/1.png")
    source = folder(tmp_path)
    assert source.classes == ["car/indoor", "car/outdoor", "dog/indoor"]
    assert source.texts() == ["car indoor", "car outdoor", "dog indoor"]


def test_pictures_beside_class_folders_have_no_class(tmp_path):
    files(tmp_path, *(f"{c}/{i}.png" for c in ("cat", "dog") for i in range(10)), "stray.png")
    source = folder(tmp_path)
    assert (len(source), source.classes) == (20, ["cat", "dog"])
    assert "stray.png: it lies beside the class folders" in str(source.skipped)


def test_names_of_a_camera_are_no_captions(tmp_path, capsys):
    files(tmp_path, *(f"red_{c}.png" for c in "abcdefghijklmnopqrst"), "IMG_0001.png")
    source = folder(tmp_path)
    assert len(source) == 20
    assert "'IMG_0001.png' says nothing" in str(source.skipped)
    run = ["batch_size=4", "steps=1", "model.preset=tiny", "report=false", "progress=false"]
    cli.main(["train", "clip", f"data.train={tmp_path}", f"data.validation={tmp_path}", *run, f"--out={tmp_path}/run"])
    assert capsys.readouterr().err.count("names of the files are taken for captions") == 1
    with pytest.raises(UserError, match="says nothing of the picture"):
        folder(files(tmp_path / "b", "IMG_0001.png", "IMG_0002.png", "DSC-17.png"))
    alone = folder(tmp_path / "b", captions="none")
    assert (len(alone), alone.columns, alone.skipped.count) == (3, ["image"], 0)
