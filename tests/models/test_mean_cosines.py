"""The mean of cosines of patches and tokens, from one vector of each: against a table of all cosines in float64."""

import math

import pytest
import torch
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.models.vlm.mean_cosines import mean_direction, picture_direction, pooled_patches, token_patch_similarity


def table_of_cosines(patches, tokens, patch_mask, token_mask):
    """[N, M], with every cosine made."""
    scores = torch.zeros(len(patches), len(tokens), dtype=torch.float64)
    for i, picture in enumerate(patches):
        for j, text in enumerate(tokens):
            rows, columns = picture[patch_mask[i]], text[token_mask[j]]
            scores[i, j] = F.cosine_similarity(rows[:, None], columns[None], dim=-1).mean()
    return scores


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "m", "p", "length"), [(3, 4, 9, 5), (1, 1, 1, 1), (2, 5, 16, 7)])
def test_it_is_the_mean_of_a_table_of_cosines(n, m, p, length):
    patches, tokens = drawn(n, p, 6), drawn(m, length, 6, seed=1)
    patch_mask = torch.arange(p) < torch.arange(1, n + 1)[:, None].clamp(max=p)
    token_mask = torch.arange(length) < torch.arange(1, m + 1)[:, None].clamp(max=length)
    ours = token_patch_similarity(patches, tokens, patch_mask, token_mask, pool=None)
    torch.testing.assert_close(ours, table_of_cosines(patches, tokens, patch_mask, token_mask), rtol=1e-12, atol=1e-12)
    pooled, there = pooled_patches(patches, patch_mask)
    ours = token_patch_similarity(patches, tokens, patch_mask, token_mask)
    torch.testing.assert_close(ours, table_of_cosines(pooled, tokens, there, token_mask), rtol=1e-12, atol=1e-12)


def test_cells_are_those_of_adaptive_pooling_and_patches_that_do_not_count_are_in_none():
    patches = drawn(2, 25, 3)
    for pool in (1, 2, 3, 5):
        cells, there = pooled_patches(patches, pool=pool)
        expected = F.adaptive_avg_pool2d(patches.mT.unflatten(2, (5, 5)), pool).flatten(2).mT
        torch.testing.assert_close(cells, expected, rtol=1e-12, atol=1e-12)
        assert there.all()
    mask = torch.ones(2, 16, dtype=torch.int64)
    mask[0, [0, 1, 4, 5]] = 0  # the first of four cells
    mask[1, 0] = 0
    hollow = drawn(2, 16, 3).masked_fill(mask[..., None] == 0, math.nan)
    cells, there = pooled_patches(hollow, mask, pool=2)
    assert there.tolist() == [[False, True, True, True], [True] * 4]
    torch.testing.assert_close(cells[1, 0], hollow[1, [1, 4, 5]].mean(0))
    direction = picture_direction(hollow, mask, pool=2)
    torch.testing.assert_close(direction[0], F.normalize(cells[0, 1:], dim=1).mean(0))


def test_neither_mean_is_brought_to_unit_length():
    """Else a caption of many words, which point apart, would count as one whose words agree."""
    one_way, apart = torch.eye(2)[:1, None].expand(1, 4, 2), torch.eye(2)[None]
    similarity = token_patch_similarity(torch.eye(2)[:1, None], torch.cat([one_way[:, :2], apart]))
    torch.testing.assert_close(similarity, torch.tensor([[1.0, 0.5]]))


def test_order_padding_and_length_of_vectors_change_nothing():
    patches, tokens = drawn(2, 9, 5), drawn(3, 4, 5, seed=1)
    expected = token_patch_similarity(patches, tokens)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(token_patch_similarity(patches[:, order], tokens.flip(1)), expected)
    padded = torch.cat([tokens, torch.full((3, 2, 5), math.nan, dtype=torch.float64)], 1)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]] * 3)
    assert torch.equal(token_patch_similarity(patches, padded, token_mask=mask), expected)
    torch.testing.assert_close(token_patch_similarity(7.3 * patches, 0.2 * tokens), expected)
    products = token_patch_similarity(patches, tokens, normalize=False)
    torch.testing.assert_close(token_patch_similarity(7.3 * patches, tokens, normalize=False), 7.3 * products)
    torch.testing.assert_close(products, patches.mean(1) @ tokens.mean(1).mT)


def test_without_pooling_it_is_another_score_unless_all_patches_agree():
    """Pooling first weighs a patch by its length, and unit patches by how they agree."""
    patches, tokens = F.normalize(drawn(1, 4, 3), dim=-1), drawn(1, 2, 3, seed=1)
    each, mean = (token_patch_similarity(patches, tokens, pool=pool) for pool in (None, 1))
    assert (each - mean).abs() > 1e-3
    alike = patches[:, :1].expand(1, 4, 3)
    each, mean = (token_patch_similarity(alike, tokens, pool=pool) for pool in (None, 1))
    torch.testing.assert_close(each, mean, rtol=1e-12, atol=1e-12)


def test_it_is_one_only_where_all_point_one_way():
    patches, tokens = drawn(5, 9, 3), drawn(6, 4, 3, seed=1)
    assert token_patch_similarity(patches, tokens, pool=None).abs().max() < 1
    parallel = torch.linspace(0.1, 3, 4, dtype=torch.float64)[None, :, None] * drawn(1, 1, 3)
    both = token_patch_similarity(parallel, torch.cat([parallel, -parallel]), pool=None)
    torch.testing.assert_close(both, torch.tensor([[1.0, -1.0]], dtype=torch.float64))


def test_nothing_has_no_direction_and_no_gradient_of_nan():
    vectors = drawn(2, 3, 4).requires_grad_()
    with torch.no_grad():
        vectors[0, 0] = 0
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    direction = mean_direction(vectors, mask)
    assert direction[1].tolist() == [0, 0, 0, 0]
    direction.sum().backward()
    assert vectors.grad.isfinite().all()
    assert not vectors.grad[1].any()
    assert mean_direction(drawn(1, 2, 3).half()).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: token_patch_similarity(x, x[..., :3]), "patches are 4 wide and tokens 3"),
        (lambda x: token_patch_similarity(x[0], x), "floating-point"),
        (lambda x: token_patch_similarity(x, x.long()), "floating-point"),
        (lambda x: mean_direction(x, torch.ones(2, 4)), "a mask of"),
        (lambda x: pooled_patches(x, pool=2), "pool=2: 3 patches are no square grid"),
        (lambda x: pooled_patches(x[:, :1], pool=2), "no square grid of 2 cells"),
        (lambda x: pooled_patches(x, pool=0), "pool is 0"),
    ],
    ids=["widths", "no batch", "integers", "mask", "no square", "more cells", "none"],
)
def test_what_does_not_fit_is_named(call, said):
    with pytest.raises(UserError, match=said):
        call(torch.zeros(2, 3, 4))
