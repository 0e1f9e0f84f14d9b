"""Leaves attend as if keys were repeated for every head, whatever a layer's share of heads."""

from types import SimpleNamespace

import pytest
import torch

from nearfar.decoding.contrastive.attention import grouped, grouped_attention, mask_of_leaves


def model_of(kind, heads, groups):
    config = SimpleNamespace(_attn_implementation=kind, num_attention_heads=heads, num_key_value_heads=groups)
    config.get_text_config = lambda decoder: config
    return SimpleNamespace(config=config, dtype=torch.float32)


def visible(batch, leaves, length):
    prefix = torch.rand(batch, 1, leaves, length, generator=torch.Generator().manual_seed(1)) < 0.6
    return torch.cat([prefix, torch.eye(leaves, dtype=torch.bool).expand(batch, 1, -1, -1)], dim=-1)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
@pytest.mark.parametrize(("batch", "rows"), [(1, 1), (3, 3), (3, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_layer_attends_by_its_own_share_of_heads(groups, batch, rows, dtype):
    """The mask is made for two groups of the model's config; a layer may have others."""
    torch.manual_seed(0)
    heads, leaves, length, dim = 8, 4, 6, 5
    shown = visible(rows, leaves, length)
    query = torch.randn(batch, heads, leaves, dim, dtype=dtype)
    key, value = (torch.randn(batch, groups, length + leaves, dim, dtype=dtype) for _ in range(2))
    mask = mask_of_leaves(model_of("nearfar_grouped", heads, 2), shown)
    assert mask.shape == (rows, 1, 4 * leaves, length + leaves)
    module = SimpleNamespace(num_key_value_groups=heads // groups, is_causal=True)
    out, _ = grouped_attention(module, query, key, value, mask.to(dtype), scaling=0.3)
    repeated = (states.repeat_interleave(heads // groups, dim=1) for states in (key, value))
    scores = (query @ next(repeated).transpose(-1, -2) * 0.3).masked_fill(~shown, -torch.inf)
    expected = (scores.softmax(-1) @ next(repeated)).transpose(1, 2)
    torch.testing.assert_close(out, expected)


def test_masks_of_other_attention():
    shown = visible(2, 3, 4)
    assert mask_of_leaves(model_of("sdpa", 4, 4), shown) is shown
    added = mask_of_leaves(model_of("eager", 4, 4), shown)
    assert added.dtype == torch.float32
    assert torch.equal(added == 0, shown)
    assert torch.equal(added == -torch.inf, ~shown)


@pytest.mark.parametrize(("kind", "groups"), [("eager", 2), ("sdpa", 4)])
def test_models_that_share_no_keys_are_left_alone(kind, groups):
    model = model_of(kind, 4, groups)
    with grouped(model):
        assert model.config._attn_implementation == kind
