"""The table of targets is computed from the records."""

import json
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tables():
    sys.path.insert(0, str(ROOT / "tools"))
    import target_tables

    sys.path.remove(str(ROOT / "tools"))
    return target_tables


@pytest.fixture
def folder(tables, tmp_path):
    return Path(shutil.copytree(tables.RESULTS, tmp_path / "results"))


def line_of(text, what):
    return next(line for line in text.splitlines() if line.startswith(f"| {what} |"))


def test_every_target_has_its_quiet_record(tables):
    for target in tables.TARGETS:
        assert tables.rounds_of(target, tables.RESULTS / f"{target.record}.json"), target.what


def test_what_a_record_beside_a_competitor_lacks_has_no_figure(tables, folder):
    case = {"form": "InfoNCE, both directions", "n": 4096, "d": 512, "cpu_ratio": 5.5, "cpu_rounds": [2.0]}
    rows = [case | {"variant": variant} for variant in ("nearfar", "open_clip ClipLoss")]
    (folder / tables.BESIDE / "ops.json").write_text(json.dumps({"rows": rows}))
    assert "| 5.50 |" in line_of(tables.table(folder), "symmetric InfoNCE, N 4096, D 512")
    assert "| - |" in line_of(tables.table(folder), "symmetric InfoNCE, N 8192, D 512")


def test_a_record_that_changes_changes_the_verdict(tables, folder):
    path = folder / "two_processes.json"
    for both, verdict in ((1.1, "yes"), (1.2, "no")):
        record = json.loads(path.read_text())
        for row in record["rows"]:
            row["cpu_s"] |= {"one process": [1.0, 2.0, 4.0], "ring": [1.0, 2.0 * both, 8.0]}
        path.write_text(json.dumps(record))
        shutil.rmtree(folder / tables.BESIDE, ignore_errors=True)
        line = line_of(tables.table(folder), "the loss on 2 processes, N 4096")
        assert f"| {both:.2f} (1.00 to 2.00) | - | **{verdict}** |" in line


def test_a_figure_that_must_be_large_is_reached_from_its_bar_on(tables):
    target = tables.Target("x", "times", 2.0, "", list, at_least=True)
    assert [target.reached([1.0, value, 9.0]) for value in (1.9, 2.0, 2.1)] == [False, True, True]
    assert target.goal == "at least 2 times"


def test_both_verdicts_stand_where_they_differ(tables, folder):
    beside = folder / tables.BESIDE
    beside.mkdir(exist_ok=True)
    for place, ours in ((folder, 1.02), (beside, 1.5)):
        row = {"variant": "nearfar", "cpu": [ours]}
        (place / "training_loop.json").write_text(json.dumps({"rows": [row]}))
    assert line_of(tables.table(folder), "training `clip`").endswith("| 1.02 | 1.50 | **yes, no** |")
