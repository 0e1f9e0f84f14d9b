"""Gated cross-attention, which a language model's layers are given pictures by (Flamingo, arXiv 2204.14198), narrowed
as COSMO does it (arXiv 2401.00849); and which pictures a token sees."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError, at_least
from nearfar.models.vlm.interleaved.perceiver import feed_forward, split_heads

Attend = Literal["latest", "all"]


class GatedCrossAttention(nn.Module):
    """A block before a layer of a language model:

        x <- x + tanh(g_a) CA(x, media)        x <- x + tanh(g_f) FF(x)

    with g_a = g_f = 0 at first, so that the language model is what it was. CA is attention with a norm before it and
    without biases, FF a norm, a layer, GELU, a layer.

    Args:
        width: d, of the language model.
        media_width: of the media.
        heads, head_width: of the attention, before it is narrowed (COSMO: 8 of 64).
        compress: c, by which the inner widths of CA and FF are divided (COSMO: 2; Flamingo: 1). The block has
            4 d + 2 d i + 2 d_v i + 8 d^2 / c + 2 parameters, i = heads * head_width / c.

    Raises:
        UserError: inner widths that `compress` does not divide.

    >>> block = GatedCrossAttention(16, 8, heads=2, head_width=8, compress=2)
    >>> x, media = torch.randn(2, 5, 16), block.read(torch.randn(2, 3, 8))
    >>> torch.equal(block(x, *media, torch.ones(2, 5, 3, dtype=torch.bool)), x)
    True
    """

    def __init__(
        self, width: int, media_width: int, *, heads: int = 8, head_width: int = 64, compress: int = 1
    ) -> None:
        super().__init__()
        at_least(1, heads=heads, head_width=head_width, compress=compress)
        if head_width % compress or 4 * width % compress:
            raise UserError(
                f"compress={compress} does not divide the width of a head, {head_width}, and four times that of the "
                f"language model, {width}: take 1, 2 or 4"
            )
        self.heads, inner = heads, heads * head_width // compress
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, inner, bias=False)
        self.key_value = nn.Linear(media_width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        self.network = feed_forward(width, 4 * width // compress)
        self.attention_gate, self.network_gate = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def read(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each `[B, H, S, E]`, of media `[B, S, V]`, floating point: once for all steps of writing."""
        key, value = self.key_value(media).chunk(2, dim=-1)
        return split_heads(key, self.heads), split_heads(value, self.heads)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
        """States `[B, L, W]` after the block, of states x `[B, L, W]`, floating point, and what `read` made of media.
        `visible` `[B, L, S]` bool says which a state sees; the attention of one that sees none is 0."""
        x = x + self.attention_gate.tanh() * self.attended(x, key, value, visible)
        return x + self.network_gate.tanh() * self.network(x)

    def attended(self, x: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
        """CA `[B, L, W]`, of the arguments of `forward`."""
        if not key.shape[2]:
            return torch.zeros_like(x)
        some = visible.any(-1, keepdim=True)  # a row of a softmax without any were NaN
        query = split_heads(self.query(self.norm(x)), self.heads)
        taken = F.scaled_dot_product_attention(query, key, value, attn_mask=(visible | ~some)[:, None])
        return self.out(taken.transpose(1, 2).flatten(2)).masked_fill(~some, 0)


def media_times(ids: Tensor, mark: int) -> Tensor:
    """How many pictures stand before or at each token of `ids` `[B, L]` int64, where `mark` stands for one: `[B, L]`.

    >>> media_times(torch.tensor([[9, 5, 9, 6, 6]]), mark=9)
    tensor([[1, 1, 2, 2, 2]])
    """
    return (ids == mark).cumsum(1)


def visible_media(times: Tensor, pictures: int, attend: Attend = "latest") -> Tensor:
    """Which of a row's pictures each token sees: `[B, L, pictures]` bool.

    Args:
        times: `media_times`, `[B, L]` int64.
        pictures: of each row.
        attend: "latest", the last picture that stands before it; "all" that do.

    >>> visible_media(torch.tensor([[0, 1, 2]]), 2).int().tolist()
    [[[0, 0], [1, 0], [0, 1]]]
    >>> visible_media(torch.tensor([[0, 1, 2]]), 2, "all").int().tolist()
    [[[0, 0], [1, 0], [1, 1]]]
    """
    number = torch.arange(1, pictures + 1, device=times.device)
    return times[..., None] == number if attend == "latest" else times[..., None] >= number
