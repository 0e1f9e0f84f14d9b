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
    """Runs a script with flags in a folder for the test and returns what it prints. The processes that it would start
    to measure memory run in this one, too: most of such a process would be the import of torch."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.chdir(tmp_path)
    threads, start = torch.get_num_threads(), subprocess.run

    def printed_by(path, flags):
        printed = io.StringIO()
        with monkeypatch.context() as patch, contextlib.redirect_stdout(printed):
            patch.setattr(sys, "argv", [str(path), *map(str, flags)])
            runpy.run_path(str(path), run_name="__main__")
        return printed.getvalue()

    def start_here(command, *args, **options):
        if not {"--memory", "--change"} & {*command}:
            return start(command, *args, **options)
        return subprocess.CompletedProcess(command, 0, printed_by(command[1], command[2:]))

    def run_script(script, *flags):
        monkeypatch.setattr(subprocess, "run", start_here)
        return printed_by(SCRIPTS / f"{script}.py", flags)

    yield run_script
    torch.set_num_threads(threads)
