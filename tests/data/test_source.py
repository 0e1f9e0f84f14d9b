"""Sources and what can be done with them; what is skipped."""

import subprocess
import sys

import pytest

from nearfar.data import open_source, world
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.skipped import Skipped
from nearfar.data.sources.source import Records, concat
from nearfar.errors import UserError


def numbers(n, **options):
    return Records([{"image": b"", "text": f"number {i}", "label": i % 2, "group": i} for i in range(n)], **options)


def test_importing_the_package_imports_no_heavy_library():
    code = "import sys, nearfar.data; print(sorted({'torch', 'PIL', 'datasets', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_is_there():
    import nearfar.data as data

    for name in set(data.__all__) - {"world", "scenes"}:
        assert getattr(data, name) is not None
    # A function must not be hidden by a module of the same name, whatever has been imported.
    assert all(callable(getattr(data, name)) for name in ("folder", "table", "shards", "hub", "tokenize", "load_image"))


def test_indexing_slicing_selecting_filtering_mapping():
    source = numbers(10, name="numbers", classes=["even", "odd"])
    assert source[-1]["text"] == "number 9"
    assert [r["text"] for r in source[2:4]] == ["number 2", "number 3"]
    with pytest.raises(IndexError, match="no number 10"):
        source[10]
    with pytest.raises(IndexError, match="no number -1"):
        source.select([-1])
    odd = source.filter(lambda record: record["label"] == 1).select([1, 0])
    assert [(r["text"], r["index"]) for r in odd] == [("number 3", 3), ("number 1", 1)]
    assert odd.classes == ["even", "odd"]
    assert source.map(lambda r: r | {"text": "x"})[3]["text"] == "x"
    assert len(source.column("label")) == 10
    source[0]["text"] = "changed"
    assert source[0]["text"] == "number 0"


def test_concat_keeps_groups_apart_and_merges_names():
    first = numbers(3, name="first", classes=["cat", "dog"])
    second = Records(
        [{"text": "b", "label": 1, "domain": 0}], name="second", classes=["fox", "cat"], domains=["sketch"]
    )
    both = first + second
    assert both.classes == ["cat", "dog", "fox"]
    assert both.domains == ["first", "sketch"]
    assert [r["index"] for r in both] == [0, 1, 2, 3]
    assert both[3]["label"] == 0
    assert [r["domain"] for r in both] == [0, 0, 0, 1]
    assert len({r["group"] for r in both}) == 4
    assert concat(first) is first
    with pytest.raises(ValueError, match="at least one"):
        concat()


def test_captions():
    assert captions(["  a ", "", "  ", None, 5]) == ["a", "5"]
    assert captions("") == captions(None) == captions([]) == []


def test_skipped_counts_a_place_once_and_stops_above_its_share():
    skipped = Skipped()
    for i in range(11):
        skipped.add(f"file {i}", "broken")
        skipped.add(f"file {i}", "broken")
    assert len(skipped) == 11
    skipped.check(110, limit=0.1, name="pets")
    with pytest.raises(UserError, match=r"pets: 11 of the 109 .* 10%") as error:
        skipped.check(109, limit=0.1, name="pets")
    assert "file 0: broken" in str(error.value)
    assert "max_skipped" in str(error.value)


def test_the_share_is_not_judged_by_the_first_few():
    skipped = Skipped()
    skipped.add("a", "broken")
    skipped.check(1, limit=0.1, name="large")
    with pytest.raises(UserError, match=r"small: 1 of the 1 records read .* more than the 10% allowed"):
        skipped.check(1, limit=0.1, name="small", total=5)
    with pytest.raises(UserError, match=r"strict: 1 of the 100 records read .* more than the 0% allowed"):
        skipped.check(100, limit=0, name="strict")
    skipped.check(1, limit=0.25, name="small", total=4)  # one of four is the quarter that is allowed


def test_an_option_goes_to_the_parts_of_the_world_that_have_it():
    both = open_source("world/emoji+clipart", split="val", styles=["noto"], clean=True)
    assert len(both) == len(world.emoji("val", styles=["noto"])) + len(world.clipart("val", clean=True))
    with pytest.raises(
        UserError,
        match=r"no option 'style'\. Did you mean 'styles'\? There are: styles, language, tags, subjects, clean",
    ):
        open_source("world/emoji+clipart", style=["noto"])


def test_texts_leave_out_a_caption_that_is_an_object():
    """A tokenizer is trained before the loader counts what cannot be used."""
    rows = [{"text": "a cat"}, {"text": {"en": "a dog"}}, {"text": [{"raw": "a fox"}]}, {"text": ["an owl", None]}]
    assert Records(rows).texts() == ["a cat", "an owl"]
