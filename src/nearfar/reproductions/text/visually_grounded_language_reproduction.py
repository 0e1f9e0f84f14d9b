"""Visually grounded language (VG-Bert, arXiv 2111.07180): contrast of words with the cells of pictures makes a language
model's space of words agree more with what things look like, and a bilinear operator tells relations.

Words: every arm starts from the same released language model and trains on the same captions in as many steps; one
reads them alone, by hidden words. The names of test concepts, which no arm was trained on, are then looked at: is the
colour of a thing told from the vector of its name, and are names of one subject near? Relations: every arm trains the
same model from scratch on the same scenes, and is tested on pairs of shapes that training does not show.
"""

from __future__ import annotations

from typing import Any

from nearfar.reproductions.setups import grounded_words, related_shapes
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction

CONFIG: dict[str, Any] = {
    "words": {"data": grounded_words.DATA, "model": grounded_words.MODEL},
    "grounding": {"steps": 40, "batch_size": 64, "lr": 3e-4, "warmup": 0.1, "weight_decay": 0.01},
    "relations": {"data": related_shapes.DATA, "text": related_shapes.BERT, "image": related_shapes.RESNET},
    "relating": {"steps": 1200, "batch_size": 32, "lr": 2e-3, "warmup": 0.1, "weight_decay": 0.01},
}
START, TEXT, CELLS, POOLED, SHUFFLED = "as released", "text only", "matchmap", "pooled cosine", "shuffled pairs"
BILINEAR, CONCAT, NO_PAIR = "bilinear", "concatenation", "bilinear without pair loss"
RELATING: dict[str, dict[str, Any]] = {
    BILINEAR: {"operator": "bilinear", "weights": (1.0, 1.0, 1.0)},
    CONCAT: {"operator": "concat", "weights": (1.0, 1.0, 1.0)},
    NO_PAIR: {"operator": "bilinear", "weights": (1.0, 1.0, 0.0)},
}


def run(seed: int) -> Arms:
    """All arms on one seed."""
    arms: Arms = {}
    for arm in (START, TEXT, CELLS, POOLED, SHUFFLED):
        model = read(arm, seed)
        arms[arm] = dict(grounded_words.words_measured(model, "test"))
        if arm in (CELLS, POOLED, SHUFFLED):
            arms[arm] |= grounded_words.retrieved(model, "test", pooled=arm == POOLED)
    for arm, settings in RELATING.items():
        arms[arm] = dict(
            related_shapes.measured(related_shapes.trained(seed, **settings, **CONFIG["relating"]), "test")
        )
    return arms


def read(arm: str, seed: int) -> Any:
    """The model of an arm of words, after training on pictures and captions."""
    from nearfar.methods import CLIP, MaskedLanguage, TwoStreamGrounding
    from nearfar.models.grounded.frozen_language import freeze_language

    model = grounded_words.fresh(seed)
    if arm == START:
        return model.eval()
    freeze_language(model.text.backbone)
    model.freeze("image")
    if arm == TEXT:
        method: Any = MaskedLanguage(model)
    else:
        method = CLIP(model) if arm == POOLED else TwoStreamGrounding(model)
    return grounded_words.grounded(method, seed, shuffled=arm == SHUFFLED, **CONFIG["grounding"])


EFFECTS = {"colour": 0.05, "subjects": 0.02, "R@5": 0.03}


def _claim(text: str, baseline: str, metric: str) -> Claim:
    """Contrast of words and cells against a baseline."""
    return Claim(text, CELLS, baseline, metric, effect=EFFECTS[metric])


reproduction = Reproduction(
    slug="visually-grounded-language",
    run=run,
    claims=[
        Claim("matchmap finds names and pictures that training never showed", CELLS, SHUFFLED, "R@5", premise=True),
        _claim("grounding tells colours better than the same text does", TEXT, "colour"),
        _claim("grounding brings names of a subject nearer than the same text does", TEXT, "subjects"),
        _claim("grounding tells colours better than the model as released", START, "colour"),
        _claim("grounding brings names of a subject nearer than in the model as released", START, "subjects"),
        _claim("what is told of colours hangs on the right pairs", SHUFFLED, "colour"),
        _claim("how near names of a subject are hangs on the right pairs", SHUFFLED, "subjects"),
        _claim("matchmap tells colours better than pooled cosines", POOLED, "colour"),
        _claim("matchmap finds more than pooled cosines", POOLED, "R@5"),
        Claim(
            "the bilinear operator tells relations of new pairs better than a perceptron",
            BILINEAR,
            CONCAT,
            "relation",
            effect=0.05,
            floor=1 / 8,
        ),
        Claim("the pair loss adds to it", BILINEAR, NO_PAIR, "relation", effect=0.05, floor=1 / 8),
    ],
    seeds=range(5),
    pilot=0,
    config=CONFIG,
    note=(
        "MiniLM in the place of BERT, four of its six layers and all queries and keys frozen; EfficientNet-Lite0 in "
        "the place of VGG16, frozen; the concepts of the embedded world, drawn in two styles, with names and keywords "
        "in the place of COCO; 40 steps of 64. Colour: r of the mean colour of a thing's pictures, told from the "
        "vector of its name by a cross-validated ridge regression, mean over three channels. Subjects: the share of a "
        "name's nearest names that are of its subject. Relations: two coloured shapes, eight relations, models from "
        "scratch, 1,200 steps of 32. Settings are the same for all arms and were tried on validation concepts and "
        "scenes alone. Steps were chosen for the time they take: with more of them relations are learnt better."
    ),
)
