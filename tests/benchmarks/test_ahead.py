"""The table of peers that are ahead is computed from the records, and hides none of them."""

import json
import shutil
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def tables():
    sys.path.insert(0, str(TOOLS))
    import ahead_tables

    sys.path.remove(str(TOOLS))
    return ahead_tables


@pytest.fixture
def folder(tables, tmp_path):
    """The records as they are, in a folder of their own."""
    return Path(shutil.copytree(tables.RESULTS, tmp_path / "results"))


def change(folder, name, write):
    path = folder / f"{name}.json"
    record = json.loads(path.read_text())
    write(record)
    path.write_text(json.dumps(record))


def rows_of(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[4:]]


def test_every_recorded_comparison_with_a_peer_is_counted(tables, folder):
    peers = {each.peer for read in tables.READERS for each in read(folder)}
    assert peers >= {
        "open_clip ClipLoss",
        "open_clip SigLipLoss",
        "pytorch-metric-learning NTXentLoss",
        "lightly NTXentLoss",
        "lightly",
        "dense autograd",
        "chunk and checkpoint",
        "plain, all pairs held",
        "sentence-transformers",
        "faiss IndexFlatIP",
        "bare PyAV",
        "a bare loop",
        "a loop of Pillow's",
        "kornia's generic pipeline",
    }


def test_a_peer_that_becomes_faster_is_told_first(tables, folder):
    def faster(record):
        theirs = next(row for row in record["rows"] if row["variant"] == "open_clip ClipLoss" and row["n"] == 8192)
        ours = next(
            row for row in record["rows"] if row["variant"] == "nearfar" and tables.case(row) == tables.case(theirs)
        )
        theirs["cpu_rounds"] = [
            factor * each for factor, each in zip((0.1, 0.2, 0.3), ours["cpu_rounds"][:3], strict=True)
        ]
        ours["cpu_rounds"] = ours["cpu_rounds"][:3]
        theirs["extra_bytes"], ours["extra_bytes"] = 30, 20
        for row in record["rows"]:
            if tables.case(row) == tables.case(theirs):
                row["cpu_rounds"] = row["cpu_rounds"][:3]

    before = rows_of(tables.table(folder))
    change(folder, "ops", faster)
    after = rows_of(tables.table(folder))
    assert after[0][1:] == ["open_clip ClipLoss", "0.20 (0.10 to 0.30)", "1.5"]
    assert after[1:] == before


def test_a_speed_is_a_time_turned_over(tables, folder):
    def slower(record):
        record["rows"][0] |= {"bare_frames_per_cpu_second": 100, "frames_per_cpu_second": 50}

    change(folder, "video_decoding", slower)
    assert ["bare PyAV", "0.50", "-"] in [row[1:] for row in rows_of(tables.table(folder))]


def test_one_that_is_as_fast_is_not_ahead(tables, folder):
    def equal(record):
        for row in record["rows"]:
            for clocks in row["to_lightly"].values():
                clocks["cpu_s"] = {"low": 0.99, "mean": 1.0, "high": 1.01}

    change(folder, "beside_lightly", equal)
    text = tables.table(folder)
    assert "lightly |" not in text
    every = sum(len(list(read(folder))) for read in tables.READERS)
    assert text.startswith(f"Of {every} recorded comparisons a peer is ahead in {len(rows_of(text))}.")
