"""One writer a folder, whoever it is, and a lock that ends with its process."""

import os
import re
import subprocess
import sys

import pytest

from nearfar.errors import UserError
from nearfar.locks import Lock

HOLD = """
import sys, time
from pathlib import Path
from nearfar.locks import Lock
lock = Lock(Path(sys.argv[1]), "writing the index")
print("held", flush=True)
time.sleep(100)
"""


def test_a_lock_says_who_holds_it_and_ends_with_its_process(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"held\n"
            who = rf"\(process {other.pid} on {re.escape(os.uname().nodename)}, since 20\d\d-\d\d-\d\d \d\d:\d\d:.*\)"
            with pytest.raises(UserError, match=rf"another process is writing the index {tmp_path} {who}: wait"):
                Lock(tmp_path, "writing the index")
        finally:
            other.kill()
    lock = Lock(tmp_path, "writing the index")
    with pytest.raises(UserError, match=rf"process {os.getpid()} on"):
        Lock(tmp_path, "training in")
    lock.release()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"pid": "x", "host": 1, "since": 2}', b"\xff"])
def test_a_holder_that_tells_nothing(damage, tmp_path):
    lock = Lock(tmp_path, "training in", ", or else", name="run.lock")
    (tmp_path / ".run.lock-holder").write_bytes(damage)
    with pytest.raises(UserError, match=rf"another process is training in {tmp_path}: wait for it to end, or else"):
        Lock(tmp_path, "training in", ", or else", name="run.lock")
    lock.release()


def test_a_lock_that_leads_elsewhere_is_refused(tmp_path):
    (tmp_path / "outside").write_text("kept")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".lock").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="is a link"):
        Lock(tmp_path / "folder", "training in")
    (tmp_path / "folder" / ".lock").unlink()
    (tmp_path / "folder" / ".lock-holder").symlink_to(tmp_path / "outside")
    Lock(tmp_path / "folder", "training in").release()
    assert (tmp_path / "outside").read_text() == "kept"
