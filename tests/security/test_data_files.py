"""Data files are data: a broken part of one is counted and named, and the rest is used."""

import io
import json
import os
import tarfile

import pytest

from nearfar.data import Loader, open_source
from nearfar.data.fields.text import train_tokenizer
from nearfar.errors import UserError
from nearfar.search import build
from search.colours import ColourEncoder, draw, png

DEEP = b'{"caption": ' + b"[" * 100_000


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a red disc"] * 9, 270)


def shard(path, notes, *, odd=None):
    """A tar of samples: a picture and its JSON each; `odd` adds members."""
    with tarfile.open(path, "w") as tar:
        for i, note in enumerate(notes):
            add(tar, f"{i:03}.png", png(draw("red", "disc")))
            add(tar, f"{i:03}.json", note if isinstance(note, bytes) else json.dumps(note).encode())
        if odd is not None:
            odd(tar)
    return path


def add(tar, name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(content) if content else None)


def batches(path, tokenizer, **options):
    loader = Loader(
        open_source(path, max_skipped=0.5),
        batch_size=2,
        image_size=16,
        tokenizer=tokenizer,
        drop_last=False,
        max_skipped=0.5,
        **options,
    )
    return sum(len(batch["image"]) for batch in loader), loader.skipped


@pytest.mark.parametrize("note", [DEEP, b"{", b"\xff", b'{"caption": "' + b"x" * (1 << 24) + b'"}'])
def test_notes_that_cannot_be_read_are_counted_with_shard_and_key(tmp_path, tokenizer, note):
    path = shard(tmp_path / "a.tar", [{"caption": "a red disc"}, note, {"caption": "red"}])
    count, skipped = batches(path, tokenizer, shuffle=False)
    assert (count, skipped.count) == (2, 1)
    assert "a.tar/001.png" in str(skipped)


def test_odd_values_in_notes_stop_nothing(tmp_path, tokenizer):
    odd = [
        {"caption": "a", "group": 10**30},
        {"caption": "a", "weight": float("nan")},
        {"caption": "a", "weight": float("inf"), "index": -(10**40)},
        {"caption": "half a pair \ud800"},
        {"caption": {"nested": [1]}},  # an object, printed, was a caption once; now it is counted
    ]
    count, skipped = batches(shard(tmp_path / "a.tar", odd), tokenizer, shuffle=False)
    assert (count, skipped.count) == (4, 1)
    assert "004.png): its text is an object" in str(skipped)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_shard_are_passed_by(tmp_path, tokenizer, kind):
    def odd(tar):
        add(tar, "777.png", type=kind, linkname="/etc/hostname")
        add(tar, "777.txt", b"a red disc")

    path = shard(tmp_path / "a.tar", [{"caption": "a red disc"}] * 3, odd=odd)
    count, skipped = batches(path, tokenizer, shuffle=False)
    assert (count, skipped.count) == (3, 2)  # what is no file, and the caption that is left without a picture
    assert "777" in str(skipped)


@pytest.mark.parametrize("streaming", [True, False])
def test_a_broken_header_inside_a_shard_is_counted_and_what_came_before_is_used(tmp_path, streaming):
    path = shard(tmp_path / "a.tar", [{"caption": "a red disc"}] * 6)
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        header = next(entry.offset for entry in tar if entry.name == "004.png")
    content[header : header + 200] = b"x" * 200
    path.write_bytes(content)
    source = open_source(path, streaming=streaming, **({} if streaming else {"max_skipped": 1.0}))
    keys = [record["key"] for record in source]
    assert keys == ["000", "001", "002"]
    assert f"{path}: truncated or broken after 3 samples" in str(source.skipped)


def test_a_table_nested_without_end_is_a_sentence(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"image": "a.png", "text": "a"}\n' + DEEP + b"\n")
    with pytest.raises(UserError, match=r"a\.jsonl: cannot be read as JSONL"):
        open_source(tmp_path / "a.jsonl")
    (tmp_path / "a.json").write_bytes(DEEP)
    with pytest.raises(UserError, match=r"a\.json is not JSON"):
        open_source(tmp_path / "a.json")


def test_a_name_that_is_not_utf8_is_a_counted_skip(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [b"red.png", b"caf\xe9.png", b"blue.png"]
    for name in names:
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(png(draw("red", "disc")))
    source = open_source(folder, max_skipped=0.5)
    index = build(ColourEncoder(), source, tmp_path / "index", max_skipped=0.5)
    skipped = source.skipped
    assert len(index) == 2
    assert skipped.count == 1
    assert "the name is not UTF-8 text" in str(skipped)
    assert str(skipped).encode()  # it can be printed
