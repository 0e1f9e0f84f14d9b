"""Columns of the user's table stay with the items as they stand in the data, and come back with each hit."""

import io
import json
import tarfile
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nearfar.models
from nearfar import cli
from nearfar.data import open_source
from nearfar.data.sources.source import Records
from nearfar.errors import UserError
from nearfar.search import Index, build, query
from search.colours import ColourEncoder, draw, png

COLOURS = ("red", "green", "blue")
ROWS = [
    {"sku": "007", "price": 20, "sizes": ["S", "L"], "note": None, "either": 3, "about": {"maker": "Ann"}, "new": True},
    {"sku": "A-1", "price": 9.5, "sizes": [], "note": "a, b", "either": "x", "about": None, "new": False},
    {"sku": "ü", "price": None, "sizes": None, "note": "", "either": [1, "x"], "about": {}, "new": None},
]  # fmt: skip


def records(rows=ROWS):
    pairs = zip(COLOURS, rows, strict=False)
    return Records(
        [{"image": png(draw(c)), "text": f"a {c} disc", "index": i, **row} for i, (c, row) in enumerate(pairs)]
    )


def kept(index, encoder, colour):
    return query(index, encoder, text=colour, top=1)[0].kept


def test_values_of_every_kind_come_back_as_they_were(encoder, tmp_path):
    index = build(encoder, records(), tmp_path / "index", keep=list(ROWS[0]))
    for colour, row in zip(COLOURS, ROWS, strict=True):
        assert kept(index, encoder, colour) == row
        assert kept(Index(tmp_path / "index"), encoder, colour) == row
    assert index.columns == {
        "sku": "texts",
        "price": "numbers",
        "sizes": "lists of texts",
        "note": "texts",
        "either": "values of several kinds",
        "about": "values of several kinds",
        "new": "true or false",
    }
    assert json.loads(json.dumps(query(index, encoder, text="red", top=1)[0].as_dict()))["kept"] == ROWS[0]


def test_an_unknown_column_is_named_before_anything_is_embedded(encoder, tmp_path):
    with pytest.raises(UserError, match="no column 'prize' to keep; its columns are: text, index, sku, price, sizes"):
        build(encoder, records(), tmp_path / "index", keep=["sku", "prize"])
    with pytest.raises(UserError, match="no column 'prize' to keep; its columns are: image, text, index, sku"):
        build(encoder, iter(records()), tmp_path / "other", keep=["prize"])
    assert encoder.pictures_read == 0
    assert not (tmp_path / "index").exists()


def test_columns_are_kept_until_another_run_says_otherwise(encoder, tmp_path):
    where = tmp_path / "index"
    build(encoder, records(), where, name="a", keep=["sku", "price"])
    before = encoder.pictures_read
    changed = [{**row, "price": 5} for row in ROWS]
    index = build(encoder, records(changed), where, name="a")
    assert kept(index, encoder, "red") == {"sku": "007", "price": 5}
    index = build(encoder, records(changed), where, name="a", keep=["price", "new"])
    assert kept(index, encoder, "red") == {"price": 5, "new": True}
    assert encoder.pictures_read == before + 2, "the probes: values are read afresh, pictures are not embedded again"
    yellow = Records([{"image": png(draw("yellow")), "text": "a yellow disc", "colour": "yellow"}])
    index = build(encoder, yellow, where, name="b", keep=["colour"])
    assert kept(index, encoder, "yellow") == {"price": None, "new": None, "colour": "yellow"}
    assert kept(index, encoder, "red") == {"price": 5, "new": True, "colour": None}
    assert index.manifest.kept == {"a": ["price", "new"], "b": ["colour"]}
    with pytest.raises(UserError, match="no column 'price' to keep"):
        build(encoder, Records([{"image": png(draw("red")), "text": "x"}]), where, name="a")
    smaller = index.remove([query(index, encoder, text="red", top=1)[0].key])
    assert kept(smaller, encoder, "green") == {"price": 5, "new": False, "colour": None}
    index = build(encoder, records(), where, name="a", keep=[])
    assert kept(index, encoder, "red") == {"colour": None}


def test_rows_of_one_picture_keep_the_first_value_there_is(encoder, tmp_path):
    picture = png(draw("red"))
    rows = [{"image": picture, "text": str(i), "price": price, "n": i} for i, price in enumerate([None, 3, 4])]
    index = build(encoder, Records(rows, name="t"), tmp_path / "index", keep=["price", "n"])
    assert kept(index, encoder, "red") == {"price": 3, "n": 0}
    assert index.manifest.sources["t"]["rows whose kept values differ from their picture's first row"] == 2


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_columns_of_tables_hold_what_their_cells_say(encoder, tmp_path, ending):
    """Names of classes, not their numbers; 007 with its zeros; a blank cell is null, and its column holds numbers."""
    for colour in COLOURS:
        draw(colour).save(tmp_path / f"{colour}.png")
    table = {
        "image": [f"{c}.png" for c in COLOURS],
        "title": ["a red disc", "a green disc", "a blue disc"],
        "category": ["warm", "cold", "cold"],
        "sku": ["007", "12", "x"],
        "price": [19.5, None, 3],
        "weight": ["5 kg", "", "7"],
        "day": ["2024-05-01", "2023-01-31", ""],
    }
    path = tmp_path / f"products.{ending}"
    if ending == "parquet":
        prices = pa.array([Decimal("19.50"), None, Decimal("3.00")], pa.decimal128(6, 2))
        pq.write_table(pa.table({**table, "price": prices}), path)
    elif ending == "jsonl":
        path.write_text(
            "\n".join(json.dumps(dict(zip(table, row, strict=True))) for row in zip(*table.values(), strict=True))
        )
    else:
        rows = [list(table), *zip(*table.values(), strict=True)]
        mark = {"csv": ",", "tsv": "\t"}[ending]
        path.write_text("\n".join(mark.join("" if v is None else str(v) for v in row) for row in rows))
    columns = ["title", "category", "sku", "price", "weight", "day"]
    index = build(encoder, open_source(str(path)), tmp_path / "index", keep=columns)
    blank = "" if ending in ("jsonl", "parquet") else None
    assert [kept(index, encoder, c) for c in COLOURS] == [
        {"title": "a red disc", "category": "warm", "sku": "007", "price": 19.5, "weight": "5 kg", "day": "2024-05-01"},
        {"title": "a green disc", "category": "cold", "sku": "12", "price": None, "weight": blank, "day": "2023-01-31"},
        {"title": "a blue disc", "category": "cold", "sku": "x", "price": 3, "weight": "7", "day": blank},
    ]  # fmt: skip
    part = (
        open_source(str(path))
        .select([2, 0])
        .map(lambda record: {**record, "rank": 1}, columns=["image", "text", "rank"])
    )
    index = build(encoder, part, tmp_path / "part", keep=["sku", "rank"])
    assert kept(index, encoder, "blue") == {"sku": "x", "rank": 1}
    joined = open_source(f"{path} + {path}")
    index = build(encoder, joined, tmp_path / "joined", keep=["sku", "category"])
    assert kept(index, encoder, "green") == {"sku": "12", "category": "cold"}


def test_dates_and_times_are_text(encoder, tmp_path):
    from datetime import date, datetime

    rows = [{"image": png(draw("red")), "text": "red", "day": date(2024, 5, 1), "at": datetime(2024, 5, 1, 12, 30)}]
    row = kept(build(encoder, Records(rows), tmp_path / "index", keep=["day", "at"]), encoder, "red")
    assert row == {"day": "2024-05-01", "at": "2024-05-01T12:30:00"}
    with_arrays = Records([{**rows[0], "box": np.array([1.5, np.nan]), "n": np.int64(7), "raw": b"x"}])
    row = kept(build(encoder, with_arrays, tmp_path / "other", keep=["box", "n"]), encoder, "red")
    assert row == {"box": [1.5, None], "n": 7}
    with pytest.raises(UserError, match="column 'raw': a bytes is no number, text or list"):
        build(encoder, with_arrays, tmp_path / "third", keep=["raw"])


@pytest.mark.parametrize("streaming", [False, True])
def test_a_sample_of_shards_comes_back_by_its_key_and_tar(encoder, tmp_path, streaming):
    with tarfile.open(tmp_path / "s-0.tar", "w") as shard:
        for colour in COLOURS:
            notes = json.dumps({"weight": "5 kg", "price": len(colour)}).encode()
            for ending, content in (("png", png(draw(colour))), ("txt", colour.encode()), ("json", notes)):
                entry = tarfile.TarInfo(f"{colour}.{ending}")
                entry.size = len(content)
                shard.addfile(entry, io.BytesIO(content))
    source = open_source(str(tmp_path / "s-0.tar"), streaming=streaming)
    index = build(encoder, source, tmp_path / "index", keep=["price"] if streaming else ["price", "weight", "__key__"])
    hit = query(index, encoder, text="green", top=1)[0]
    assert (hit.sample, hit.shard, hit.kept["price"]) == ("green", str(tmp_path / "s-0.tar"), 5)
    assert hit.place == f"{tmp_path / 's-0.tar'}: green"
    assert streaming or hit.kept == {"price": 5, "weight": "5 kg", "__key__": "green"}


def test_the_commands_keep_and_show_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(nearfar.models, "load", lambda name, **_: ColourEncoder())
    for colour in COLOURS:
        draw(colour).save(tmp_path / f"{colour}.png")
    table = tmp_path / "p.csv"
    table.write_text(
        "image,text,sku,price\nred.png,red disc,007,3\ngreen.png,green disc,,4.5\nblue.png,blue disc,[b],5\n"
    )
    command = ["index", "colours", str(table), "--out", str(tmp_path / "index")]
    cli.main([*command, "--keep", "sku,price"])
    assert "kept with each item: sku, price\n" in capsys.readouterr().out
    cli.main([*command, "--keep", "sku"])
    said = capsys.readouterr().out
    assert "3 unchanged" in said
    assert "kept with each item: sku\nno longer kept: price\n" in said
    cli.main([*command, "--keep", "sku,price"])
    capsys.readouterr()
    cli.main(["search", "red", "--index", str(tmp_path / "index")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["#", "score", "id", "caption", "sku", "price", "where"]
    assert lines[1].split()[:6] == ["1", "0.851", "0", "red", "disc", "007"]
    cli.main(["search", "blue", "--index", str(tmp_path / "index"), "--json", "--top", "1"])
    hit = json.loads(capsys.readouterr().out)[0]
    assert (hit["id"], hit["kept"]) == (2, {"sku": "[b]", "price": 5.0})
    with pytest.raises(SystemExit, match="no column 'prize' to keep; its columns are: image, text, sku, price"):
        cli.main([*command, "--keep", "prize"])
    cli.main([*command, "--keep", ""])
    assert "no longer kept: sku, price" in capsys.readouterr().out


def test_columns_that_nearfar_does_not_write_are_damage(encoder, tmp_path):
    build(encoder, records(), tmp_path / "index", keep=["price", "either"])
    path = next((tmp_path / "index").glob("items-*.parquet"))
    whole = pq.read_table(path)
    bad = {
        "other": pa.array(["x"] * 3),
        "kept:day": pa.array([1, 2, 3], pa.date32()),
        "json:more": pa.array(["{", "1", "2"]),
        "json:price": pa.array(["1", "2", "3"]),
    }
    for name, column in bad.items():
        pq.write_table(whole.append_column(name, column), path)
        with pytest.raises(UserError, match=r"is damaged: items-1.parquet has .*; delete it and make it anew"):
            Index(tmp_path / "index")
