"""Marked emojis: the mark is all that the target has and the background has not, and it tells nothing of the thing."""

from collections import Counter

import numpy as np
import pytest

from nearfar.data import open_source
from nearfar.data.scenes import SHAPES, marks
from nearfar.errors import UserError


def test_every_other_picture_bears_one_of_eight_marks():
    source = open_source("world/marks", n=64, size=32)
    assert source.name == "world/marks:train"
    assert source.classes == ["plain", *SHAPES]
    records = list(source)
    assert [record["mark"] == "plain" for record in records] == [True, False] * 32
    assert all(source.classes[record["label"]] == record["mark"] for record in records)
    assert {record["image"].size for record in records} == {(32, 32)}


def test_the_mark_changes_a_part_of_the_picture_and_lies_whole_within():
    from nearfar.data.scenes.draw import SeededDraw
    from nearfar.data.scenes.marks import MarkSource

    source = marks("train", n=2, size=64)
    assert isinstance(source, MarkSource)
    plain, marked = (
        np.asarray(source._picture("cat", "noto", mark, SeededDraw(0))).astype(int) for mark in ("plain", "square")
    )
    changed = (plain != marked).any(2)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert 0.5 < len(rows) / 64 <= 0.85
    assert 0.5 < len(columns) / 64 <= 0.85
    assert (marked[changed] >= plain[changed]).all(), "half of white is added"


def test_marks_and_things_are_independent_and_things_of_test_are_new():
    train, test = (list(marks(split, n=n, size=16)) for split, n in (("train", 3000), ("test", 1000)))
    assert {r["name"] for r in train}.isdisjoint(r["name"] for r in test)
    counts = Counter((r["category"], r["mark"] == "plain") for r in train)
    for category in {r["category"] for r in train}:
        share = counts[category, True] / (counts[category, True] + counts[category, False])
        assert 0.4 < share < 0.6, category


def test_a_record_does_not_depend_on_how_many_there_are():
    few, many = marks("val", n=3, seed=5), marks("val", n=30, seed=5)
    assert [r["image"].tobytes() for r in few] == [many[i]["image"].tobytes() for i in range(3)]
    assert marks("val", n=3, seed=6)[0]["image"].tobytes() != few[0]["image"].tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "no split 'dev'; choose from: train, val, test"),
        ({"size": 8}, "size=8, n=10000; at least 16 pixels"),
        ({"n": 0}, "n of 1"),
        ({"styles": ["oil"]}, "no style 'oil'"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(UserError, match=message):
        marks(**options)
