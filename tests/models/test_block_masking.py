"""Blocks of patches: how many, in what shapes, and reproducible."""

import numpy as np
import pytest
import torch

from nearfar.errors import UserError
from nearfar.models.image.block_masking import BlockMasking, hidden_patches


@pytest.mark.parametrize("share", [0.0, 0.05, 0.15, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("grid", [(14, 14), (4, 4), (2, 6)])
def test_as_many_patches_are_hidden_as_the_share_says(grid, share):
    for seed in range(20):
        hidden = hidden_patches(*grid, share, np.random.default_rng(seed))
        assert int(hidden.sum()) == round(share * grid[0] * grid[1])


def test_patches_are_hidden_in_blocks_and_everywhere():
    masks = [hidden_patches(14, 14, 0.15, np.random.default_rng(seed)) for seed in range(300)]
    beside = np.mean([(mask[1:] & mask[:-1]).sum() / mask.sum() for mask in masks])
    assert beside > 0.45  # of patches drawn alone 0.14 would have a hidden one below
    often = np.mean(masks, axis=0)
    assert often.min() > 0  # rarest in the corners
    assert often.mean() == pytest.approx(0.15, abs=0.01)


def test_whole_patches_become_0_each_picture_its_own_and_evaluation_hides_none():
    masking = BlockMasking(0.3, patch=8)
    pictures = torch.rand(16, 3, 32, 32) + 1
    torch.manual_seed(0)
    first = masking(pictures)
    torch.manual_seed(0)
    assert torch.equal(masking(pictures), first)
    hidden = first == 0
    assert torch.equal(first[~hidden], pictures[~hidden])
    cells = hidden.unfold(2, 8, 8).unfold(3, 8, 8).float().mean(dim=(1, 4, 5))
    assert set(cells.unique().tolist()) == {0, 1}
    shares = cells.mean(dim=(1, 2))
    assert 3 / 16 <= shares.min() < shares.max() <= 7 / 16  # 0.3 +- 0.1
    assert masking.eval()(pictures) is pictures
    assert BlockMasking(0.0)(pictures) is pictures


def test_pictures_that_patches_do_not_tile():
    with pytest.raises(UserError, match="20 x 32 do not split into patches of 16"):
        BlockMasking(0.3)(torch.rand(1, 3, 20, 32))
    with pytest.raises(UserError, match="patch=0 at least 1"):
        BlockMasking(0.3, patch=0)
