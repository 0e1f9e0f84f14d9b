"""Class names in the light of a video: X-CLIP's video-specific prompts (arXiv 2208.02816, equation 10)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.models.video.frame_integration import QuickGELU, small_weights


class PromptLayer(nn.Module):
    """Texts attend to the patches of a video, each text for itself; then two dense layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), QuickGELU(), nn.Linear(4 * width, width))

    def forward(self, texts: Tensor, patches: Tensor) -> Tensor:
        inputs = (self.query(self.norm1(texts)), self.key(patches), self.value(patches))
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in inputs)  # [B, heads, ., D / heads]
        texts = texts + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return texts + self.mlp(self.norm2(texts))


class VideoPrompts(nn.Module):
    """Text embeddings u adapted to each video: `u + alpha * g`, where g are the texts after they attended to the
    video's patches. g holds u itself, through the layers' residual stream.

    Args:
        width: of the patches.
        dim: of the embeddings.
        layers: how many (paper: 2).
        heads: of each; by default one for each 64 of `dim`.
        alpha: the start of the learned share of g, one number a dimension (paper: 0.1).

    >>> prompts = VideoPrompts(8, 4)
    >>> prompts(torch.randn(3, 4), prompts.patches(torch.randn(2, 5, 6, 8))).shape
    torch.Size([2, 3, 4])
    """

    def __init__(self, width: int, dim: int, layers: int = 2, heads: int | None = None, alpha: float = 0.1) -> None:
        super().__init__()
        self.norm_patches = nn.LayerNorm(width)
        # Not scaled, as in the released code: the norm that follows makes it harmless.
        self.projection = nn.Parameter(torch.randn(width, dim))
        self.norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(PromptLayer(dim, heads or max(1, dim // 64)) for _ in range(layers))
        self.alpha = nn.Parameter(torch.full((dim,), float(alpha)))
        self.layers.apply(small_weights)

    def patches(self, patches: Tensor) -> Tensor:
        """What texts attend to `[B, P, D]`, floating point: the mean over time of patches `[B, T, P, W]`, projected."""
        return (self.norm_patches(patches) @ self.projection).mean(1)

    def forward(self, texts: Tensor, patches: Tensor) -> Tensor:
        """Texts `[B, K, D]` for each video, floating point, of texts `[K, D]` and what `patches` returned `[B, P, D]`.
        Each text is adapted by itself."""
        start = texts.expand(len(patches), *texts.shape[-2:])
        adapted, normed = start, self.norm(patches)
        for layer in self.layers:
            adapted = layer(adapted, normed)
        return start + self.alpha * adapted
