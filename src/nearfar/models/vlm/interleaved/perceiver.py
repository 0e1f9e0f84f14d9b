"""Learnt queries that sum up a sequence: of a picture's cells (the resampler of Flamingo, arXiv 2204.14198), and of a
text's states (COSMO, arXiv 2401.00849)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PerceiverAttention(nn.Module):
    """Attention of latents over tokens and over themselves, without a residual and without biases.

    Args:
        width: of latents and tokens.
        heads, head_width: of the attention, whose inner width is their product.
    """

    def __init__(self, width: int, heads: int = 8, head_width: int = 64) -> None:
        super().__init__()
        self.heads, inner = heads, heads * head_width
        self.token_norm, self.latent_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, inner, bias=False)
        self.key_value = nn.Linear(width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)

    def forward(self, tokens: Tensor, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """What latents `[N, M, W]` take of tokens `[N, P, W]`: `[N, M, W]`, floating point as they are. `mask`
        `[N, P]`, bool or integers: 0 leaves a token out."""
        tokens, latents = self.token_norm(tokens), self.latent_norm(latents)
        key, value = self.key_value(torch.cat([tokens, latents], dim=1)).chunk(2, dim=-1)
        allowed = None
        if mask is not None:
            own = torch.ones(latents.shape[:2], dtype=torch.bool, device=latents.device)
            allowed = torch.cat([mask.bool(), own], dim=1)[:, None, None]
        query, key, value = (split_heads(each, self.heads) for each in (self.query(latents), key, value))
        taken = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        return self.out(taken.transpose(1, 2).flatten(2))


class PerceiverResampler(nn.Module):
    """Of any number of a picture's cells as many tokens as there are latents, and before them its summaries, which are
    for contrast. The cells of all frames of a video may stand in one row.

    Args:
        width: of the cells, and of what is made of them.
        depth: layers, each attention and a feed-forward network (COSMO: 6).
        latents: tokens of a picture that a language model attends to (COSMO: 64).
        summaries: further latents, the first of all, that nothing but the contrast reads (COSMO: 1).
        heads, head_width: of the attention.

    >>> PerceiverResampler(16, depth=1, latents=4, heads=2, head_width=8)(torch.randn(2, 9, 16)).shape
    torch.Size([2, 5, 16])
    """

    def __init__(
        self,
        width: int,
        *,
        depth: int = 6,
        latents: int = 64,
        summaries: int = 1,
        heads: int = 8,
        head_width: int = 64,
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(summaries + latents, width))
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(width, heads, head_width), feed_forward(width, 4 * width)])
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Summaries and tokens `[N, summaries + latents, W]` of cells `[N, P, W]`, floating point as they are."""
        latents = self.latents.to(tokens.dtype).expand(len(tokens), -1, -1)
        layer: Any
        for layer in self.layers:
            attention, network = layer
            latents = latents + attention(tokens, latents)
            latents = latents + network(latents)
        return self.norm(latents)


class TextPooler(nn.Module):
    """One vector of a text's states: a learnt latent attends to them, once.

    Args:
        width: of the states, and of the vector.
        heads, head_width: of the attention.

    >>> pooler = TextPooler(16, heads=2, head_width=8)
    >>> pooler(torch.randn(2, 5, 16), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])).shape
    torch.Size([2, 16])
    """

    def __init__(self, width: int, *, heads: int = 8, head_width: int = 64) -> None:
        super().__init__()
        self.latent = nn.Parameter(torch.randn(1, width))
        self.attention = PerceiverAttention(width, heads, head_width)
        self.network = feed_forward(width, 4 * width)
        self.norm = nn.LayerNorm(width, bias=False)

    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """The vectors `[B, W]` of states `[B, L, W]`, floating point as they are. `mask` `[B, L]`, bool or integers: 0
        leaves a state out; None takes all."""
        latent = self.latent.to(states.dtype).expand(len(states), -1, -1)
        latent = latent + self.attention(states, latent, mask)
        latent = latent + self.network(latent)
        return self.norm(latent[:, 0])


def feed_forward(width: int, inner: int) -> nn.Sequential:
    """Norm, a layer to `inner`, GELU, a layer back; no biases beside the norm's."""
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, inner, bias=False), nn.GELU(), nn.Linear(inner, width, bias=False)
    )


def split_heads(values: Tensor, heads: int) -> Tensor:
    """Values `[B, L, H * E]`, floating point, as `[B, H, L, E]`."""
    return values.unflatten(-1, (heads, -1)).transpose(1, 2)
