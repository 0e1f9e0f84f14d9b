"""The scripts that measure search, in their smallest form."""

import importlib
import json
from pathlib import Path

import pytest

from nearfar import machine
from nearfar.ops.tiling import float_products

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.timeout(900)  # processes of their own, on a machine that may be busy


def test_search_kinds(run, tmp_path):
    out = tmp_path / "made" / "kinds.json"
    flags = ("--counts", 60, 1100, "--dim", 8, "--queries", 9, "--kinds", "exact", "sq8", "pq", "--output", out)
    output = run("search_kinds", *flags)
    rows = {(row["vectors"], row["kind"]): row for row in json.loads(out.read_text())["rows"]}
    assert list(rows) == [(60, "exact"), (60, "sq8"), (1100, "exact"), (1100, "sq8"), (1100, "pq")]
    assert rows[60, "exact"]["recall"] == 1
    assert rows[1100, "sq8"]["recall"] > 0.9
    assert rows[1100, "exact"]["bytes"] == 32
    assert out.with_suffix(".md").read_text() in output


def test_search_limits(run, tmp_path):
    pytest.importorskip("faiss")
    out = tmp_path / "made" / "limits.json"
    sizes = ("--one", 500, 8, "--many", 300, 8, "--queries", 4, 25, "--ranks", 50, 8, "--rank-memory", 60)
    output = run("search_limits", *sizes, "--rounds", 1, "--output", out)
    report = json.loads(out.read_text())
    cases = [["search", 1, 500, 8], ["search", 4, 300, 8], ["search", 25, 300, 8], ["ranks", 50, 50, 8]]
    assert [row["case"] for row in report["rows"] if row["variant"] == "one product"] == cases
    assert [row["case"] for row in report["rows"] if row["variant"] == "nearfar fp16"] == cases[:3]
    assert [row["variant"] for row in report["memory"]] == [
        "nearfar flat, opening", "nearfar flat, a search", "nearfar fp16, opening", "nearfar fp16, a search", "nearfar",
    ]  # fmt: skip
    assert out.with_suffix(".md").read_text() in output


def test_index_changes(run, tmp_path):
    out = tmp_path / "made" / "changes.json"
    output = run("index_changes", "--count", 100, "--dim", 8, "--rounds", 2, "--output", out)
    rows = {row["change"]: row for row in json.loads(out.read_text())["rows"]}
    changes = ["open and search", "remove one", "commit nothing", "extend by 1,000", "compact", "copy the vectors"]
    assert list(rows) == changes
    assert all(len(row[field]) == 2 for row in rows.values() for field in ("cpu_s", "clock_s", "bytes"))
    assert out.with_suffix(".md").read_text() in output


def test_big_index(run, tmp_path):
    pytest.importorskip("faiss")
    out = tmp_path / "made" / "big.json"
    flags = ("--dim", 8, "--file", 700, "--queries", 20, "--probes", 2, 500, "--folder", tmp_path, "--output", out)
    run("big_index", "--runs", "1500:ivf-sq8", *flags)
    output = run("big_index", "--runs", "1500:ivf-sq8", "1500:ivf", *flags)
    runs = {made["kind"]: made for made in json.loads(out.read_text())["runs"]}
    assert list(runs) == ["ivf", "ivf-sq8"], "a run takes the place of its like"
    for made in runs.values():
        assert [row["probes"] for row in made["searches"]] == [2, made["lists"]]
        assert made["searches"][0]["recall"] < made["searches"][1]["recall"] == 1
        assert str(tmp_path) not in made["command"]
    assert out.with_suffix(".md").read_text() in output
    assert [path.name for path in tmp_path.iterdir()] == ["made"], "what was drawn is gone"


def test_the_record_of_ten_million_vectors_keeps_within_four_gib():
    record = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "big_index.json").read_text())
    made = next(made for made in record["runs"] if (made["vectors"], made["dim"]) == (10_000_000, 256))
    assert max(made["build_peak_bytes"], made["search_peak_bytes"]) < 4 * 2**30
    assert made["recall_when_built"] >= 0.99
    assert {row["probes"]: row["recall"] for row in made["searches"]}[128] > 0.95


@pytest.mark.parametrize(("library", "half"), [("torch", False), ("onednn", True)])
def test_profiles(run, tmp_path, monkeypatch, library, half):
    pytest.importorskip("faiss")
    monkeypatch.setattr(machine, "has_bfloat16", lambda: half)
    monkeypatch.setattr(float_products, "library", lambda: library)
    monkeypatch.setattr(float_products, "LEAST", 0)
    out = tmp_path / "made" / "profiles.json"
    sizes = ("--loss", 512, 64, "--search", 9, 300, 8, "--ranks", 70, 8, "--tokens", 0)
    output = run("profiles", *sizes, "--rounds", 1, "--output", out)
    rows = json.loads(out.read_text())["rows"]
    assert [row["what"].split()[0] for row in rows] == [*["symmetric"] * (1 + half), "search", "ranks"]
    for row in rows:
        assert sum(row["parts"].values()) == pytest.approx(1)
        assert row["parts"]["products of matrices"] > 0
    assert rows[0]["beside"]["products of matrices"] > 0
    assert out.with_suffix(".md").read_text() in output


def test_parts_of_a_profile(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    part_of = importlib.import_module("profiles").part_of
    products = {part_of(event) for event in ("aten::mm", "aten::addmm_", "mkldnn::_linear_pointwise", "scores")}
    assert products == {"products of matrices"}
    assert part_of("aten::mv") == "`mv`", "counting, by a product with ones"
    assert part_of("nearfar::partition") == "`partition`"
    assert part_of("run") == part_of("Torch-Compiled Region") == "Python, and what is not torch's"
