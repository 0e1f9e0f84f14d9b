"""The rows of a run's history: a curve also where it is short."""

import pytest
from toy import Pairs, Plain, loader

from nearfar import train

QUIET = {"progress": False, "report": False}


def steps_of(run):
    return [row["step"] for row in run.history]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (1, [1]),
        (6, [1, 2, 3, 4, 5, 6]),
        (19, list(range(1, 20))),
        (20, list(range(1, 21))),
        (45, [1, *range(2, 45, 2), 45]),
        (90, [1, *range(4, 90, 4), 90]),
        (200, [1, *range(10, 201, 10)]),
        (503, [1, *range(10, 501, 10), 503]),
    ],
)
def test_a_run_has_twenty_rows_or_one_a_step(steps, expected):
    assert steps_of(train(Plain(), loader(), steps=steps, lr=0.01, **QUIET)) == expected
    assert len(expected) >= min(steps, 20)


def test_who_says_how_often_gets_that():
    assert steps_of(train(Plain(), loader(), steps=10, log_every=4, **QUIET)) == [4, 8, 10]


class Stop(BaseException):
    """Stands for a kill: nothing catches it."""


def test_a_resumed_run_has_the_same_rows(tmp_path, monkeypatch):
    settings = {"steps": 45, "save_every": 10, "resume": True, **QUIET}
    whole = train(Pairs(), loader(), out=tmp_path / "whole", **settings)
    original = Pairs.after_step

    def after_step(self, step):
        if step == 27:
            raise Stop
        original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Pairs, "after_step", after_step)
        with pytest.raises(Stop):
            train(Pairs(), loader(), out=tmp_path / "run", **settings)
    again = train(Pairs(), loader(), out=tmp_path / "run", **settings)
    assert steps_of(again) == steps_of(whole) == [1, *range(2, 45, 2), 45]
    assert [row["loss"] for row in again.history] == [row["loss"] for row in whole.history]
