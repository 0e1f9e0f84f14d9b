"""What every method has: which weights decay, and temperatures that keep their bounds."""

import pytest
import torch
from torch import nn

from nearfar.losses import Temperature
from nearfar.methods import METHODS, find
from nearfar.methods.base import Method, decay_groups


def test_matrices_decay_and_vectors_do_not_and_frozen_weights_are_left_out():
    matrix, frozen = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2, 2), requires_grad=False)
    bias, scalar, kernel = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(1, 1, 2))
    decayed, spared = decay_groups([matrix, frozen, bias, scalar, kernel], 0.3)
    assert decayed["weight_decay"] == 0.3
    assert [id(p) for p in decayed["params"]] == [id(matrix), id(kernel)]
    assert spared["weight_decay"] == 0.0
    assert [id(p) for p in spared["params"]] == [id(bias), id(scalar)]


def test_temperatures_return_within_their_bounds_those_of_later_parts_too():
    class Both(Method):
        def forward(self, batch):
            return {"loss": self.first()}

    method = Both()
    for name in ("first", "second"):
        method.add_module(name, Temperature(0.5, bounds=(0.1, 1.0)))
        method.train()
        with torch.no_grad():
            method.get_submodule(name).value.add_(9.0)
        method.after_step(1)
        assert method.get_submodule(name)().item() == pytest.approx(0.1)


@pytest.mark.parametrize("name", sorted(name for name, home in METHODS.items() if ".image." in home))
def test_views_of_one_picture_differ_in_validation_as_in_training(name):
    """A loss between views alone would say nothing of two that are equal."""
    method = find(name)
    assert method.n_views == 1 or method.validation_views is None
