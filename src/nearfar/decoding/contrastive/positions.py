"""How many tokens a model has positions for: past them transformers ends in an IndexError from deep inside."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nearfar.errors import UserError


class Positions:
    """The positions that a model has learned, if it has, and how many of them the longest row of the prompt takes."""

    def __init__(self, model: Any, ids: Tensor, mask: Tensor | None) -> None:
        self.name = type(model).__name__
        self.limit = position_limit(model)
        self.used = ids.shape[1] if mask is None else int((mask != 0).sum(dim=-1).max())
        if self.limit is not None and self.used > self.limit:
            raise UserError(
                f"the prompt has {self.used} tokens and {self.name} positions for {self.limit}: cut it to {self.limit} "
                "tokens less max_new_tokens"
            )

    def check(self, added: int) -> None:
        """Raise a `UserError` where there is no position for one more token after `added` new ones."""
        if self.limit is not None and self.used + added >= self.limit:
            raise UserError(
                f"{self.name} has positions for {self.limit} tokens, and the prompt takes {self.used} of them: set "
                f"max_new_tokens to {self.limit - self.used} at most, or cut the prompt"
            )


def position_limit(model: Any) -> int | None:
    """The length of a decoder's table of positions (GPT-2, OPT, BART, GPT-J); None where positions are computed."""
    decoder = model.get_decoder()
    for name, module in decoder.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and last in ("wpe", "embed_positions", "position_embeddings"):
            padding = -1 if module.padding_idx is None else module.padding_idx
            return module.num_embeddings - int(getattr(module, "offset", padding + 1))
    return next((len(table) for name, table in decoder.named_buffers() if name.endswith("attn.embed_positions")), None)
