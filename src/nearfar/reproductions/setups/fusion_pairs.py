"""What the reproductions of ALBEF and TCL share: a small fusion model on a pretrained image tower, and its training.

The paper starts from an image encoder trained on ImageNet; so do these, from EfficientNet-Lite0, which stays as it is:
it reads each picture once, and every arm trains on what it gave. Text layers, fusion and heads start from scratch.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

WIDTH = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512, "attention_probs_dropout_prob": 0.0}
MODEL: dict[str, Any] = {
    "image": "efficientnet-lite0",
    "text": {"model_type": "bert", "num_hidden_layers": 2, "max_position_embeddings": 32, **WIDTH},
    "text_layers": 1,
    "image_size": 128,  # a map of 4 x 4, which TCL asks for
    "embed_dim": 64,
    "max_length": 16,
}


def training_texts(texts: list[list[str]], *, noise: float, seed: int) -> list[list[str]]:
    """The captions to train on: a share of the pictures gets those of other pictures, fixed for the run."""
    rng = random.Random(seed)
    return [rng.choice(texts) if rng.random() < noise else own for own in texts]


def fresh_model(texts: Any, settings: Mapping[str, Any] = MODEL, vocabulary: int = 2000) -> Any:
    """The model before training, its vocabulary learnt from `texts`."""
    import nearfar
    from nearfar.data.fields.text import train_tokenizer

    return nearfar.models.create(**settings, tokenizer=train_tokenizer(texts, vocabulary)).freeze("image")


def trained(
    name: str,
    seed: int,
    read: Any,
    *,
    model: Mapping[str, Any] = MODEL,
    noise: float,
    n_views: int = 1,
    training: dict[str, Any],
    **settings: Any,
) -> Any:
    """Train the method `name` with `settings` on the features `read`, a share `noise` of them with wrong captions; the
    model."""
    import torch

    import nearfar
    from nearfar.methods import find

    texts = training_texts(read.texts, noise=noise, seed=seed)
    torch.manual_seed(seed)
    fresh = fresh_model((text for own in texts for text in own), model)
    method: Any = find(name)(fresh, **settings)
    batches = read.again(fresh, texts, batch_size=training["batch_size"], n_views=n_views, seed=seed)
    nearfar.train(method, batches, seed=seed, progress=False, report=False, **training)
    return method.model
