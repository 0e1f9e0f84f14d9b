"""The state of ALBEF and TCL (teacher, queues, ramp) under two processes: the same on both, and resumed to the bit."""

import numpy as np
import pytest

from methods.momentum_work import trained
from training.ranks import run

SETTINGS = {"queue_size": 8, "momentum": 0.9, "ramp_steps": 8}


@pytest.mark.parametrize("name", ["albef", "tcl"])
def test_two_processes_keep_one_state_and_resume_to_the_bit(name, base, tmp_path):
    folder = str(base.save_pretrained(tmp_path / "model"))
    first, second = run(trained, 2, folder, name, str(tmp_path / "whole"), 0, SETTINGS)
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(second[key], value, err_msg=key)
    assert first["momentum.steps"] == 4
    # 4 steps of a global batch of 4 fill 8 places twice: the last two batches, ranks in order.
    assert first["momentum.image_queue.group"].tolist() == list(range(8, 16))
    assert first["momentum.image_queue.pointer"] == 0
    again, other = run(trained, 2, folder, name, str(tmp_path / "part"), 2, SETTINGS)
    for key, value in first.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)
        np.testing.assert_array_equal(other[key], value, err_msg=key)
