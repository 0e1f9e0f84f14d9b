"""Heads on fused states: does the text match the picture, and which word is hidden (ALBEF, arXiv 2107.07651)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class MatchingHead(nn.Module):
    """Image-text matching: two logits, *no match* and *match*, from the fused summary. One linear layer.

    >>> import torch
    >>> MatchingHead(8)(torch.zeros(4, 6, 8)).shape
    torch.Size([4, 2])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2)

    def forward(self, fused: Tensor) -> Tensor:
        """Logits `[B, 2]` of fused states `[B, L, W]` (their first token) or summaries `[B, W]`."""
        return self.linear(fused[:, 0] if fused.ndim == 3 else fused)


class MaskedLanguageHead(nn.Module):
    """BERT's: dense, GELU, layer norm, then the word embeddings themselves as the decoder, with a bias a word.

    The embeddings are handed to `forward`, not kept: they stay the text tower's, and a copy of the model stays tied.

    Args:
        width: of the states.
        vocabulary: how many words.
        embedding_width: of the word embeddings, where it is not `width`.
    """

    def __init__(self, width: int, vocabulary: int, *, embedding_width: int | None = None, eps: float = 1e-12) -> None:
        super().__init__()
        self.dense = nn.Linear(width, embedding_width or width)
        self.norm = nn.LayerNorm(embedding_width or width, eps=eps)
        self.bias = nn.Parameter(self.dense.weight.new_zeros(vocabulary))

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """Logits `[..., V]` of states `[..., W]`, given word embeddings `[V, E]`. Pass only the masked positions:
        the vocabulary is the widest tensor of a step."""
        return F.linear(self.norm(F.gelu(self.dense(states))), embeddings, self.bias)
