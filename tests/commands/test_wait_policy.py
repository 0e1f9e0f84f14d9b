"""Threads that wait do not spin: every command says so to OpenMP before torch is loaded, unless the user does."""

import os
import subprocess
import sys

import pytest

CODE = """
import os, subprocess, sys
from nearfar import cli

def command(words):
    assert "torch" not in sys.modules
    child = [sys.executable, "-c", "import os; print(os.environ['OMP_WAIT_POLICY'])"]
    print(subprocess.run(child, capture_output=True, text=True, check=True).stdout.strip())
    import torch
    torch.ones(2) + 1

command.raw = True
cli.load = lambda name: command
cli.main(["train"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks the OpenMP that torch brings on Linux")
@pytest.mark.parametrize(("policy", "spins"), [(None, "0"), ("active", "30000000000")])
def test_threads_wait_quietly_unless_the_user_says_otherwise(policy, spins):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE"} | ({"OMP_WAIT_POLICY": policy} if policy else {})
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == [policy or "passive"], "what processes started from here inherit"
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr, "what OpenMP took"
