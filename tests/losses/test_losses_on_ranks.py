"""Losses in a plain loop of two processes that gathers rows by torch: loss, averaged gradient and what is kept of each
sample are those of one process with the whole batch."""

import numpy as np
import pytest
import torch

from losses.loss_ranks_work import SAMPLES, WIDTH, trained
from training.ranks import run


def test_two_processes_that_gather_are_one():
    views = torch.randn(3, SAMPLES, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alone, kept = trained(views, 3)
    for results, its_kept in run(trained, 2, views, 3):
        for name, (loss, gradient) in alone.items():
            assert results[name][0] == pytest.approx(loss, abs=1e-9), name
            np.testing.assert_allclose(results[name][1], gradient, atol=1e-9, err_msg=str(name))
        for name, value in kept.items():
            np.testing.assert_allclose(its_kept[name], value, atol=1e-9, err_msg=name)
    assert kept["visits"].tolist() == [[1, 2, 3, 3, 3, 3, 2, 1, 0]]
