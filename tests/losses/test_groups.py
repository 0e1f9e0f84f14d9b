"""Sums over groups, and what counts as unit length."""

import pytest
import torch

from nearfar.losses.functional import soft_target_info_nce
from nearfar.losses.groups import group_sum, unit_keys


def test_sums_over_groups_against_a_loop():
    """Groups without a key lie before, between and after those that have some."""
    k = torch.arange(1.0, 13.0).view(6, 2)
    k_group, q_group = torch.tensor([7, 3, 7, 9, 3, 7]), torch.tensor([1, 3, 5, 7, 8, 9, 11, 7])
    sums, counts = group_sum(k, q_group, k_group)
    for row, group in enumerate(q_group):
        mine = k[k_group == group]
        assert counts[row] == len(mine)
        torch.testing.assert_close(sums[row], mine.sum(0))


@pytest.mark.parametrize("length", [0.95, 1.001, 1.05])
def test_keys_of_nearly_unit_length_are_brought_to_it(length):
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.nn.functional.normalize(torch.randn(4, 8, generator=generator), dim=1) for _ in range(2))
    assert unit_keys(k) is k
    torch.testing.assert_close(unit_keys(length * k), k)
    torch.testing.assert_close(soft_target_info_nce(q, length * k), soft_target_info_nce(q, k))
