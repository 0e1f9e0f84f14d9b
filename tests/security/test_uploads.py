"""The guard over the page's files: what it finds, what it keeps, and for how long."""

import os
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from nearfar.errors import UserError
from nearfar.search.page import uploads as guard
from nearfar.search.page.uploads import GONE, Uploads
from search.colours import draw, png


@pytest.fixture
def uploads():
    with Uploads() as made:
        yield made


def promptly(call, seconds=10):
    """What the call returns or raises. A call that hangs fails the test."""
    answer = []

    def run():
        try:
            answer.append(call())
        except UserError as error:
            answer.append(str(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert answer, "it hangs"
    return answer[0]


def test_the_folder_is_for_this_user_only_and_goes_when_closed():
    with Uploads() as uploads:
        kept = uploads.keep("ann", "cat.png", b"picture")
        folders = [uploads.root, uploads.visits, uploads.shown, uploads.visits / "ann"]
        assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}
        assert uploads.read(kept) == b"picture"
    assert not uploads.root.exists()
    with pytest.raises(UserError, match=GONE):
        uploads.read(kept)


def test_only_ones_own_uploads_and_pictures_of_the_index_are_found(uploads, private, inside):
    mine = uploads.keep("ann", "cat.png", b"picture")
    shown = uploads.show(draw("red"))
    assert uploads.read(mine, visitor="ann") == b"picture"
    assert uploads.read(shown, visitor="ann") == uploads.read(shown, visitor="bob")
    no_names = {"null": None, "a number": 7, "empty": "", "an address": "https://example.org/a.png", "half": "\ud800"}
    bad = {**private, **inside(uploads, "ann"), **no_names, "another's": uploads.keep("bob", "cat.png", b"picture")}
    for what, path in bad.items():
        assert uploads.find(path, visitor="ann") is None, what
        assert promptly(lambda path=path: uploads.read(path, visitor="ann")) == GONE, what
    for name in ("", ".", "..", "ann/.."):
        with pytest.raises(ValueError, match="no visitor's name"):
            uploads.find(mine, visitor=name)


def test_a_name_outside_the_folder_is_refused_without_a_look_at_it(uploads, private, monkeypatch):
    looked = []
    monkeypatch.setattr(guard.Path, "resolve", lambda self, **_: looked.append(self))
    monkeypatch.setattr(guard.os, "open", lambda *a: looked.append(a))
    for path in [*private.values(), "/etc/hostname", f"{uploads.root}/../x", str(uploads.root)[:-1]]:
        assert uploads.find(path) is None
    assert looked == []


def test_a_file_that_was_replaced_between_the_look_and_the_reading_is_not_read(uploads, private, monkeypatch):
    for name in ("picture.png", "pipe.png"):
        mine = uploads.keep("ann", "cat.png", b"picture")
        path = uploads.find(mine)
        os.unlink(mine)
        if name == "pipe.png":
            os.mkfifo(mine)
        else:
            os.symlink(private[name], mine)
        monkeypatch.setattr(uploads, "find", lambda *a, path=path, **b: path)
        assert promptly(lambda mine=mine: uploads.read(mine)) == GONE
        monkeypatch.undo()


def test_a_file_above_the_limit_is_neither_kept_nor_read(uploads, monkeypatch):
    monkeypatch.setattr(guard, "MOST_BYTES", 100)
    with pytest.raises(UserError, match="maximum size"):
        uploads.keep("ann", "cat.png", bytes(101))
    mine = uploads.keep("ann", "cat.png", bytes(100))
    assert len(uploads.read(mine)) == 100
    with open(mine, "ab") as file:
        file.write(b"1")
    assert promptly(lambda: uploads.read(mine)) == GONE


def test_a_visitor_holds_so_many_files_and_all_of_them_so_many_bytes(uploads, monkeypatch):
    kept = [uploads.keep("ann", f"{i}.png", b"12345") for i in range(guard.MOST_UPLOADS + 3)]
    held = [uploads.find(path) is not None for path in kept]
    assert held == [False] * 3 + [True] * guard.MOST_UPLOADS
    monkeypatch.setattr(guard, "MOST_HELD", 5 * guard.MOST_UPLOADS + 4)
    with pytest.raises(UserError, match="too many uploads"):
        uploads.keep("bob", "b.png", b"12345")


def test_every_reference_of_a_request_leads_to_an_own_file_or_nowhere(uploads, private):
    mine, other = uploads.keep("ann", "cat.png", b"1"), uploads.keep("bob", "cat.png", b"1")
    meta = {"_type": "gradio.FileData"}
    requests = {
        "data": [{"path": mine, "url": "x"}, [{"deep": {"path": other}}], {"path": {"path": mine}}, "text", 1, None]
    }
    assert uploads.only(requests, "ann") == {
        "data": [
            {"path": mine, "meta": meta},
            [{"deep": {"path": uploads.gone, "meta": meta}}],
            {"path": uploads.gone, "meta": meta},
            "text",
            1,
            None,
        ]
    }
    assert uploads.only({"path": private["picture.png"]}, "ann")["path"] == uploads.gone


def test_uploads_end_with_the_visit_and_after_an_hour():
    with Uploads(linger=0.2, oldest=3600) as uploads:
        with uploads.visit("ann"):  # an open page
            mine = uploads.keep("ann", "cat.png", png(draw("red")))
            with uploads.visit("ann"):  # a request beside it
                pass
            time.sleep(0.6)
            uploads.sweep()
            assert uploads.find(mine)
            os.utime(mine, (time.time() - 3700,) * 2)
            uploads.sweep()
            assert not uploads.find(mine)
            mine = uploads.keep("ann", "cat.png", png(draw("red")))
        end = time.monotonic() + 20  # nobody sweeps by hand
        while os.path.lexists(uploads.visits / "ann") and time.monotonic() < end:
            time.sleep(0.05)
        assert list(uploads.visits.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../../x.png", "/etc/x.png", "..", ".", "", ".ssh", "a\0\n\x1b[2Jb.png", "\ud800", "ü" * 500]
)
def test_a_name_stays_a_name(uploads, name):
    kept = uploads.keep("ann", name, b"1")
    assert os.path.realpath(kept) == kept
    assert os.path.dirname(os.path.dirname(kept)) == str(uploads.visits / "ann")
    assert kept.isprintable()
    assert uploads.read(kept, visitor="ann") == b"1"


KILLED = """
import sys, time
from nearfar.search.page.uploads import Uploads

uploads = Uploads()
uploads.keep("ann", "cat.png", b"a picture")
print(uploads.root, flush=True)
time.sleep(60)
"""


def test_the_folder_of_a_killed_server_goes_with_the_next_start_and_a_living_one_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    servers = [
        subprocess.Popen([sys.executable, "-c", KILLED], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        dead, living = (Path(server.stdout.readline().strip()) for server in servers)
        servers[0].kill()
        servers[0].wait()
        others = tmp_path / "nearfar-serve-of-another-kind"
        others.mkdir()
        for folder in (dead, living, others):
            os.utime(folder, (time.time() - 100, time.time() - 100))
        with Uploads():
            assert not dead.exists()
            assert living.is_dir()
            assert others.is_dir()
    finally:
        for server in servers:
            server.kill()
            server.wait()


def test_a_folder_that_has_just_been_made_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    young = Uploads()
    young._alive.release()
    with Uploads():
        assert young.root.is_dir()
    young.close()
