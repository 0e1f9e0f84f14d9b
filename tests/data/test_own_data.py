"""A user's own data, good and bad: folders, tables, shards and datasets."""

import io
import json
import tarfile

import pytest
from PIL import Image

from nearfar.data import folder, hub, open_source, shards, table
from nearfar.data.pictures.images import BadImage, load_image
from nearfar.data.sources.source import Stream
from nearfar.errors import UserError


def png(colour="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


# Folders


def test_folder_with_captions_beside_the_images(tmp_path):
    files = {f"{n}.png": png() for n in range(40)} | {f"{n}.txt": f"picture {n}\n\n a red {n} \n" for n in range(40)}
    files |= {
        "a.PNG": png(),
        "a.txt": "upper",
        "empty.png": b"",
        "empty.txt": "x",
        "blank.png": png(),
        "blank.txt": "\n",
    }
    files |= {"none.png": png(), ".hidden.png": png(), "notes.md": "no image"}
    source = folder(write(tmp_path, files))
    assert len(source) == 41
    assert source[0] == {"image": str(tmp_path / "0.png"), "text": ["picture 0", "a red 0"]}
    why = {p.where.rsplit("/", 1)[1]: p.why for p in source.skipped}
    assert why.keys() == {"empty.png", "blank.png", "none.png"}
    assert "there is no 'none.txt'" in why["none.png"]
    with pytest.raises(UserError, match=r"3 of the 44 .* 5%"):
        folder(tmp_path, max_skipped=0.05)


def test_folders_as_classes_and_splits(tmp_path):
    write(tmp_path, {f"{split}/{name}/1.png": png() for split in ("train", "test") for name in ("polar_bear", "ant")})
    source = folder(tmp_path, split="test")
    assert source.classes == ["ant", "polar_bear"]
    assert [(r["text"], r["label"]) for r in source] == [(["ant"], 0), (["polar bear"], 1)]
    assert len(folder(tmp_path)) == 4
    with pytest.raises(UserError, match="the folders there are: test, train"):
        folder(tmp_path, split="valid")


def test_names_as_captions(tmp_path):
    assert folder(write(tmp_path, {"red_panda-cub.png": png()}))[0]["text"] == ["red panda cub"]


def test_a_folder_with_a_table_of_its_images(tmp_path):
    write(tmp_path, {"x/a.png": png(), "metadata.csv": "file_name,text\nx/a.png,a panda\n"})
    assert folder(tmp_path)[0]["text"] == ["a panda"]
    assert load_image(folder(tmp_path)[0]["image"]).size == (8, 8)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(UserError, match="no images in it"):
        folder(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        folder(tmp_path / "nowhere")


# Tables


def test_csv(tmp_path):
    rows = 'file_name,Caption,class\nimg/a.png,"red, mostly",zebra\nimg/b.png,null,ant\nimg/c.png,,zebra\n'
    write(tmp_path, {"pairs.csv": rows, "img/a.png": png()})
    source = table(tmp_path / "pairs.csv")
    assert source.columns == ["image", "text", "label"]
    assert source.classes == ["ant", "zebra"]
    assert [r["text"] for r in source] == [["red, mostly"], ["null"], []]
    assert source.column("label") == [1, 0, 1]
    assert source.texts() == ["red, mostly", "null"]
    assert load_image(source[0]["image"]).size == (8, 8)


def test_tsv_with_named_columns_and_several_captions(tmp_path):
    write(tmp_path, {"t.tsv": "where\tshort\tlong\ttext\n/abs/a.png\tcat\ta grey cat\tother\n"})
    source = table(tmp_path / "t.tsv", image="where", text=["short", "long"])
    assert source[0] == {"image": "/abs/a.png", "text": ["cat", "a grey cat"]}


def test_jsonl_with_lists_and_extra_columns(tmp_path):
    rows = [{"image": "a.png", "captions": ["one", "two"], "licence": "CC0", "group": 7, "style": "ink"}] * 2
    source = table(write(tmp_path, {"t.jsonl": "\n".join(map(json.dumps, rows))}) / "t.jsonl")
    record = source[1]
    assert (record["text"], record["licence"], record["group"], record["domain"]) == (["one", "two"], "CC0", 7, 0)
    assert source.domains == ["ink"]


@pytest.mark.parametrize("as_feature", [False, True])
def test_parquet_with_bytes(tmp_path, as_feature):
    import datasets

    rows = datasets.Dataset.from_dict({"image": [png("blue")], "label": [1], "title": ["sky"]})
    if as_feature:
        rows = datasets.Dataset.from_dict(
            {"image": [{"bytes": png("blue"), "path": None}], "label": [1], "title": ["sky"]},
            features=datasets.Features(
                image=datasets.Image(), label=datasets.ClassLabel(names=["land", "air"]), title=datasets.Value("string")
            ),
        )
    rows.to_parquet(str(tmp_path / "t.parquet"))
    source = table(tmp_path / "t.parquet")
    assert load_image(source[0]["image"]).getpixel((0, 0)) == (0, 0, 255)
    assert (source[0]["label"], source[0]["text"]) == (1, ["sky"])
    assert source.classes == (["land", "air"] if as_feature else None)


def test_a_class_is_a_caption_where_there_is_no_other(tmp_path):
    source = table(write(tmp_path, {"t.csv": "path,class\na.png,red_fox\n"}) / "t.csv")
    assert source[0]["text"] == ["red fox"]
    assert "text" in source.columns


@pytest.mark.parametrize(
    ("name", "content", "options", "why"),
    [
        ("t.csv", "a,b\n1,2\n", {}, r"which column is the image.*a, b"),
        ("t.csv", "image,text\na.png,x\n", {"text": "caption"}, r"no column 'caption'.*image, text"),
        ("t.csv", "url,text\nhttps://example.org/a.png,x\n", {}, r"addresses.*image=COLUMN"),
        ("t.csv", "image,text\na.png,x\nb.png,y,z\n", {}, r"line 3"),
        ("t.csv", "", {}, r"empty"),
        ("t.jsonl", '{"image": "a.png", "text": "x"}\n{"image": oops\n', {}, r"line 2"),
        ("t.jsonl", '{"image": "a.png", "text": "x"}\n[1, 2]\n', {}, r"line 2"),
        ("t.parquet", "this is no parquet", {}, r"cannot be read as PARQUET"),
        ("t.xlsx", "x", {}, r"must end in"),
        ("t.csv", "image,text,label\na.png,x,0.5\n", {}, r"holds float"),
    ],
)
def test_bad_tables_name_file_and_remedy(tmp_path, name, content, options, why):
    write(tmp_path, {name: content})
    with pytest.raises(UserError, match=why):
        table(tmp_path / name, **options)


def test_missing_table(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        table(tmp_path / "gone.csv")


# Shards


def write_shard(path, samples, *, first=0):
    with tarfile.open(path, "w") as shard:
        for i in range(first, first + samples):
            fields = {"caption": f"from json {i}", "licence": "CC0"} if i % 2 else None
            members = {"png": png(), "cls": str(i).encode()}
            members |= {"json": json.dumps(fields).encode()} if fields else {"txt": f"text {i}\nmore".encode()}
            for ending, data in members.items():
                info = tarfile.TarInfo(f"./x/{i:04d}.{ending}")
                info.size = len(data)
                shard.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("streaming", [False, True])
def test_shards(tmp_path, streaming):
    for s in range(3):
        write_shard(tmp_path / f"s-{s:02d}.tar", 4, first=4 * s)
    for pattern in (tmp_path, str(tmp_path / "s-*.tar"), str(tmp_path / "s-{00..02}.tar")):
        source = shards(pattern, streaming=streaming)
        records = list(source)
        assert [r["label"] for r in records] == list(range(12))
        assert records[4]["text"] == ["text 4", "more"]
        assert (records[5]["text"], records[5]["licence"]) == (["from json 5"], "CC0")
        assert load_image(records[7]["image"]).size == (8, 8)
    if streaming:
        assert [r["label"] for r in source.read(1, 2)] == [6, 7]
    assert not source.skipped


@pytest.mark.parametrize("cut", [0.45, 0.5, 0.55, 0.97])
def test_truncated_shard_gives_what_it_has_and_is_listed(tmp_path, cut):
    write_shard(tmp_path / "a.tar", 20)
    write_shard(tmp_path / "b.tar", 20, first=20)
    whole = (tmp_path / "b.tar").read_bytes().rstrip(b"\0")
    (tmp_path / "b.tar").write_bytes(whole[: int(len(whole) * cut)])
    source = shards(tmp_path, max_skipped=0.5)
    labels = [r["label"] for r in source]
    assert labels == list(range(len(labels)))
    assert 26 <= len(labels) < 40
    assert all(load_image(r["image"]) for r in source)
    assert source.skipped.count == 40 - len(labels)
    assert "b.tar" in str(source.skipped)
    assert "truncated" in str(source.skipped)
    stream = shards(tmp_path, streaming=True)
    assert [r["label"] for r in stream] == labels
    assert [r["label"] for r in stream] == labels
    assert stream.skipped.count == 1
    if len(labels) < 36:
        with pytest.raises(UserError, match="max_skipped"):
            shards(tmp_path)


def test_damaged_shards_are_read_or_refused_and_nothing_else(tmp_path):
    import numpy as np

    rng = np.random.default_rng(0)
    write_shard(tmp_path / "a.tar", 6)
    whole = np.frombuffer((tmp_path / "a.tar").read_bytes(), np.uint8)
    listed = 0
    for _ in range(60):
        damaged = whole.copy()
        for place in rng.integers(0, len(whole), 200):
            damaged[place] = rng.integers(0, 256)
        (tmp_path / "a.tar").write_bytes(damaged.tobytes())
        try:
            source = shards(tmp_path / "a.tar", max_skipped=1)
        except UserError as error:
            listed += "truncated or broken" in str(error)
            continue
        listed += source.skipped.count > 0
        for record in source:
            try:
                load_image(record["image"])
            except BadImage:
                continue
    assert listed > 30


def test_shards_that_are_none(tmp_path):
    write(tmp_path, {"empty.tar": b"", "junk.tar": b"x" * 5000, "packed.tar.gz": b"x"})
    with tarfile.open(tmp_path / "bare.tar", "w"):
        pass
    for name in ("empty", "junk", "bare"):
        for streaming in (False, True):
            with pytest.raises(UserError, match=name):
                shards(tmp_path / f"{name}.tar", streaming=streaming)
    with pytest.raises(UserError, match="no such shards"):
        shards(str(tmp_path / "z-*.tar"))
    with pytest.raises(UserError, match="plain"):
        shards(str(tmp_path / "packed.tar.gz"))


# Datasets


def test_a_saved_dataset(tmp_path):
    import datasets

    rows = datasets.Dataset.from_dict({"image": [png()] * 3, "text": ["a", "b", "c"]})
    datasets.DatasetDict(train=rows, test=rows.select([0])).save_to_disk(tmp_path / "d")
    assert len(hub(tmp_path / "d")) == len(open_source(tmp_path / "d")) == 3
    assert len(open_source(tmp_path / "d", split="test")) == 1
    with pytest.raises(UserError, match="train, test"):
        hub(tmp_path / "d", split="valid")
    stream = open_source(f"hub:{tmp_path / 'd'}", streaming=True)
    assert isinstance(stream, Stream)
    assert [r["text"] for r in stream] == [["a"], ["b"], ["c"]]
    assert [r["text"] for r in stream.read(0, 1)] == [["b"], ["c"]]


def test_labels_of_a_stream_that_are_text(tmp_path):
    import datasets

    datasets.Dataset.from_dict({"text": ["a", "b"], "class": ["cat", "dog"]}).save_to_disk(tmp_path / "d")
    stream = hub(tmp_path / "d", streaming=True)
    assert list(stream) == [{"text": ["a"], "class": "cat"}, {"text": ["b"], "class": "dog"}]
    assert hub(tmp_path / "d").classes == ["cat", "dog"]


def test_a_dataset_that_is_not_there(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot be loaded"):
        hub(str(tmp_path / "nothing" / "here"))


# One word for all


def test_open_source_by_kind(tmp_path):
    write(tmp_path, {"f/a.png": png(), "t.csv": "image,text\nf/a.png,x\n"})
    (tmp_path / "s").mkdir()
    write_shard(tmp_path / "s" / "0.tar", 2)
    assert open_source(tmp_path / "f")[0]["text"] == ["a"]
    assert open_source(str(tmp_path / "t.csv"))[0]["text"] == ["x"]
    assert len(open_source(tmp_path / "s")) == len(open_source(str(tmp_path / "s" / "*.tar"))) == 2
    source = open_source(tmp_path / "f")
    assert open_source(source) is source


@pytest.mark.parametrize(
    ("spec", "options", "why"),
    [
        ("nowhere", {}, r"no such file or folder(.|\n)*world/emoji(.|\n)*hub:NAME"),
        ("world/birds", {}, "no 'birds'"),
        ("t.csv", {"split": "test"}, "no splits"),
        ("t.csv", {"colour": 1}, "no option 'colour'. There are: image"),
    ],
)
def test_open_source_explains(tmp_path, monkeypatch, spec, options, why):
    monkeypatch.chdir(write(tmp_path, {"t.csv": "image,text\n"}))
    with pytest.raises(UserError, match=why):
        open_source(spec, **options)
