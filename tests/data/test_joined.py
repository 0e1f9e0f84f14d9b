"""Sources joined by " + ": what is named goes to those that have it, and one picture in many rows stays one item."""

import json
from argparse import Namespace

import pytest

from data.five_captions import PICTURES, Knows, as_csv, as_parquet, pictures, rows
from nearfar.commands.evaluate_command import open_data
from nearfar.data import open_source
from nearfar.errors import UserError
from nearfar.search import build


@pytest.fixture(autouse=True)
def cache(tmp_path, tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.chdir(tmp_path)


def shop(tmp_path):
    """A table whose columns have names of its own."""
    pictures(tmp_path / "shop")
    lines = [f"{p}.png,{caption},{p % 2}" for p, caption in rows()]
    (tmp_path / "shop" / "t.csv").write_text("\n".join(["photo,title,tray", *lines]))
    return "shop/t.csv"


def test_named_columns_go_to_the_table_and_not_to_the_world(tmp_path):
    table = shop(tmp_path)
    joined = open_source(f"world/emoji + {table}", image="photo", text="title", group="tray")
    world = open_source("world/emoji")
    assert len(joined) == len(world) + 60
    assert joined[0]["text"] == world[0]["text"]
    assert joined[len(world) + 1]["text"] == ["thing 1 in words 0"]
    assert joined[len(world) + 1]["group"] == joined[len(world) + 3]["group"] != joined[len(world)]["group"]


def test_a_column_that_the_table_does_not_have_is_named_with_those_it_has(tmp_path):
    with pytest.raises(UserError, match=r"shop/t.csv: no column 'caption' for text; its columns are: photo, title, tr"):
        open_source(f"world/emoji + {shop(tmp_path)}", image="photo", text="caption")


def test_an_option_that_none_has_is_refused(tmp_path):
    as_csv(tmp_path / "a")
    with pytest.raises(UserError, match=r"world/emoji \+ a/t.csv: no option 'colour'"):
        open_source("world/emoji + a/t.csv", colour="red")


def test_a_folder_without_a_table_takes_no_columns_beside_one_with(tmp_path):
    table = shop(tmp_path)
    pictures(tmp_path / "plain")
    for p in range(PICTURES):
        (tmp_path / "plain" / f"{p}.txt").write_text(f"plain {p}")
    joined = open_source(f"plain + {table}", image="photo", text="title")
    assert (joined[0]["text"], joined[PICTURES]["text"]) == (["plain 0"], ["thing 0 in words 0"])
    with pytest.raises(UserError, match=r"plain: image='photo' is for a table .*, and there is none in it"):
        open_source("plain", image="photo")


def test_a_split_is_for_those_that_have_splits(tmp_path):
    as_csv(tmp_path / "a")
    held_out = len(open_source("world/emoji", split="test"))
    assert len(open_source("a/t.csv + world/emoji", split="test")) == 60 + held_out
    assert len(open_source("a/t.csv + world/emoji", world_split="test")) == 60 + held_out
    with pytest.raises(UserError, match=r"none of these has splits; leave out split='test'"):
        open_source("a/t.csv + a/t.csv", split="test")


@pytest.mark.parametrize("word", ["world/emoji + a/t.csv", "a/t.csv + world/emoji", "world/emoji"])
def test_a_command_that_measures_takes_what_the_world_held_out(tmp_path, word):
    as_csv(tmp_path / "a")
    held_out = len(open_source("world/emoji", split="test"))
    source = open_data(word, None, Namespace(max_skipped=0.1, captions=None), otherwise="test")
    assert len(source) == held_out + (60 if "csv" in word else 0)


def test_rows_of_the_same_bytes_are_one_item_of_an_index(tmp_path):
    as_csv(tmp_path / "a")
    as_parquet(tmp_path / "b")
    assert len(build(Knows(), open_source("b/t.parquet"), tmp_path / "alone")) == PICTURES
    index = build(Knows(), open_source("b/t.parquet + a/t.csv"), tmp_path / "both")
    assert len(index) == 2 * PICTURES  # those of the parquet file once each, and the files


def test_the_field_of_an_object_can_be_named_where_metadata_describe_a_folder(tmp_path):
    pictures(tmp_path / "d")
    lines = [{"file_name": f"{p}.png", "text": {"en": f"thing {p}", "fr": "chose"}} for p in range(PICTURES)]
    (tmp_path / "d" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError, match=r"text=text\.en"):
        open_source("d")
    assert open_source("d", text="text.en")[3]["text"] == ["thing 3"]


def test_domains_that_are_numbers_stay_apart_and_get_names(tmp_path):
    for name, domains in (("a", "0 1 1"), ("b", "3 0 3")):
        rows_of = [f"{name} says {n},{name} again {n},{domain}" for n, domain in enumerate(domains.split())]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,text2,domain", *rows_of, "x,y,-1"]))
    joined = open_source("a.csv + b.csv")
    assert joined.domains == ["a.csv 0", "a.csv 1", "b.csv 0", "b.csv 3"]
    assert joined.column("domain") == [0, 1, 1, -1, 3, 2, 3, -1]
    both = open_source("world/words") + joined.select([2, 4, 3])
    assert both.domains[-4:] == joined.domains
    assert [both.domains[n] if n >= 0 else None for n in both.column("domain")[-3:]] == ["a.csv 1", "b.csv 3", None]
