"""What the reproductions of ALBEF and TCL share: a small fusion model on a pretrained image tower, and its training.
For TCL also named emoji in four styles to train on, the same concepts in a fifth style to test on, and retrieval by
the embeddings and by the matching score.

The paper starts from an image encoder trained on ImageNet; so do these, from EfficientNet-Lite0, which stays as it is:
it reads each picture once, and every arm trains on what it gave. Text layers, fusion and heads start from scratch.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache
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
HELD_OUT_STYLE = "fluent-3d"


def training_texts(texts: list[list[str]], *, noise: float, seed: int) -> list[list[str]]:
    """The captions to train on: a share of the pictures gets those of other pictures, fixed for the run."""
    rng = random.Random(seed)
    return [rng.choice(texts) if rng.random() < noise else own for own in texts]


def emoji(style: str, concepts: int, seed: int) -> Any:
    """A draw of concepts, by the seed, in one style; fewer of the same with a smaller number."""
    from nearfar.data import world

    common = set.intersection(*(set(world.emoji("train", styles=[each]).column("group")) for each in world.STYLES))
    chosen = set(random.Random(seed).sample(sorted(common), len(common))[:concepts])
    return world.emoji("train", styles=[style]).filter(lambda record: record["group"] in chosen)


@cache
def features(concepts: int, seed: int, views: tuple[str, ...]) -> Any:
    """What the frozen image tower makes of the concepts in the four styles of training, once for each of `views`."""
    from nearfar.data import world
    from nearfar.training import precompute

    styles = [style for style in world.STYLES if style != HELD_OUT_STYLE]
    common = set(emoji(HELD_OUT_STYLE, concepts, seed).column("group"))
    training = world.emoji("train", styles=styles).filter(lambda record: record["group"] in common)
    return precompute(fresh_model(training.texts()), training, batch_size=1, views=views, shuffle=False)


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


def retrieved(model: Any, test: Any, *, k: int) -> dict[str, dict[str, float]]:
    """R@1, the mean of both directions, by the embeddings ("alone"), by the matching score among the first k of those
    ("re-ranked"), and by the matching score over the whole gallery ("matching")."""
    from nearfar.data.fields.images import load_image
    from nearfar.evaluation import embed, reranked_retrieval, retrieval
    from nearfar.models import MatchScorer, Reranker

    found = embed(model, test, captions=1)
    pictures = (load_image(test[row]["image"], near=model.image_size) for row in found.row.tolist())
    scorer = MatchScorer.of(model, pictures, found.captions)
    results = {"alone": retrieval(found)}
    for name, candidates in (("re-ranked", k), ("matching", len(found.text))):
        results[name] = reranked_retrieval(found, Reranker(scorer, k=candidates))
    return {
        name: {f"R@{n}": (result[f"text_to_image_R@{n}"] + result[f"image_to_text_R@{n}"]) / 2 for n in (1, 10)}
        for name, result in results.items()
    }
