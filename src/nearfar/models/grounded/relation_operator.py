"""Which relation holds between two things: a bilinear form for each relation (VG-Bert, arXiv 2111.07180),

    score(r; i, j) = u_i^T R_r u_j ,   |R_r|_F = 1 ,

or, to compare it with, a perceptron over both vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BilinearRelation(nn.Module):
    """A matrix for each relation, of Frobenius norm 1 whatever its entries, so that |score| <= |u_i| |u_j|.

    Args:
        relations: how many, no relation included.
        dim: of the vectors (paper: 32).
        dropout: on the entries of the normalised matrices.

    >>> operator = BilinearRelation(3, 4)
    >>> operator(torch.randn(2, 5, 4)).shape
    torch.Size([2, 3, 5, 5])
    """

    def __init__(self, relations: int, dim: int = 32, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.matrices = nn.Parameter(torch.empty(relations, dim, dim))
        for matrix in self.matrices:
            nn.init.xavier_uniform_(matrix)
        self.dropout = dropout

    def forward(self, u: Tensor) -> Tensor:
        """Scores `[B, R, N, N]` of things `[B, N, D]`, floating point: (b, r, i, j) of relation r from i to j."""
        return torch.einsum("bid,rde,bje->brij", u, self._normalised(), u)

    def pairs(self, subject: Tensor, target: Tensor) -> Tensor:
        """Scores `[K, R]` of pairs: `subject` and `target` `[K, D]`, floating point."""
        return torch.einsum("kd,rde,ke->kr", subject, self._normalised(), target)

    def _normalised(self) -> Tensor:
        unit = F.normalize(self.matrices.flatten(1), dim=1).view_as(self.matrices)
        return F.dropout(unit, self.dropout, self.training)


class ConcatRelation(nn.Module):
    """A perceptron over the vectors of both things, one beside the other: what the bilinear operator is held against.

    Args:
        relations, dim, dropout: as for `BilinearRelation`; the dropout is on the hidden layer.
        hidden: its width; by default so that it has about as many weights as the bilinear one.

    >>> ConcatRelation(3, 4)(torch.randn(2, 5, 4)).shape
    torch.Size([2, 3, 5, 5])
    """

    def __init__(self, relations: int, dim: int = 32, *, dropout: float = 0.1, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or max(1, relations * dim * dim // (2 * dim + relations))
        self.layers = nn.Sequential(
            nn.Linear(2 * dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, relations)
        )

    def forward(self, u: Tensor) -> Tensor:
        """As `BilinearRelation`: scores `[B, R, N, N]` of things `[B, N, D]`, floating point."""
        n = u.shape[1]
        both = torch.cat([u[:, :, None].expand(-1, -1, n, -1), u[:, None].expand(-1, n, -1, -1)], dim=3)
        return self.layers(both).movedim(3, 1)

    def pairs(self, subject: Tensor, target: Tensor) -> Tensor:
        """Scores `[K, R]` of pairs: `subject` and `target` `[K, D]`, floating point."""
        return self.layers(torch.cat([subject, target], dim=1))


OPERATORS = {"bilinear": BilinearRelation, "concat": ConcatRelation}
"""By the name that a model's settings use."""
