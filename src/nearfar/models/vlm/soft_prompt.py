"""Prompts that are vectors: they begin as the tokens of a prompt written by hand, and are learnt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SoftPrompt(nn.Module):
    """Vectors that stand in the place of a prompt's tokens (prompt tuning, arXiv 2104.08691). At first they are what
    the language model reads for these tokens, so that nothing changes.

    Args:
        ids: the prompt's tokens, m of them.
        embedding: the language model's module of input embeddings: asked for tokens, so that a scale of its own, such
            as Gemma's, is in the vectors, too.

    Attributes:
        vectors: `[m, W]`, in the embeddings' dtype.

    >>> words = nn.Embedding(9, 4)
    >>> prompt = SoftPrompt([7, 8], words)
    >>> torch.equal(prompt.vectors, words(torch.tensor([7, 8])))
    True
    """

    def __init__(self, ids: Sequence[int], embedding: nn.Module) -> None:
        super().__init__()
        self.ids = list(ids)
        device = next(embedding.parameters()).device
        with torch.no_grad():
            self.vectors = nn.Parameter(embedding(torch.tensor(self.ids, device=device)).clone())

    @property
    def count(self) -> int:
        """The number m of its vectors."""
        return len(self.ids)

    def placed(self, embedded: Tensor, first: Tensor) -> Tensor:
        """Embeddings `[B, L, W]`, floating point, with these vectors from place `first` `[B]` int64 of each row on.

        >>> prompt = SoftPrompt([1], nn.Embedding(2, 3))
        >>> changed = prompt.placed(torch.zeros(2, 4, 3), torch.tensor([0, 2]))
        >>> (changed != 0).any(-1).nonzero().tolist()
        [[0, 0], [1, 2]]
        """
        rows = torch.arange(len(embedded), device=embedded.device)[:, None]
        places = first[:, None] + torch.arange(self.count, device=embedded.device)
        vectors = self.vectors.to(embedded.dtype).expand(len(embedded), -1, -1)
        return embedded.index_put((rows, places), vectors)
