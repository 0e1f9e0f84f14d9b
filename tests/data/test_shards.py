"""Shards as people pack them: nothing of a tar file vanishes uncounted, and no picture gets another's caption."""

import io
import json
import tarfile

import pytest
from PIL import Image

from nearfar import cli
from nearfar.data import Loader, load_image, shards, train_tokenizer
from nearfar.data.batches.held_out_stream import hold_out_of_stream
from nearfar.errors import UserError


def png(shade=0):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def pack(path, *members, links=()):
    """A tar file; a member is a name, or a name and its bytes. What is not named otherwise is a picture of its own
    shade, or a text that says the member's name."""
    with tarfile.open(path, "w") as shard:
        for number, member in enumerate(members):
            name, data = member if isinstance(member, tuple) else (member, None)
            if data is None:
                data = png(number) if name.lower().endswith((".jpg", ".jpeg", ".png", ".webp")) else name.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))
        for name in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "elsewhere.jpg"
            shard.addfile(info)
    return path


def pairs(count=20):
    return [name for i in range(count) for name in (f"k{i:02d}.jpg", f"k{i:02d}.txt")]


def opened(path, **options):
    """The picture's name and the captions of each record, of a source and of a stream, which must agree, and what was
    skipped."""
    source, stream = shards(path, max_skipped=1, **options), shards(path, streaming=True, **options)
    records = [[(r["image"].name.partition(".tar/")[2], r["text"]) for r in each] for each in (source, stream)]
    assert records[0] == records[1]
    assert sorted(source.skipped) == sorted(stream.skipped)
    return records[0], {p.where.rpartition(f"{path.parent}/")[2]: p.why for p in source.skipped}


@pytest.mark.parametrize(
    ("members", "right"),
    [
        (["img_1.1.jpg", "img_1.1.txt", "img_1.2.jpg", "img_1.2.txt"], ["img_1.1", "img_1.2"]),
        (["photo.jpg", "photo.txt", "photo.v2.jpg", "photo.v2.txt"], ["photo", "photo.v2"]),
        (["3.5mm Jack.JPG", "3.5mm Jack.TXT"], ["3.5mm Jack"]),
        (["a.b/x.jpg", "a.b/x.txt", "a.b/y.z.jpg", "a.b/y.z.txt"], ["a.b/x", "a.b/y.z"]),
        (["000.jpg", "000.seg.png", "000.txt", "001.jpg", "001.seg.png", "001.txt"], ["000", "001"]),
    ],
)
def test_dots_in_names(tmp_path, members, right):
    records, skipped = opened(pack(tmp_path / "s.tar", *members))
    assert [name.rpartition(".")[0] for name, _ in records] == right
    assert [text[0].rpartition(".")[0] for _, text in records] == right
    assert not skipped


def test_endings_with_dots_that_are_named(tmp_path):
    pack(tmp_path / "s.tar", "000.left.jpg", "000.right.jpg", "000.en.txt", "000.fr.txt")
    records, skipped = opened(tmp_path / "s.tar", image="right.jpg", text="fr.txt")
    assert (records, skipped) == ([("000.right.jpg", ["000.fr.txt"])], {})


def test_members_that_are_not_adjacent(tmp_path):
    pack(tmp_path / "s.tar", "a.jpg", "b.jpg", "c.jpg", "b.txt", "c.txt", "a.txt")
    records, skipped = opened(tmp_path / "s.tar")
    assert records == [("a.jpg", ["a.txt"]), ("b.jpg", ["b.txt"]), ("c.jpg", ["c.txt"])]
    assert not skipped


def test_equal_keys_of_two_tars_are_two_samples(tmp_path):
    for name in ("s", "t"):
        pack(tmp_path / f"{name}.tar", ("000.jpg", png(ord(name))), ("000.txt", name.encode()))
    source = shards(tmp_path)
    assert [(r["key"], r["text"], load_image(r["image"]).getpixel((0, 0))[0]) for r in source] == [
        ("000", ["s"], ord("s")),
        ("000", ["t"], ord("t")),
    ]
    assert list(source.ids()) == [0, 1]


def test_equal_keys_of_one_tar_are_two_samples_where_it_is_clear_what_belongs_together(tmp_path):
    first, again = [("a.jpg", png(1)), ("a.txt", b"one")], [("a.jpg", png(2)), ("a.txt", b"two")]
    for members in ([*first, *again], [*first, "b.jpg", "b.txt", *again]):
        source = shards(pack(tmp_path / "s.tar", *members))
        texts = [(r["text"][0], load_image(r["image"]).getpixel((0, 0))[0]) for r in source if r["key"] == "a"]
        assert texts == [("one", 1), ("two", 2)]
        assert not source.skipped


@pytest.mark.parametrize(
    "members",
    [
        ["a.jpg", "b.jpg", "a.jpg", "a.txt", "b.txt", "a.txt"],
        ["a.jpg", "a.JPG", "a.txt"],
        ["a.jpg", "a.txt", "a.jpg"],
    ],
)
def test_equal_keys_are_counted_where_it_is_not_clear(tmp_path, members):
    pack(tmp_path / "s.tar", *pairs(), *members)
    source = shards(tmp_path / "s.tar")
    assert "a" not in [record["key"] for record in source]
    assert source.skipped.count == 2
    assert f"{tmp_path}/s.tar/a: the key is there twice, and which files belong together is unclear" in str(
        source.skipped
    )


def test_a_caption_without_a_picture_is_counted_with_tar_and_key(tmp_path):
    records, skipped = opened(pack(tmp_path / "s.tar", *pairs(), "x/alone.txt", "readme.md"))
    assert len(records) == 20
    assert skipped == {
        "s.tar/x/alone": "no picture: its files end in txt; image=ENDING names another",
        "s.tar/readme": "no picture: its files end in md; image=ENDING names another",
    }


def test_a_picture_without_a_caption_is_counted_in_training_with_tar_and_key(tmp_path, capsys):
    pack(tmp_path / "s.tar", *pairs(), "bare.jpg", ("blank.jpg", png(99)), ("blank.txt", b" \n"))
    run = ["batch_size=4", "steps=10", "model.preset=tiny", "report=false", "progress=false"]
    cli.main(["train", "clip", f"data.train={tmp_path / 's.tar'}", *run, "--out", str(tmp_path / "run")])
    listed = (tmp_path / "run" / "skipped.txt").read_text()
    assert listed.startswith("2 skipped:\n")
    for key in ("bare", "blank"):
        assert f"({tmp_path}/s.tar/{key}.jpg): no caption" in listed


def test_pictures_that_nobody_captions_are_a_source_of_pictures(tmp_path):
    records, skipped = opened(pack(tmp_path / "s.tar", "a.jpg", "b.jpg"))
    assert (records, skipped) == ([("a.jpg", []), ("b.jpg", [])], {})


def test_texts_without_any_picture_are_a_source_of_texts(tmp_path):
    source = shards(pack(tmp_path / "s.tar", "a.txt", ("b.json", b'{"caption": "b", "image": "/etc/hostname"}')))
    assert [record["text"] for record in source] == [["a.txt"], ["b"]]
    assert not any("image" in record for record in source)
    with pytest.raises(UserError, match="no samples in these shards"):
        shards(pack(tmp_path / "t.tar", "a.mp3", "b.mp3"))


def test_empty_members_are_counted(tmp_path):
    pack(tmp_path / "s.tar", *pairs(), ("nothing.jpg", b""), "nothing.txt", "mute.jpg", ("mute.txt", b""))
    source = shards(tmp_path / "s.tar")
    tokenizer = train_tokenizer(source.texts(), 300)
    loader = Loader(source, batch_size=22, image_size=8, tokenizer=tokenizer, shuffle=False)
    assert len(next(iter(loader))["index"]) == 20
    why = {problem.where.partition("s.tar/")[2]: problem.why for problem in loader.skipped}
    assert "empty" in why["nothing.jpg)"]
    assert "no caption" in why["mute.jpg)"]


def test_several_pictures_of_one_key(tmp_path):
    pack(tmp_path / "s.tar", *pairs(), "z.png", "z.webp", "z.jpeg", "z.txt")
    records, skipped = opened(tmp_path / "s.tar")
    assert records[-1] == ("z.jpeg", ["z.txt"])
    assert skipped.keys() == {"s.tar/z.png", "s.tar/z.webp"}
    assert "z.jpeg, is read: image=webp takes this one" in skipped["s.tar/z.webp"]
    assert opened(tmp_path / "s.tar", image="webp")[0] == [("z.webp", ["z.txt"])]
    pack(tmp_path / "all.tar", *(f"{i}.{ending}" for i in range(9) for ending in ("jpg", "png", "txt")))
    with pytest.raises(UserError, match="image=png takes this one"):
        shards(tmp_path / "all.tar")


def test_endings_in_upper_case(tmp_path):
    records, _ = opened(pack(tmp_path / "s.tar", "a.JPG", "a.Txt", "b.JPEG", "b.TXT"))
    assert records == [("a.JPG", ["a.Txt"]), ("b.JPEG", ["b.TXT"])]
    assert opened(tmp_path / "s.tar", image="JPG")[0] == [("a.JPG", ["a.Txt"])]


def test_files_that_belong_to_no_sample(tmp_path):
    hidden = ["._k01.jpg", ".DS_Store", "__shard__", "__info__.json", "x/.y/._a.txt"]
    records, skipped = opened(pack(tmp_path / "s.tar", *pairs(), *hidden, "LICENSE", links=["link.jpg"]))
    assert len(records) == 20
    assert skipped == {
        "s.tar/LICENSE": "a name without an ending belongs to no sample",
        "s.tar/link.jpg": "not a file but a link, which is not followed in a shard",
    }


def test_the_same_name_in_two_folders_of_a_tar(tmp_path):
    records, skipped = opened(pack(tmp_path / "s.tar", "x/1.jpg", "y/1.jpg", "x/1.txt", "y/1.txt"))
    assert records == [("x/1.jpg", ["x/1.txt"]), ("y/1.jpg", ["y/1.txt"])]
    assert not skipped
    pack(tmp_path / "t.tar", *(f"{f}/{i}.{e}" for f, e in (("pictures", "jpg"), ("texts", "txt")) for i in range(20)))
    with pytest.raises(UserError, match=r"20 of the 40 (.|\n)*t\.tar/texts/0: no picture"):
        shards(tmp_path / "t.tar")


@pytest.mark.parametrize("name", ["__key__", "key", "index", "group", "text"])
def test_notes_that_use_our_own_names(tmp_path, name):
    notes = json.dumps({name: "mine", "caption": "a cat"}).encode()
    record = shards(pack(tmp_path / "s.tar", "a.jpg", ("a.json", notes)))[0]
    assert record["key"] == ("mine" if name == "key" else "a")
    assert record["text"] == (["mine"] if name == "text" else ["a cat"])
    assert not {"index", "group"} & record.keys()


@pytest.mark.parametrize(
    ("caption", "field"), [({"en": "a cat", "fr": "un chat"}, "en"), ([{"raw": "a cat", "id": 3}], "raw")]
)
def test_an_object_for_a_caption_names_its_sample_and_the_remedy(tmp_path, caption, field):
    path = pack(tmp_path / "s.tar", "a.png", ("a.json", json.dumps({"caption": caption}).encode()))
    with pytest.raises(UserError, match=rf"s: a\.json, 'caption': its text is an object .* text=caption\.{field}"):
        shards(path)
    assert shards(path, text=f"caption.{field}")[0]["text"] == ["a cat"]


@pytest.mark.parametrize("rank", [0, 1])
def test_what_a_stream_lists_is_judged_over_what_it_lists(tmp_path, rank):
    """A shard's captions without a picture are all met before the first batch of its rows is."""
    for number in range(2):
        pack(tmp_path / f"{number}.tar", *pairs(300), *(f"bare{i}.txt" for i in range(24)))
    options = {"batch_size": 8, "image_size": 8, "tokenizer": train_tokenizer(["a"], 300), "rank": rank}
    options |= {"world_size": 2, "shuffle": False, "block": 32}

    def streamed():
        return shards(tmp_path, streaming=True)

    def broken(loader):
        with pytest.raises(UserError, match=r"(24 of the 324|48 of the 648) records read could not be used"):
            next(iter(loader))

    made = Loader(streamed(), max_skipped=0.08, **options)
    whole = [batch["index"].tolist() for batch in made]
    assert (len(whole), made.skipped.count, made.source.skipped.usable) == (37, 48, 600)
    assert [batch["index"].tolist() for batch in made] == whole, "the next epoch lists nothing more"
    assert made.source.skipped.usable == 600
    broken(Loader(streamed(), max_skipped=0.07, **options))
    part = Loader(streamed(), max_skipped=0.08, **options)
    taken = iter(part)
    for _ in range(5):
        next(taken)
    again = Loader(streamed(), max_skipped=0.08, **options)
    again.load_state_dict(part.state_dict())
    assert [batch["index"].tolist() for batch in again] == whole[5:]
    again = Loader(streamed(), max_skipped=0.07, **options)
    again.load_state_dict(part.state_dict())
    broken(again)
    for share, judge in ((0.08, lambda loader: next(iter(loader))), (0.07, broken)):
        rest, _ = hold_out_of_stream(streamed(), 0.1, most=10)
        judge(Loader(rest, max_skipped=share, **options))


def test_pictures_that_a_stream_gives_and_nobody_can_read_are_judged_over_rows_read(tmp_path):
    pack(tmp_path / "0.tar", *((f"k{i:03}.png", b"no picture") if i % 4 == 0 else f"k{i:03}.png" for i in range(400)))
    stream = shards(tmp_path, streaming=True, text=())
    with pytest.raises(UserError, match=r"22 of the 88 records read could not be used"):
        list(Loader(stream, batch_size=8, image_size=8, shuffle=False, max_skipped=0.2))
