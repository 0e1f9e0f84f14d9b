"""Decoding: ways to choose the next token that need more of the model than its next-token probabilities.

`contrastive_search` is the one call to know; `contrastive_search_generate` is the same thing for transformers'
`model.generate(custom_generate=...)`; `contrastive_rerank` is the rule itself, over plain tensors.
"""

from nearfar.decoding.contrastive.contrastive_search import contrastive_search, contrastive_search_generate
from nearfar.decoding.contrastive.rerank import Ranking, contrastive_rerank, degeneration_penalty

__all__ = [
    "Ranking",
    "contrastive_rerank",
    "contrastive_search",
    "contrastive_search_generate",
    "degeneration_penalty",
]
