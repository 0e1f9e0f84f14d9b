"""What the reproductions of ALBEF and TCL share: a small fusion model, named emoji in four styles to train on, the same
concepts in a fifth style to test on, and retrieval by the embeddings and by the matching score."""

from __future__ import annotations

import random
from typing import Any

WIDTH = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 256}
MODEL: dict[str, Any] = {
    "image": {"model_type": "vit", "num_hidden_layers": 3, "patch_size": 8, **WIDTH},
    "text": {"model_type": "bert", "num_hidden_layers": 4, "max_position_embeddings": 32, **WIDTH},
    "text_layers": 2,
    "image_size": 32,
    "embed_dim": 64,
    "max_length": 16,
}
HELD_OUT_STYLE = "fluent-3d"


def training_emoji(noise: float, seed: int) -> Any:
    """Emoji in four styles; a share of the pairs has the captions of another pair."""
    from nearfar.data import world

    seen = world.emoji("train", styles=[style for style in world.STYLES if style != HELD_OUT_STYLE])
    return with_wrong_captions(seen, noise, seed)


def with_wrong_captions(source: Any, share: float, seed: int) -> Any:
    """The source with the captions of a share of its records taken from other records, fixed for the run."""
    rng = random.Random(seed)
    texts, indices = source.column("text"), source.column("index")
    wrong = {index: rng.choice(texts) for index in indices if rng.random() < share}
    return source.map(lambda record: {**record, "text": wrong.get(record["index"], record["text"])})


def held_out_emoji(concepts: int, seed: int, *, style: str = HELD_OUT_STYLE) -> Any:
    """A draw of the training concepts in one style. The same seed draws the same concepts in every style."""
    from nearfar.data import world

    drawn = world.emoji("train", styles=[style])
    common = sorted(set(drawn.column("group")) & set(world.emoji("train", styles=[HELD_OUT_STYLE]).column("group")))
    chosen = set(random.Random(seed).sample(common, concepts))
    return drawn.filter(lambda record: record["group"] in chosen)


def trained(
    name: str,
    data: Any,
    seed: int,
    *,
    vocabulary: int,
    training: dict[str, Any],
    loader: dict[str, Any],
    **settings: Any,
) -> Any:
    """Train the method `name` with `settings` on `data` from scratch; the model."""
    import torch

    import nearfar
    from nearfar.data import Loader
    from nearfar.data.text import train_tokenizer
    from nearfar.methods import find

    torch.manual_seed(seed)
    model = nearfar.models.create(**MODEL, tokenizer=train_tokenizer(data.texts(), vocabulary))
    method: Any = find(name)(model, **settings)
    batches = Loader(
        data,
        batch_size=training["batch_size"],
        image_size=model.image_size,
        mean=model.mean,
        std=model.std,
        tokenizer=model.tokenizer,
        max_length=model.max_length,
        seed=seed,
        **loader,
    )
    nearfar.train(method, batches, seed=seed, progress=False, report=False, **training)
    return method.model


def retrieved(model: Any, test: Any, *, k: int) -> dict[str, dict[str, float]]:
    """R@1, the mean of both directions, by the embeddings ("alone"), by the matching score among the first k of those
    ("re-ranked"), and by the matching score over the whole gallery ("matching")."""
    from nearfar.data.images import load_image
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
