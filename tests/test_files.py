"""Files are written whole, and only where they can be."""

import pytest

from nearfar import files
from nearfar.errors import UserError, at_least


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "taken").write_text("mine")
    for wanted in ("taken", "taken/run", "taken/run/model"):
        with pytest.raises(UserError, match="taken is a file, and a folder is to be written there"):
            files.folder(tmp_path / wanted)
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
