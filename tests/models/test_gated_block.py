"""Gated cross-attention: what it is at first, its size, which pictures a token sees; the perceiver's attention."""

import math

import pytest
import torch
from torch import nn

from nearfar.errors import UserError
from nearfar.models.vlm.interleaved.gated_block import GatedCrossAttention, media_times, visible_media
from nearfar.models.vlm.interleaved.perceiver import PerceiverAttention, PerceiverResampler, TextPooler


def moved(module):
    """A module all of whose parameters are elsewhere than they were drawn."""
    chance = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=chance, dtype=weight.dtype))
    return module


@pytest.mark.parametrize(("compress", "total"), [(2, 18_358_274), (1, 36_708_354)])
def test_a_block_has_as_many_parameters_as_the_formula_says(compress, total):
    with torch.device("meta"):
        block = GatedCrossAttention(2048, 1024, compress=compress)
    inner = 512 // compress
    formula = 4 * 2048 + 2 * 2048 * inner + 2 * 1024 * inner + 8 * 2048**2 // compress + 2
    assert sum(weight.numel() for weight in block.parameters()) == formula == total
    assert block.heads == 8


def test_with_its_gates_at_0_it_changes_nothing():
    torch.manual_seed(0)
    block, x, media = GatedCrossAttention(16, 12, heads=2, head_width=8), torch.randn(2, 5, 16), torch.randn(2, 6, 12)
    visible = torch.ones(2, 5, 6, dtype=torch.bool)
    assert torch.equal(block(x, *block.read(media), visible), x)
    with torch.no_grad():
        block.network_gate.fill_(0.5)
    only_network = x + math.tanh(0.5) * block.network(x)
    torch.testing.assert_close(block(x, *block.read(media), visible), only_network)


def test_it_is_the_formula():
    block = moved(GatedCrossAttention(16, 12, heads=2, head_width=8, compress=2)).double()
    x, media = torch.randn(2, 3, 16).double(), torch.randn(2, 4, 12).double()
    visible = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1]]).bool().expand(2, -1, -1)
    out = block(x, *block.read(media), visible)
    query = block.norm(x) @ block.query.weight.T
    key, value = (media @ block.key_value.weight.T).split(8, dim=2)
    attended = torch.zeros(2, 3, 8).double()
    for b in range(2):
        for t in range(3):
            for h in range(2):
                part = slice(4 * h, 4 * h + 4)
                sees = [s for s in range(4) if visible[b, t, s]]
                score = torch.stack([query[b, t, part] @ key[b, s, part] / 2 for s in sees]).softmax(0)
                attended[b, t, part] = sum(w * value[b, s, part] for w, s in zip(score, sees, strict=True))
    middle = x + block.attention_gate.tanh() * (attended @ block.out.weight.T)
    inner = nn.functional.gelu(block.network[0](middle) @ block.network[1].weight.T)
    torch.testing.assert_close(out, middle + block.network_gate.tanh() * (inner @ block.network[3].weight.T))


def test_a_token_sees_the_last_picture_before_it_or_all():
    mark = 9
    times = media_times(torch.tensor([[mark, 5, mark, 6, 6], [5, mark, 6, 6, 6]]), mark)
    assert times.tolist() == [[1, 1, 2, 2, 2], [0, 1, 1, 1, 1]]
    latest, every = visible_media(times, 2), visible_media(times, 2, "all")
    assert latest[0].int().tolist() == [[1, 0], [1, 0], [0, 1], [0, 1], [0, 1]]
    assert every[0].int().tolist() == [[1, 0], [1, 0], [1, 1], [1, 1], [1, 1]]
    assert latest[1].int().tolist() == every[1].int().tolist() == [[0, 0], [1, 0], [1, 0], [1, 0], [1, 0]]


def test_the_attention_of_a_token_before_all_pictures_is_0():
    block = moved(GatedCrossAttention(16, 12, heads=2, head_width=8))
    x, media = torch.randn(1, 3, 16), torch.randn(1, 4, 12)
    visible = torch.tensor([[[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]]).bool()
    attended = block.attended(x, *block.read(media), visible)
    assert (attended[0, 0] == 0).all()
    assert attended[0, 1:].abs().min() > 0
    attended[0, 0].sum().backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in block.parameters())
    nothing = block.attended(x, *block.read(media[:, :0]), visible[:, :, :0])
    assert torch.equal(nothing, torch.zeros_like(x))


def test_widths_that_do_not_divide_are_named():
    with pytest.raises(UserError, match="compress=3 does not divide the width of a head, 64"):
        GatedCrossAttention(16, 12, compress=3)
    with pytest.raises(UserError, match="compress"):
        GatedCrossAttention(16, 12, compress=0)


def test_latents_attend_to_tokens_and_to_themselves():
    attention = moved(PerceiverAttention(8, heads=2, head_width=4)).double()
    tokens, latents = torch.randn(1, 3, 8).double(), torch.randn(1, 2, 8).double()
    rows = torch.cat([attention.token_norm(tokens), attention.latent_norm(latents)], 1)[0]
    key, value = (rows @ attention.key_value.weight.T).split(8, dim=1)
    query = (attention.latent_norm(latents) @ attention.query.weight.T)[0]
    parts = [(query[:, p] @ key[:, p].T / 2).softmax(1) @ value[:, p] for p in (slice(4), slice(4, 8))]
    torch.testing.assert_close(attention(tokens, latents)[0], torch.cat(parts, 1) @ attention.out.weight.T)


def test_what_a_mask_leaves_out_is_not_there():
    pooler = moved(TextPooler(8, heads=2, head_width=4)).double()
    states = torch.randn(2, 5, 8).double()
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    masked = pooler(states, mask)
    torch.testing.assert_close(masked[0], pooler(states[:1, :3])[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(masked[1], pooler(states[1:])[0], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(masked[0], pooler(states)[0])
    assert pooler.norm.bias is None
    assert pooler(states[:0], mask[:0]).shape == (0, 8)


def test_a_resampler_makes_summaries_and_tokens_of_any_number_of_cells():
    resampler = moved(PerceiverResampler(8, depth=2, latents=3, summaries=1, heads=2, head_width=4))
    cells = torch.randn(2, 7, 8)
    made = resampler(cells)
    assert made.shape == (2, 4, 8)
    order = torch.randperm(7)
    torch.testing.assert_close(resampler(cells[:, order]), made, rtol=1e-5, atol=1e-5)  # cells have no order
    torch.testing.assert_close(resampler(cells[1:]), made[1:], rtol=1e-5, atol=1e-5)
    # Latents, two layers of attention (its two norms, q, kv, out) and network (norm, up, down), and the last norm.
    layer = 2 * 16 + 8 * 8 + 8 * 16 + 8 * 8 + 16 + 2 * 8 * 32
    assert sum(weight.numel() for weight in resampler.parameters()) == 4 * 8 + 2 * layer + 16
