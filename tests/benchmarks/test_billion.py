"""The page on a billion pairs follows from the records: figures worked by hand, from records that make them round."""

import json
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def tables():
    sys.path.insert(0, str(TOOLS))
    import billion_tables

    sys.path.remove(str(TOOLS))
    return billion_tables


@pytest.fixture
def records(tmp_path, tables):
    content = {
        "embed_workers": {"block": 100, "rounds": [{"ray 1": 10.0, "ray 2": 16.0}]},
        "first_epoch": {"rows": [{"loop": "nearfar, a tar", "ms": 3.6}, {"part": "decode", "ms": 1.0}]},
        "training_loop": {"steps": 10, "batch": 100, "rows": [{"variant": "nearfar", "cpu_s": 2.0}]},
        "scaling": {
            "dim": 256,
            "loss": [
                {
                    "variant": f"nearfar, {p}",
                    "size": size,
                    "cpu_s": 0.0036 * size,
                    "clock_s": 0.001 * size,
                    "bytes": 10**8,
                }
                for p in ("one process", "two processes")
                for size in (1024, 65_536)
            ],
        },
        "search_limits": {
            "rows": [
                {"case": ["search", 1, 1_000_000, 256], "variant": "nearfar flat", "cpu_s": 0.1},
                {"case": ["search", 1000, 100_000, 512], "variant": "one product", "cpu_s": 9.0},
                {"case": ["search", 1000, 100_000, 512], "variant": "nearfar flat", "cpu_s": 1.0},
            ]
        },
    }
    for name, each in content.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(each))
    return tables.Records(tmp_path)


def figures(table):
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return {row[0]: row[-1] for row in rows}


def test_embedding(tables, records):
    """1,000 records a second and core; two workers are 1.6 times one."""
    made = figures(tables.table("embed", records))
    assert made["embedding short captions by MiniLM"] == "278 hours"
    assert made["the same on 1,000 cores"] == "0.3 hours"
    assert made["reading the pictures beside it"] == "1,000 hours"
    assert made["files"] == "488,282"
    assert made["network"] == "50 TB"


def test_training(tables, records):
    """A step: 2 x 65,536 x 3.6 ms of loss, 65,536 x 2 ms of towers and 3.6 ms of reading."""
    made = figures(tables.table("train", records))
    assert made["steps an epoch at batch 65,536"] == "15,258"
    assert made["the loss of a step, 256 numbers, one core"] == "236 s"
    assert made["the loss of a step, 512 numbers, 64 processes"] == "4.1 s"
    assert made["an epoch of all three, one core"] == "3,555 hours"
    assert made["the loss's share of that"] == "56%"
    assert tables.ring_bytes(1) == 65_536 * 512 * 4
    assert tables.ring_bytes(64) == 1024 * 512 * 4 * (63 + 63 + 64)


def test_search_copies_and_what_breaks_first(tables, records):
    assert figures(tables.table("index", records))["an exact search, one query, one core"] == "100 s"
    copies = figures(tables.table("copies", records))
    assert copies["their CPU time, 512 numbers"] == "158 years"
    assert copies["read from the shared disk, in blocks of 65,536"] == "16 PB"
    first = list(figures(tables.table("first", records)).items())
    assert first[0] == ("an exact search of 1,000 queries a second", "10,000,000 pairs")
    assert first[1] == ("near pictures, all with all (`--near-pictures`)", "130,000,000 pairs")
    assert len(first) == 5


def test_an_index_is_in_proportion_where_one_is_recorded(tables, records):
    assert figures(tables.table("index", records))["an index on a disk"] == "not known"
    run = {
        "kind": "ivf-sq8", "vectors": 10_000_000, "lists": 4096, "bytes_a_vector": 264.0, "build_peak_bytes": 2 * 10**9,
        "seconds": {"learn": 100.0, "add": 300.0, "merge": 60.0},
        "searches": [{"probes": 8, "recall": 0.9, "alone_ms": 1.0}, {"probes": 32, "recall": 0.97, "alone_ms": 4.0}],
    }  # fmt: skip
    (records.folder / "big_index.json").write_text(json.dumps({"runs": [{**run, "vectors": 10**6}, run]}))
    made = figures(tables.table("index", records))
    assert made["building `ivf-sq8` of 10,000,000 vectors, in proportion"] == "10 hours"
    assert made["its lists on a disk"] == "264 GB"
    assert made["recall at 10 of 10,000,000"] == "0.970"
