"""Files are written whole, and only where they can be."""

import errno
import re
import subprocess
import sys

import pytest

from nearfar import files
from nearfar.errors import UserError, at_least


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "taken").write_text("mine")
    for path in ("taken", "taken/run", "taken/run/model"):
        with pytest.raises(UserError, match="taken is a file, and a folder is to be written there"):
            files.folder(tmp_path / path)
    with pytest.raises(UserError, match="taken is a file"):
        files.write(tmp_path / "taken" / "a.json", "{}")
    assert (tmp_path / "taken").read_text() == "mine"
    assert files.folder(tmp_path / "new" / "run").is_dir()
    assert files.folder(tmp_path / "new" / "run").is_dir()


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    with pytest.raises(UserError, match="is a folder: name a file to write"):
        files.write(tmp_path, "text")
    assert files.place(tmp_path / "new" / "a.json").parent.is_dir()
    assert not list(tmp_path.glob("new/*"))


def test_numbers_that_are_too_small_are_named():
    at_least(1, top=1, limit=None)
    with pytest.raises(UserError, match="limit is -3, but must be 0 or more"):
        at_least(0, top=0, limit=-3)


CHILD = """
import resource, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from nearfar import files
from nearfar.errors import UserError

folder, content = Path(sys.argv[1]), torch.zeros(100_000)

def write():
    files.write(folder / "write", content.numpy().tobytes())

def safetensors():
    with files.whole(folder / "safetensors") as scratch:
        save_file({"x": content}, scratch)

def pickled():
    with files.whole(folder / "pickled") as scratch, scratch.open("wb") as file:
        torch.save(content, file)

def inner():
    with files.new_folder(folder / "inner") as scratch:
        (scratch / "b").write_bytes(content.numpy().tobytes())

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for attempt in (write, safetensors, pickled, inner):
    try:
        attempt()
    except UserError as error:
        print(error)
"""


def test_a_file_that_is_too_large_is_a_sentence_and_what_was_there_stays(tmp_path):
    names = ["write", "safetensors", "pickled", "inner"]
    (tmp_path / "inner").mkdir()
    kept = [tmp_path / name for name in ("write", "safetensors", "pickled", "inner/b")]
    for path in kept:
        path.write_text("before")
    child = [sys.executable, "-c", CHILD, tmp_path]
    out = subprocess.run(child, capture_output=True, text=True, timeout=120, check=True)
    said = [f"{tmp_path / name} cannot be written; {files.REMEDIES[errno.EFBIG]}" for name in names]
    assert out.stdout.splitlines() == said
    assert {path.read_text() for path in kept} == {"before"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize("number", files.REMEDIES)
def test_every_refusal_of_the_disk_names_the_file_and_the_remedy(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, "refused")

    files.write(tmp_path / "a", "before")
    monkeypatch.setattr(files.Path, "write_bytes", refuse)
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'a'} cannot be written; {files.REMEDIES[number]}")):
        files.write(tmp_path / "a", "after")
    assert (tmp_path / "a").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_other_errors_stay_what_they_are():
    for error in (OSError(errno.ENOENT, "gone"), ValueError("odd"), UserError("mend this")):
        with pytest.raises(type(error)) as raised, files.writing("a"):
            raise error
        assert raised.value is error


def test_an_output_that_cannot_be_written_is_a_sentence():
    with open("/dev/full", "w") as full:
        child = [sys.executable, "-m", "nearfar", "papers"]
        out = subprocess.run(child, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert out.returncode == 1
    assert out.stderr == f"nearfar papers: the output: No space left on device; {files.REMEDIES[errno.ENOSPC]}\n"
