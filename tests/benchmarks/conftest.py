"""What runs a script of `benchmarks/` within a test."""

import contextlib
import io
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a script with flags in a folder for the test and returns what it prints. Of the processes that it starts to
    measure memory, only the first is started: the others print what that one printed."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.chdir(tmp_path)
    threads, start, first = torch.get_num_threads(), subprocess.run, {}

    def start_once(command, *args, **options):
        script = str(command[1]) if {"--memory", "--change"} & {*command} else None
        if script is None:
            return start(command, *args, **options)
        if script not in first:
            first[script] = start(command, *args, **options)
        return first[script]

    def run_script(script, *flags):
        monkeypatch.setattr(subprocess, "run", start_once)
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, flags)])
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
        return printed.getvalue()

    yield run_script
    torch.set_num_threads(threads)
