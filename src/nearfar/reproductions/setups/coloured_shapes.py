"""Scenes of two coloured shapes, read once by the frozen image tower: many to train on, and combinations that training
never shows to test on."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

PLACES = ("left of", "right of", "above", "below")
CAPTION = 2  # "the red circle and the blue square"


class ShapeSplits(NamedTuple):
    """What a seed trains on and is tested on, as `FeatureLoader`s, and the test's captions with the colours swapped."""

    train: Any
    test: Any
    swapped: list[str]


@cache
def shapes(seed: int, *, scenes: int, size: int, held_out: int) -> ShapeSplits:
    """Of `scenes` scenes, `held_out` per cent of the combinations of two shapes and two colours go to the test, each
    together with its swap, so that neither of the two is the better known. The test shows no combination twice."""
    from nearfar.data.scenes import scenes as made
    from nearfar.data.scenes.draw import digest, share

    train, test = list[dict[str, Any]](), dict[int, dict[str, Any]]()
    for record in made("train", n=scenes, seed=seed, size=size, vocabulary="shapes", relations=PLACES):
        coloured = sorted((thing["name"], thing["colour"]) for thing in record["objects"])
        kept = {"index": record["index"], "image": record["image"], "group": digest(coloured)}
        kept["text"] = [record["text"][CAPTION]]
        if share(seed, [name for name, _ in coloured], sorted(colour for _, colour in coloured)) < held_out:
            swapped = record["negative_text"][record["negative_of"].index(CAPTION)]
            test.setdefault(kept["group"], {**kept, "swapped": swapped})
        else:
            train.append(kept)
    swapped = [record.pop("swapped") for record in test.values()]
    return ShapeSplits(_read(train), _read(list(test.values())), swapped)


def _read(records: list[dict[str, Any]]) -> Any:
    from nearfar.data.sources.source import Records
    from nearfar.reproductions.setups.fusion_pairs import fresh_model
    from nearfar.training import precompute

    source = Records(records, name="coloured shapes")
    return precompute(fresh_model(source.texts()), source, batch_size=1, shuffle=False)


def examined(model: Any, data: ShapeSplits, *, k: int) -> dict[str, dict[str, float]]:
    """Of the embeddings ("alone"), of the matching score among their first k ("re-ranked") and over the whole gallery
    ("matching"): R@1 and R@5, the means of both directions, and "swap", how often the true caption beats the one with
    swapped colours."""
    import torch

    from nearfar.evaluation import Embeddings, reranked_retrieval, retrieval
    from nearfar.models import MatchScorer, Reranker
    from nearfar.modes import evaluating

    pictures, captions = data.test.image[0], [own[0] for own in data.test.texts]
    here, n = torch.arange(len(captions)), len(captions)
    tokens = model.tokenize([*captions, *data.swapped])
    with evaluating(model):
        image, text = model.encode_image(pictures, normalize=True), model.encode_text(tokens, normalize=True)
    embeddings = Embeddings(image, text[:n], here, group=data.test.numbers["group"])
    scorer = MatchScorer(model, pictures, tokens)
    matched = (scorer.image_to_text(here, here) > scorer.image_to_text(here, here + n)).float().mean().item()
    results = {"alone": retrieval(embeddings)}
    for name, candidates in (("re-ranked", k), ("matching", n)):
        results[name] = reranked_retrieval(embeddings, Reranker(scorer, k=candidates))
    recalls = {
        name: {f"R@{at}": (result[f"text_to_image_R@{at}"] + result[f"image_to_text_R@{at}"]) / 2 for at in (1, 5)}
        for name, result in results.items()
    }
    aligned = ((image * text[:n]).sum(1) > (image * text[n:]).sum(1)).float().mean().item()
    return {name: {**each, "swap": aligned if name == "alone" else matched} for name, each in recalls.items()}
