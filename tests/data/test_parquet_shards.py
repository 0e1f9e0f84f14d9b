"""Parquet files as a stream: rows in order, planned without being counted."""

import datetime
import time
import tracemalloc
from itertools import islice

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from nearfar.data import Loader, open_source
from nearfar.data.batches.order import BatchSplit, OrderPlan, StreamOrder
from nearfar.embedding.blocks.block_records import BlockPlan
from nearfar.embedding.blocks.source_stamp import source_stamp
from nearfar.embedding.embed_source import _read
from nearfar.errors import UserError


def write(path, numbers, group=3):
    columns = {"image": [f"{n}.png" for n in numbers], "caption": [f"number {n}" for n in numbers], "n": list(numbers)}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=group)


@pytest.fixture
def shards(tmp_path):
    for part in range(3):
        write(tmp_path / f"{part}.parquet", range(10 * part, 10 * part + 7))
    return str(tmp_path / "{0..2}.parquet")


def test_rows_come_in_order_from_any_place(shards, tmp_path):
    stream = open_source(shards)
    assert (stream.name, stream.parts, list(stream.columns)) == ("0...2", 3, ["image", "text", "n"])
    assert [record["n"] for record in stream] == [n for part in range(3) for n in range(10 * part, 10 * part + 7)]
    assert next(iter(stream)) == {"image": str(tmp_path / "0.png"), "text": ["number 0"], "n": 0}
    for skip in range(9):
        assert [record["n"] for record in stream.read(1, skip)] == list(range(10 + skip, 17))
    assert [record["n"] for record in open_source(str(tmp_path / "*.parquet"))] == [record["n"] for record in stream]


def test_the_stamp_knows_every_file(shards, tmp_path):
    before = source_stamp(shards, {})
    write(tmp_path / "2.parquet", range(20, 29))
    assert source_stamp(shards, {}) != before


def test_what_is_damaged_is_passed_over_or_refused(shards, tmp_path):
    (tmp_path / "1.parquet").write_bytes((tmp_path / "1.parquet").read_bytes()[:-5])
    parquet.write_table(pyarrow.table({"image": ["a.png"], "n": [3]}), tmp_path / "2.parquet")
    stream = open_source(shards)
    assert [record["n"] for record in stream] == list(range(7))
    whys = [problem.why for problem in stream.skipped]
    assert whys == [
        "it is no whole Parquet file: write or copy it anew",
        f"it lacks the columns caption of {stream.paths[0]}",
    ]
    (tmp_path / "0.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"0\.parquet: it is no whole Parquet file"):
        open_source(shards)
    write(tmp_path / "0.parquet", [])
    with pytest.raises(UserError, match=r"0\.parquet: it holds no rows"):
        open_source(shards)
    with pytest.raises(UserError, match=r"9\.parquet: no such shards"):
        open_source(str(tmp_path / "{9..9}.parquet"))
    with pytest.raises(UserError, match="no column 'photo' for image"):
        open_source(str(tmp_path / "{2..2}.parquet"), image="photo")


def planned(folder, count, rows):
    """Seconds and bytes that opening, stamping and planning `count` files of `rows` rows each take, and the first batch
    of a shuffled epoch; all files are one, under many names."""
    folder.mkdir()
    write(folder / "first.parquet", range(rows), group=1000)
    for number in range(count):
        (folder / f"{number:04}.parquet").hardlink_to(folder / "first.parquet")
    spec = str(folder / f"{{0000..{count - 1:04}}}.parquet")
    open_source(spec)
    tracemalloc.start()
    began = time.perf_counter()
    stream = open_source(spec)
    source_stamp(spec, {})
    plan = BlockPlan.of(stream, block=4096, batch_size=64)
    order = OrderPlan(stream, BatchSplit(4, 0, 1, True), seed=0, shuffle=True)
    next(StreamOrder(8).batches(order, 0, {}))
    taken = time.perf_counter() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(plan) == count
    return taken


def test_planning_knows_shards_and_no_rows(tmp_path):
    """A hundred million rows in ten thousand shards: some bytes a name, and nothing a row."""
    seconds, most = planned(tmp_path / "many", 10_000, 10_000)
    assert most < 10_000 * 400
    assert seconds < 20
    few, long = planned(tmp_path / "few", 20, 1000)[1], planned(tmp_path / "long", 20, 100_000)[1]
    assert long < few + 100_000


def labelled(folder, column, values, kind, *, opened_by):
    """A stream whose column holds these values, of one Parquet file or of the `datasets` library."""
    folder.mkdir(exist_ok=True)
    columns = {"caption": [f"number {n}" for n in range(len(values))], column: pyarrow.array(values, kind)}
    parquet.write_table(pyarrow.table(columns), folder / "0.parquet")
    if opened_by == "parquet":
        return open_source(str(folder / "{0..0}.parquet"))
    rows = datasets.Dataset.from_parquet(str(folder / "0.parquet"), cache_dir=str(folder / "cache"))
    return open_source(rows.to_iterable_dataset())


@pytest.mark.parametrize("opened_by", ["parquet", "datasets"])
@pytest.mark.parametrize("column", ["label", "domain", "group"])
def test_a_fraction_is_no_class_and_a_list_is_refused(tmp_path, column, opened_by):
    stream = labelled(tmp_path, column, [0.0, 0.7, 2.0, None, float("inf")], "float64", opened_by=opened_by)
    assert [record[column] for record in stream] == [0, 0.7, 2, -1, float("inf")]
    loader = Loader(stream, batch_size=1, replace=False, shuffle=False, max_skipped=1.0)
    kept = [batch[column].item() for batch in loader]
    assert [*kept[:2]] == [0, 2]
    assert len(kept) == 3
    assert [problem.why for problem in loader.skipped] == [
        f"its {column} is 0.7, not a whole number",
        f"its {column} is inf, not a whole number",
    ]
    assert [str(_read(record, sides={})[1]) for record in islice(stream, 2)] == [
        "{}",
        f"its {column} is 0.7, not a whole number",
    ]
    for values, kind in (([[1], [2]], pyarrow.list_(pyarrow.int64())), ([datetime.date(2026, 1, 1)], pyarrow.date32())):
        with pytest.raises(UserError, match=f"column {column!r} holds .*: a {column} must be text or a whole number"):
            labelled(tmp_path / kind.__class__.__name__, column, values, kind, opened_by=opened_by)
