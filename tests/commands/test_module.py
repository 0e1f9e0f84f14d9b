"""`python -m nearfar` does what the command `nearfar` does."""

import subprocess
import sys

import pytest

import nearfar
from nearfar import cli


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "nearfar", *arguments], capture_output=True, text=True, timeout=120)


def test_it_prints_the_version_and_the_commands():
    assert run_module("--version").stdout.strip() == nearfar.__version__
    assert run_module().stdout == cli.usage() + "\n"


def test_it_refuses_as_the_command_does():
    refused = run_module("trian")
    with pytest.raises(SystemExit) as stop:
        cli.main(["trian"])
    assert (refused.returncode, refused.stderr.strip()) == (1, str(stop.value).strip())
