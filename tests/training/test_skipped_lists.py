"""`skipped.txt` lists what could not be used of all data of a run, each with the name of its data."""

import pytest
from PIL import Image

from nearfar import train
from nearfar.data import Records, train_tokenizer
from nearfar.data.sources.skipped import Skipped
from nearfar.methods import CLIP
from nearfar.models import create


def pictures(name, count, broken=()):
    records = [{"image": Image.new("RGB", (16, 16), (row * 9, 0, 0)), "text": f"red {row}"} for row in range(count)]
    for row in broken:
        records[row]["image"] = b"no picture"
    return Records(records, name=name)


def test_a_run_lists_those_of_its_validation_data_too(tmp_path):
    model = create("tiny", tokenizer=train_tokenizer(["red 1"], 300), image_size=32, embed_dim=8)
    data = {"validation": pictures("others", 12, broken=[5]), "out": tmp_path / "run"}
    train(CLIP(model), pictures("photos", 24, broken=[7]), batch_size=8, epochs=1, progress=False, **data)
    listed = (tmp_path / "run" / "skipped.txt").read_text("utf-8").splitlines()
    assert listed[0] == "2 skipped:"
    assert [line.split(":")[0].strip() for line in listed[1:]] == ["photos", "others"]
    report = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert report.count("others: ") == 1  # and not once more from its own embedding


@pytest.mark.parametrize(("name", "count"), [("photos (held out)", 2), ("more", 4)])
def test_what_two_parts_of_the_same_data_left_out_counts_once(name, count):
    one, other = Skipped(), Skipped()
    for part in (one, other):
        part.add("a.jpg", "empty")
        part.add("shard 3", "unreadable", count=1)
    assert Skipped.by_source([("photos", one), (name, other)]).count == count


def test_nothing_skipped_leaves_no_file(tmp_path):
    (tmp_path / "skipped.txt").write_text("1 skipped:\n  of an earlier run")
    Skipped().write(tmp_path / "skipped.txt")
    assert not list(tmp_path.iterdir())
