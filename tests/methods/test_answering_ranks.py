"""Answering under two processes, each with other answers than the other: the weights are those of one process."""

import numpy as np

from methods.answering_work import trained
from nearfar.models import FusionAnswerer
from training.ranks import run


def test_two_processes_take_the_steps_of_one(base, tmp_path):
    folder = str(FusionAnswerer.of(base).save_pretrained(tmp_path / "model"))
    (alone,) = run(trained, 1, folder)
    first, second = run(trained, 2, folder)
    assert alone["distillation.steps"] == first["distillation.steps"] == 2
    moved = 0.0
    for key, value in first.items():
        np.testing.assert_array_equal(second[key], value, err_msg=key)
        np.testing.assert_allclose(alone[key], value, rtol=1e-3, atol=1e-5, err_msg=key)
        if key.startswith("model.decoder"):
            moved = max(moved, np.abs(value - first[key.replace("model.", "distillation.teacher.module.", 1)]).max())
    assert moved > 1e-3, "the decoder learnt, and its teacher is behind"
