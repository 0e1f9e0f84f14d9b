"""`nearfar serve` as a process: what it says it opens, and what is left when it ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

from installed import needs
from nearfar.search.page.serving import free_port, opened_to
from nearfar.search.page.visitors import Password
from search.colours import draw, png
from search.visitors import Visitor

pytestmark = needs("gradio")
httpx = pytest.importorskip("httpx")

SERVE = """
import sys
sys.path.insert(0, sys.argv[1])
from nearfar.search import Index
from nearfar.search.page.serving import serve
from search.colours import ColourEncoder
serve(Index(sys.argv[2]), ColourEncoder(), port=int(sys.argv[3]))
"""


def test_the_folder_goes_when_the_server_is_told_to_end(index, tmp_path):
    """By a closed terminal, which is passed on as SIGTERM."""
    port = free_port()
    words = [sys.executable, "-c", SERVE, os.path.dirname(os.path.dirname(__file__)), str(index.directory), str(port)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert "http://127.0.0.1" in process.stdout.readline()
            assert process.stdout.readline() == "Open to every user of this machine, and to no other machine.\n"
            visitor = until_it_listens(f"http://127.0.0.1:{port}")
            path = visitor.upload("mine.png", png(draw("red")))["path"]
            assert os.path.exists(path)
            assert path.startswith(f"{tmp_path}/nearfar-serve-")
            process.send_signal(signal.SIGHUP)
            process.wait(30)
            assert list(tmp_path.glob("nearfar-serve-*")) == []
            assert "Traceback" not in process.stderr.read()
            assert process.returncode == 128 + signal.SIGTERM
        finally:
            process.kill()


def until_it_listens(address):
    end = time.monotonic() + 60
    while True:
        try:
            return Visitor(address)
        except httpx.ConnectError:
            assert time.monotonic() < end
            time.sleep(0.1)


def test_it_says_to_whom_it_is_open():
    word = Password("me:a long password")
    assert "EVERYONE on other machines" in opened_to("0.0.0.0", None)
    assert "NEARFAR_AUTH" in opened_to("0.0.0.0", None)
    assert "whoever has the password on other machines" in opened_to("192.168.1.2", word)
    assert "unencrypted" in opened_to("0.0.0.0", word)
    assert "who has the password, and to no other machine" in opened_to("::1", word)
