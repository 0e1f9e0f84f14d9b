"""Two tokens that a language model does not have: where a picture stands, and where what is said of it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.data.texts.documents_field import END_OF_CHUNK, PICTURE


class Marks(NamedTuple):
    """The ids of both tokens."""

    picture: int
    end: int


def with_marks(tokenizer: Any, max_length: int) -> Any:
    """A copy of a tokenizer that knows both tokens, wherever they stand in a text, and cuts texts to no less than
    `max_length`.

    >>> from nearfar.data import train_tokenizer
    >>> tokenizer = with_marks(train_tokenizer(["a red fox"], 300), 64)
    >>> [token for token in tokenizer.tokenize("a<visual>b<|endofchunk|>") if "<" in token]
    ['<visual>', '<|endofchunk|>']
    """
    from transformers import AddedToken

    own = deepcopy(tokenizer)
    known = own.get_vocab()
    # A blank before or behind a mark is none of the text's.
    fresh = [
        AddedToken(text, lstrip=True, rstrip=False, special=True, normalized=False)
        for text in (PICTURE, END_OF_CHUNK)
        if text not in known
    ]
    own.add_tokens(fresh, special_tokens=True)
    own.model_max_length = max(own.model_max_length, max_length)
    return own


def marks_of(tokenizer: Any) -> Marks:
    """Their ids in a tokenizer that has them."""
    return Marks(*tokenizer.convert_tokens_to_ids([PICTURE, END_OF_CHUNK]))


class MarkTokens(nn.Module):
    """The rows of both tokens in a language model's tables, of its input and of its output: learnt, while the tables
    stay as they are (the released COSMO freezes all, and cannot learn to end what it says).

    Args:
        marks: their ids. The model may have no rows for them, or some that are not used.
        lm: the causal language model of transformers. It is not changed.
    """

    def __init__(self, marks: Marks, lm: Any) -> None:
        super().__init__()
        self.marks = marks
        self.input = nn.Parameter(_like_rows(lm.get_input_embeddings()))
        self.output = nn.Parameter(_like_rows(lm.get_output_embeddings()))

    @contextmanager
    def known_to(self, lm: Any) -> Iterator[None]:
        """Within this context the language model reads and writes both tokens, by their ids."""
        read: list[Tensor] = []

        def without(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            read[:] = [args[0]]
            new = (args[0] == self.marks.picture) | (args[0] == self.marks.end)
            return (args[0].masked_fill(new, 0), *args[1:])

        def embedded(module: nn.Module, args: tuple[Tensor, ...], vectors: Tensor) -> Tensor:
            for mark, row in zip(self.marks, self.input.to(vectors.dtype), strict=True):
                vectors = torch.where((read[0] == mark)[..., None], row, vectors)
            return vectors

        def scored(module: nn.Module, args: tuple[Tensor, ...], logits: Tensor) -> Tensor:
            own = F.linear(args[0], self.output.to(args[0].dtype)).to(logits.dtype)
            wider = F.pad(logits, (0, max(0, max(self.marks) + 1 - logits.shape[-1])))
            return wider.index_copy(-1, torch.tensor(self.marks, device=logits.device), own)

        table, head = lm.get_input_embeddings(), lm.get_output_embeddings()
        with ExitStack() as stack:
            for handle in (
                table.register_forward_pre_hook(without),
                table.register_forward_hook(embedded),
                head.register_forward_hook(scored),
            ):
                stack.callback(handle.remove)
            yield


@torch.no_grad()
def _like_rows(table: Any) -> Tensor:
    """Two rows `[2, W]` drawn like those of a table of embeddings."""
    weight = table.weight
    if isinstance(table, nn.Embedding):  # asked for tokens, so that a scale of its own is in the rows, too
        weight = table(torch.arange(min(len(weight), 4096), device=weight.device))
    wide = weight.float()
    rows = wide.mean(0) + wide.std(0) * torch.randn(2, wide.shape[1], device=wide.device)
    return rows.to(table.weight.dtype)
