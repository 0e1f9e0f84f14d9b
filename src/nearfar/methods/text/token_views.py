"""Views of what an encoder reads of a text, its token embeddings, in place of views of the text: ConSERT's five (arXiv
2105.11741, section 3.2). They need no words, so that they do for languages without blanks, too.

    shuffle          the tokens come in another order
    token_cutoff     rows of the matrix of token embeddings are zero
    feature_cutoff   columns of it are zero
    dropout          single numbers of it are zero
    adversarial      it moves the way that takes the text furthest from its other view
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError

View = Literal["none", "shuffle", "token_cutoff", "feature_cutoff", "dropout", "adversarial"]
Change = Callable[[Tensor], Tensor]


def check_view(name: str, view: str) -> View:
    """The view, if there is one of this name.

    Raises:
        UserError: there is none.
    """
    if view not in get_args(View):
        raise UserError(f"{name}={view!r}: choose one of {', '.join(get_args(View))}")
    return view  # type: ignore[return-value]


def shuffled(tokens: Mapping[str, Tensor], tokenizer: Any) -> dict[str, Tensor]:
    """The tokens of each text in another order, special tokens and padding where they were. An encoder that knows the
    order by positions alone gives what it gives for positions in another order, as ConSERT does it.

    Risk: moderate to high, as of `nearfar.data.texts.word_changes.shuffle_words`.

    Args:
        tokens: `input_ids` and `attention_mask`, each `[N, L]` int64.
        tokenizer: says which ids are special.

    Returns:
        the same keys, each `[N, L]` int64.

    >>> from nearfar.models import text_encoder
    >>> model = text_encoder("minilm")
    >>> tokens = shuffled(model.tokenize(["a b c d"]), model.tokenizer)
    >>> sorted(model.tokenizer.decode(tokens["input_ids"][0]).split())
    ['[CLS]', '[SEP]', 'a', 'b', 'c', 'd']
    """
    ids = tokens["input_ids"]
    special = torch.tensor(tokenizer.all_special_ids, device=ids.device)
    moves = (tokens["attention_mask"] > 0) & ~torch.isin(ids, special)
    # Ids that move, in the order of numbers drawn, and the places they may take, from left to right.
    drawn = _uniform(ids.shape, ids).masked_fill(~moves, 2.0).argsort(1)
    places = (~moves).to(torch.int8).argsort(stable=True, dim=1)
    placed = ids.scatter(1, places, ids.gather(1, drawn))
    return {**tokens, "input_ids": placed.where(moves, ids)}


def cut_tokens(embedded: Tensor, mask: Tensor, share: float) -> Tensor:
    """Token embeddings `embedded` `[N, L, W]`, floating point, with `share` of the attended tokens of each text,
    rounded down, at zero; `mask` `[N, L]` int64 is 1 where a token is attended. ConSERT's released code (arXiv
    2105.11741) counts special tokens among them.

    Risk: high, as of `nearfar.data.texts.token_cutoff`, which hides tokens behind the mask token.

    >>> cut_tokens(torch.ones(1, 4, 1), torch.tensor([[1, 1, 1, 1]]), 0.5).sum().item()
    2.0
    """
    count = (mask.sum(1) * share).floor()
    rank = _uniform(mask.shape, embedded).masked_fill(mask == 0, 2.0).argsort(1).argsort(1)
    return embedded.masked_fill((rank < count[:, None])[..., None], 0)


def cut_features(embedded: Tensor, share: float) -> Tensor:
    """Token embeddings `embedded` `[N, L, W]`, floating point, with `share` of the W features of each text, rounded
    down, at zero in all its tokens.

    Risk: low: every token keeps most of its features.

    >>> cut_features(torch.ones(1, 2, 5), 0.4)[0, 0].sum().item()
    3.0
    """
    n, _, width = embedded.shape
    rank = _uniform((n, width), embedded).argsort(1).argsort(1)
    return embedded.masked_fill((rank < int(width * share))[:, None], 0)


def drop_numbers(embedded: Tensor, share: float) -> Tensor:
    """Token embeddings `embedded` `[N, L, W]`, floating point, each number of which is zero with the chance `share`;
    the others are not made larger, as dropout would make them.

    Risk: low, as of `cut_features`.

    >>> drop_numbers(torch.ones(1, 2, 2), 0.0).tolist()
    [[[1.0, 1.0], [1.0, 1.0]]]
    """
    return embedded.masked_fill(_uniform(embedded.shape, embedded) < share, 0)


def away_from(other: Tensor, encode: Callable[[], Tensor], model: Any, noise: float) -> Change:
    """What moves each token embedding by `noise` the way that takes a text furthest from its other view: against the
    gradient of the cosine of both, of unit length in each token (the fast gradient value, arXiv 1605.07725). ConSERT
    takes the gradient of a loss on labelled pairs, and so has this view with labels alone.

    Args:
        other: the embeddings `[N, D]`, floating point, of the other view.
        encode: gives the embeddings `[N, D]` of the texts as they are.
        model: the encoder within `encode`.
        noise: how far, in the unit of the token embeddings.

    Returns:
        a function of token embeddings `[N, L, W]`.
    """
    leaves: list[Tensor] = []

    def as_leaf(embedded: Tensor) -> Tensor:
        leaves.append(embedded.detach().requires_grad_())
        return leaves[0]

    with torch.enable_grad(), changed(model, as_leaf):
        z = encode()
        exact = torch.promote_types(z.dtype, torch.float32)
        cosine = F.cosine_similarity(z.to(exact), other.detach().to(exact), dim=1).sum()
    (gradient,) = torch.autograd.grad(cosine, leaves)
    step = -noise * F.normalize(gradient, dim=-1)
    return lambda embedded: embedded + step


@contextmanager
def changed(model: Any, change: Change) -> Iterator[None]:
    """Until the block ends, the encoder `model` reads `change` of its token embeddings `[N, L, W]`: behind the whole
    embedding layer of a BERT and its like, positions and norm included; behind the word embeddings of a model that has
    no such layer (T5, GPT-2).

    Raises:
        UserError: a model without a text tower.
    """
    handle = _embedding_layer(model).register_forward_hook(lambda layer, inputs, output: change(output))
    try:
        yield
    finally:
        handle.remove()


def _embedding_layer(model: Any) -> nn.Module:
    backbone = getattr(getattr(model, "text", None), "backbone", None)
    if backbone is None or getattr(model, "tokenizer", None) is None:
        raise UserError(
            f"views of token embeddings need a text tower and its tokenizer, and a {type(model).__name__} has none: "
            "take a text_encoder"
        )
    layer = getattr(backbone, "embeddings", None)
    return layer if isinstance(layer, nn.Module) else backbone.get_input_embeddings()


def _uniform(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Numbers from 0 to 1, float32, on the device of another tensor."""
    return torch.rand(shape, device=like.device)
