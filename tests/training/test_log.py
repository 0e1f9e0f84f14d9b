"""The log of a run on a terminal."""

import io
import sys

from nearfar.training.config import TrainConfig
from nearfar.training.loop.log import TrainingLog


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_shows_steps_and_the_last_figures(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "120")
    log = TrainingLog(None, TrainConfig(), steps=8)
    log.start(0)
    log.row({"step": 3, "epoch": 0, "loss": 1.25, "grad_norm": 0.5})
    log.close()
    last = terminal.getvalue()
    assert "3/8" in last
    assert "loss 1.25  grad_norm 0.5" in last
    assert "epoch" not in last
