"""A disk that refuses a file: `index`, `embed` and `search` say which and what to do, and what was there stays whole.

The limit on a file's size works on every machine; the other refusals take the same way (tests/test_files.py).
"""

import os
import subprocess
import sys
from pathlib import Path

from nearfar.data import open_source
from nearfar.search import Index, build
from search.colours import COLOURS, SHAPES, ColourEncoder, draw

CHILD = """
import resource, sys
import nearfar.models
from nearfar import cli
from search.colours import ColourEncoder
nearfar.models.load = lambda name: ColourEncoder()
folder = sys.argv[1]
for limit, words in [
    (2000, ["index", "colours", f"{folder}/photos", "--out", f"{folder}/index", "--max_skipped", "1"]),
    (2000, ["index", "colours", f"{folder}/photos", "--out", f"{folder}/fresh"]),
    (500, ["embed", "colours", f"{folder}/photos", "--out", f"{folder}/a.safetensors"]),
    (2000, ["search", "red", "--index", f"{folder}/index", "--html", f"{folder}/a.html"]),
]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        cli.main(words)
        print("done", words)
    except SystemExit as stop:
        print(stop)
"""
LARGE = "cannot be written; the file is larger than is allowed: raise the limit (`ulimit -f`)"


def test_commands_name_the_file_and_the_remedy_and_leave_the_earlier_state(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for colour in COLOURS:
        for shape in SHAPES[:1]:
            draw(colour, shape).save(photos / f"{colour}-{shape}.png")
    build(ColourEncoder(), open_source(photos), tmp_path / "index", name=str(photos.resolve()), model="colours")
    for colour in COLOURS:
        draw(colour, "bar").save(photos / f"{colour}-bar.png")
    (tmp_path / "a.safetensors").write_text("before")
    (tmp_path / "a.html").write_text("before")
    child = [sys.executable, "-c", CHILD, tmp_path]
    places = [str(Path(__file__).parent.parent), *filter(None, sys.path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    out = subprocess.run(child, capture_output=True, text=True, timeout=300, env=env)
    said = out.stdout.splitlines()
    assert len(said) == 4, (out.stdout, out.stderr)
    for line, what in zip(said, ("index: .*", "index: .*", "embed: .*a.safetensors", "search: .*a.html"), strict=True):
        assert line.startswith(f"nearfar {what.partition(':')[0]}: {tmp_path}"), line
        assert LARGE in line, line
    assert "Traceback" not in out.stderr
    assert len(Index(tmp_path / "index")) == len(COLOURS)
    assert (tmp_path / "a.safetensors").read_text() == (tmp_path / "a.html").read_text() == "before"
    assert not list(tmp_path.glob(".*.tmp"))
    # With room again, the same command finishes.
    assert len(build(ColourEncoder(), open_source(photos), tmp_path / "index", name=str(photos.resolve()))) == 12
