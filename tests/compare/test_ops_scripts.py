"""The benchmark of the losses runs, at its smallest, and every contestant that it names computes the same loss."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("open_clip")
pytest.importorskip("lightly")
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "ops.py"
FORMS = ["InfoNCE, both directions", "InfoNCE, one direction", "NT-Xent", "sigmoid"]


@pytest.mark.parametrize("form", FORMS)
def test_every_contestant_equals_the_formula(form):
    spec = importlib.util.spec_from_file_location("ops_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert list(script.FORMULA) == FORMS
    inputs = script.vectors(32, 16, 10.0)
    expected = script.value_and_gradients(script.FORMULA[form], [x.double() for x in inputs])
    contestants = script.objectives(form, 32)
    assert len(contestants) >= 3
    for name, loss in contestants.items():
        actual = script.value_and_gradients(loss, inputs)
        assert script.error(actual, expected, inputs[:2]) < script.TOLERANCE, name


@pytest.mark.timeout(900)
def test_a_look_at_one_size(tmp_path):
    out = tmp_path / "made" / "look.json"
    flags = "--n 16 --d 8 --rounds 1 --threads 1 --form sigmoid --output"
    done = subprocess.run(
        [sys.executable, SCRIPT, *flags.split(), out], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(out.read_text())["rows"]
    assert [row["variant"] for row in rows] == ["nearfar", "open_clip SigLipLoss", "chunk and checkpoint"]
    assert all(row["cpu_ratio"] > 0 and row["extra_bytes"] >= 0 for row in rows)
    assert "### sigmoid, scale 10\n" in out.with_suffix(".md").read_text()
