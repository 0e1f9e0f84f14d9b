"""A generator of picture embeddings of a class by its name (OGEN, arXiv 2401.15914)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError

Form = Literal["paper", "code"]


class ClassConditionalFeatureGenerator(nn.Module):
    """Attention from a class that has no pictures to classes that have some.

    Q is the text embedding of the class, K those of its neighbours, V the neighbours' pictures. With A = MHA(Q, K, V):

        paper   g = unit( LayerNorm( Q + A ) )
        code    g = unit( MLP(Q) + A )            MLP: two linear layers with a ReLU between them

    The order of neighbours does not matter. With one neighbour the softmax is over one key, so that A is a linear map
    of its picture whatever Q and K are, and the class enters beside it alone.

    Args:
        dim: D, the width of embeddings.
        heads: of the attention; they divide D (paper: 4).
        hidden: width of the MLP between its layers; by default D.
        dropout: in the attention (code: 0.1).
        form: "paper", with a residual and a layer norm, or "code", as in the released code.

    Raises:
        UserError: heads that do not divide the width, or no such form.

    >>> import torch
    >>> generator = ClassConditionalFeatureGenerator(8).eval()
    >>> name, names, pictures = torch.randn(5, 1, 8), torch.randn(5, 3, 8), torch.randn(5, 3, 8)
    >>> generator(name, names, pictures).norm(dim=-1).flatten().round(decimals=4)
    tensor([1., 1., 1., 1., 1.], grad_fn=<RoundBackward1>)
    """

    def __init__(
        self, dim: int, heads: int = 4, *, hidden: int | None = None, dropout: float = 0.1, form: Form = "paper"
    ) -> None:
        super().__init__()
        if form not in ("paper", "code"):
            raise UserError(f"form is {form!r}: choose paper or code")
        if heads < 1 or dim % heads:
            raise UserError(f"heads is {heads}, and embeddings are {dim} wide: choose a number that divides it")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout is {dropout}: a share from 0 to below 1")
        self.form = form
        self.attention = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.norm = nn.LayerNorm(dim) if form == "paper" else None
        wide = hidden or dim
        self.mlp = nn.Sequential(nn.Linear(dim, wide), nn.ReLU(), nn.Linear(wide, dim)) if form == "code" else None

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Unit embeddings `[N, Q, D]`, of names `query` `[N, Q, D]`, neighbours' names `key` and their pictures `value`
        `[N, K, D]`, floating point in the weights' dtype."""
        attended = self.attention(query, key, value, need_weights=False)[0]
        if self.norm is not None:
            return F.normalize(self.norm(query + attended), dim=-1)
        assert self.mlp is not None
        return F.normalize(self.mlp(query) + attended, dim=-1)
