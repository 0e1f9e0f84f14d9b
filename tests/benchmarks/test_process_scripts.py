"""The scripts of `benchmarks/` that start processes which talk to one another."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def test_two_processes(run, tmp_path):
    out = tmp_path / "made" / "two.json"
    output = run("two_processes", "--sizes", 64, "--dim", 16, "--rounds", 2, "--check", 48, "--output", out)
    (row,) = json.loads(out.read_text())["rows"]
    assert row["size"] == 64
    assert {name: len(rounds) for name, rounds in row["cpu_s"].items()} == dict.fromkeys(row["clock_s"], 2)
    assert out.with_suffix(".md").read_text() in output


@pytest.mark.slow
def test_under_load(run, tmp_path):
    out = tmp_path / "made" / "load.json"
    small = ("--size", 64, "--dim", 16, "--passes", 2, "--threads", 1, "--rounds", 2, "--steps", 0)
    output = run("under_load", *small, "--output", out)
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    assert {"nearfar, plain", "nearfar, prepared"} <= {*rows}
    for row in rows.values():
        assert all(len(row[when][kind]) == 2 for when in ("quiet", "loaded") for kind in ("cpu_s", "clock_s"))
    assert out.with_suffix(".md").read_text() in output


@pytest.mark.slow
def test_a_training_under_load(run, tmp_path):
    out = tmp_path / "made" / "load.json"
    small = ("--size", 64, "--dim", 16, "--passes", 1, "--threads", 1, "--rounds", 1, "--steps", 1)
    run("under_load", *small, "--set", "data.limit=12", "training.batch_size=4", "--output", out)
    training = json.loads(out.read_text())["rows"][-1]
    assert training["name"] == "nearfar train clip"
    assert training["quiet"]["cpu_s"][0] > 0 < training["loaded"]["clock_s"][0]


@pytest.mark.ray
def test_embed_workers(run, tmp_path):
    pytest.importorskip("ray")
    out = tmp_path / "made" / "workers.json"
    output = run("embed_workers", "--rounds", 1, "--block", 256, "--output", out)
    (rates,) = json.loads(out.read_text())["rounds"]
    assert {"ray 1", "ray 2", "plain processes 1", "plain processes 2"} < {*rates}
    assert out.with_suffix(".md").read_text() in output


@pytest.mark.slow
def test_scaling(run, tmp_path):
    out = tmp_path / "made" / "scaling.json"
    small = ("--set", "training.chunk=3", "data.limit=12", "model.image_size=32")
    sizes = ("--sizes", 64, 128, "--dim", 8, "--dense-up-to", 64, "--rounds", 1)
    output = run("scaling", *sizes, "--batches", 4, "--steps", 1, *small, "--output", out)
    record = json.loads(out.read_text())
    assert [(row["variant"], row["size"]) for row in record["loss"]] == [
        *(("nearfar, one process", size) for size in (64, 128)),
        *(("nearfar, two processes", size) for size in (64, 128)),
        ("dense autograd", 64),
    ]
    assert [row["processes"] for row in record["training"]] == [1, 2]
    assert out.with_suffix(".md").read_text() in output
    assert "<svg" in out.with_suffix(".svg").read_text()


def test_the_slope_of_a_square_is_two(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    scaling = importlib.import_module("scaling")
    rows = [{"size": size, "cpu_s": 3e-9 * size**2} for size in (1024, 4096, 16384)]
    assert scaling.slope(rows, "cpu_s") == pytest.approx(2)
    assert scaling.slope(rows[:2], "cpu_s") is None
    assert scaling.slope(rows[:2], "cpu_s", least=1) == pytest.approx(2)


def test_the_record_of_scaling_states_the_slopes(monkeypatch):
    """Of the loss over all sizes that are asked for, and of training on one process and on two."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    scaling = importlib.import_module("scaling")
    record = json.loads((SCRIPTS / "results" / "scaling.json").read_text())
    sizes = {row["size"] for row in record["loss"] if row["variant"] == scaling.TWO}
    assert sizes == {1024 << step for step in range(7)}
    assert {row["processes"] for row in record["training"]} == {1, 2}
    table = scaling.as_markdown(record)
    assert table == (SCRIPTS / "results" / "scaling.md").read_text()
    slopes = [line for line in table.splitlines() if "slope |" in line]
    assert len(slopes) == 4
    assert slopes[-1].startswith("| slope | ")


def test_a_script_runs_beside_a_competitor(tmp_path, monkeypatch):
    """With its settings, fewer rounds, and a record in the folder for it; what fails, fails the whole."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("with_competitor", SCRIPTS / "with_competitor.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert all((SCRIPTS / f"{name}.py").is_file() for name in script.RUNS)
    scripts = tmp_path / "benchmarks"
    scripts.mkdir()
    (scripts / "echo.py").write_text("import sys, pathlib; pathlib.Path(sys.argv[-1]).write_text(' '.join(sys.argv))")
    (scripts / "fails.py").write_text("raise SystemExit('not timed')")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "RUNS", {"echo": ["--size", "3"], "fails": []})
    out = tmp_path / "records"
    monkeypatch.setattr(sys, "argv", ["with_competitor.py", "echo", "--rounds", "2", "--results", str(out)])
    script.main()
    command = "benchmarks/echo.py --size 3 --rounds 2 --output records/echo.json"
    assert (out / "echo.json").read_text() == command
    monkeypatch.setattr(sys, "argv", ["with_competitor.py", "fails", "--results", str(out)])
    with pytest.raises(script.subprocess.CalledProcessError):
        script.main()
    monkeypatch.setattr(sys, "argv", ["with_competitor.py", "other", "--results", str(out)])
    with pytest.raises(SystemExit):
        script.main()
