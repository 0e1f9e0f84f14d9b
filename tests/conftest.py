"""One thread a worker, and a process that a test starts: on shared cores two threads are slower than one. Memory and
waiting as commands have them."""

import gc
import os
import sys
from pathlib import Path

from nearfar.machine import prepare

prepare()
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402
from torch._functorch import config  # noqa: E402

torch.set_num_threads(1)
# An operator whose results share memory is an error here, as where the variable CI is set, and not a warning.
config.error_on_custom_op_aliasing = True
sys.path.insert(0, str(Path(__file__).parent))  # `from oracles import ...`


gc.disable()  # while tests are collected, of which nothing is garbage


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop():
    """Thousands of tests, and what they import, stay to the end. Left to the collector, they would be gone through
    again and again, for a tenth of all time."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def no_drawings(monkeypatch):
    """Reports whose drawings are empty and whose maps are of principal axes. Drawing them takes longer than a training
    of a few steps, and is tested in `tests/evaluation/test_report.py`."""
    from markupsafe import Markup

    from nearfar.evaluation.report import figures, space

    monkeypatch.setattr(figures, "draw", lambda paint, **settings: Markup("<svg></svg>"))
    monkeypatch.setattr(space, "_tsne", lambda x, seed: space.principal_axes(x))
