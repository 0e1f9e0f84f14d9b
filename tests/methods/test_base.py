"""What every method has: which weights decay."""

import torch
from torch import nn

from nearfar.methods.base import decay_groups


def test_matrices_decay_and_vectors_do_not_and_frozen_weights_are_left_out():
    matrix, frozen = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2, 2), requires_grad=False)
    bias, scalar, kernel = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(1, 1, 2))
    decayed, spared = decay_groups([matrix, frozen, bias, scalar, kernel], 0.3)
    assert decayed["weight_decay"] == 0.3
    assert [id(p) for p in decayed["params"]] == [id(matrix), id(kernel)]
    assert spared["weight_decay"] == 0.0
    assert [id(p) for p in spared["params"]] == [id(bias), id(scalar)]
