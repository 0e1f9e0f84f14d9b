"""Two processes train the methods on views as one would: the same loss and the same averaged gradient."""

import numpy as np
import pytest
import torch

from methods.view_rank_work import all_gradients
from training.ranks import run

SETTINGS = {"byol": {}, "moco": {"queue_size": 16}, "simclr": {}, "simsiam": {}, "supcon": {}}


def test_two_processes_have_the_loss_and_gradient_of_one():
    views = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label = torch.tensor([0, 0, 1, 2, 1, 0, 3, 2])
    alone = all_gradients(SETTINGS, views, label)
    for part in run(all_gradients, 2, SETTINGS, views, label):
        for name, (loss, gradients) in alone.items():
            assert part[name][0] == pytest.approx(loss, abs=1e-9), name
            for mine, whole in zip(part[name][1], gradients, strict=True):
                np.testing.assert_allclose(mine, whole, atol=1e-9, err_msg=name)
