"""What of a language model is not trained when it is grounded (VG-Bert, arXiv 2111.07180): the embeddings and first
layers, and everywhere the matrices of queries and keys, so that words attend to one another as before."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from nearfar.errors import UserError

QUERIES_AND_KEYS = re.compile(r"(^|\.)(query|key|q_proj|k_proj|q_lin|k_lin|q|k)(_proj)?\.(weight|bias)$")
"""Names of the parameters of queries and keys in transformers' text models."""
LAYER = re.compile(r"(^|\.)(layer|layers|h|block)\.(\d+)\.")


def freeze_language(backbone: nn.Module, *, layers: int = 4, query_key: bool = True) -> list[str]:
    """Take the gradient from the embeddings and the first `layers` layers of a text model, and from the matrices of
    queries and keys of all. What was frozen before stays so.

    Args:
        backbone: a text model of `transformers`: BERT and its kind, DistilBERT, T5's encoder.
        layers: how many of the first layers are frozen whole, with all that lies before them (paper: 4 of 12 in its
            second stage, 10 in its third); 0 leaves the embeddings trained, too.
        query_key: whether queries and keys are frozen in every layer (paper: yes).

    Returns:
        The names of the parameters that are frozen by it.

    Raises:
        UserError: more layers than there are, or a model whose layers, or queries and keys, go by other names.

    >>> from transformers import BertConfig, BertModel
    >>> sizes = {"vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2}
    >>> bert = BertModel(BertConfig(**sizes, intermediate_size=16), add_pooling_layer=False)
    >>> frozen = freeze_language(bert, layers=1)
    >>> trained = [name for name, p in bert.named_parameters() if p.requires_grad and "weight" in name]
    >>> trained[:2]
    ['encoder.layer.1.attention.self.value.weight', 'encoder.layer.1.attention.output.dense.weight']
    """
    names = [name for name, _ in backbone.named_parameters()]
    numbers = {name: int(place[3]) for name in names if (place := LAYER.search(name))}
    depth = max(numbers.values(), default=-1) + 1
    if not 0 <= layers <= depth:
        raise UserError(f"layers={layers}: a {type(backbone).__name__} has {depth} layers that can be frozen")
    last = max((i for i, name in enumerate(names) if name in numbers), default=-1)
    chosen = {name for name, number in numbers.items() if number < layers}
    if layers:  # embeddings; what comes after the layers, a last norm say, goes on
        chosen |= {name for i, name in enumerate(names) if name not in numbers and i < last}
    if query_key:
        these = {name for name in names if QUERIES_AND_KEYS.search(name)}
        if len({numbers.get(name) for name in these} - {None}) < depth:
            raise UserError(
                f"the queries and keys of a {type(backbone).__name__} have no matrices of their own that could be "
                "frozen: set query_key=False (method.frozen_query_key in a recipe)"
            )
        chosen |= these
    parameters: dict[str, Any] = dict(backbone.named_parameters())
    for name in chosen:
        parameters[name].requires_grad_(False)
    return [name for name in names if name in chosen]
