"""CLOSE (arXiv 2211.09778): what is learnt on the vectors of texts alone works on pictures, where the vectors are
changed by noise in training.

The starter model embeds emojis, their names and tags, once; it stays as it is. Each seed draws which concepts are
learnt and which are the test. All arms learn from the vectors: to write a text, by the same small language model from
the same start on the same texts in the same order, and to say what Unicode files an emoji under, by a linear
classifier. They are measured on pictures of the test's concepts. The amounts of noise are the paper's, carried over to
another width by w sqrt(D).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nearfar.classifiers.text_trained import TextTrained
from nearfar.data.texts.text_adapters import (
    CovarianceNoise,
    GaussianNoise,
    LinearAlign,
    MeanShift,
    TextAdapter,
    scale_for_dim,
)
from nearfar.evaluation.language.caption_accuracy import token_f1
from nearfar.evaluation.measures.modality_gap import modality_gap
from nearfar.methods.lvlm.close import CLOSE
from nearfar.models.vlm.vlm_maker import vision_language_model
from nearfar.reproductions.image_text import described_emojis as setup
from nearfar.reproductions.image_text.described_emojis import Vectors, WrittenBatches
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction
from nearfar.reproductions.shared.per_query import PerQuery

CONFIG: dict[str, Any] = {
    "model": "starter",
    "data": setup.DATA,
    "writer": {"language": setup.LANGUAGE, "vocabulary": setup.VOCABULARY, "tokens": 4, "projector": "linear"},
    "training": {"steps": 200, "batch_size": 64, "lr": 3e-3, "warmup": 0.1, "weight_decay": 0.0},
    "noise": {"same": 0.12, "classes": 0.08},
    "sweep": [0.25, 0.5, 1.0, 2.0, 3.3, 5.0, 10.0],
    "fitted on": 400,
    "classifier": {"steps": 600, "batch_size": 256, "lr": 0.05},
    "penalties": [1e-6, 1e-5, 1e-4, 1e-3],
}
WRITTEN, COPIED, CLASSIFIED, OF_TEXTS = "words written", "words copied", "subjects", "subjects of texts"
PLAIN, NOISE, PICTURES, HALF = "no noise", "noise", "pictures", "half way to pictures"
CLASS, CLASS_NOISE, PENALTY = "classifier", "classifier, noise", "classifier, penalty"
CLASS_SHIFT, CLASS_LINEAR, OF_PICTURES = (
    "classifier, mean shift",
    "classifier, linear + noise",
    "classifier of pictures",
)


def run(seed: int) -> Arms:
    """All arms on one seed."""
    sides = setup.parts(seed)
    train, val, test = (sides[name] for name in ("train", "val", "test"))
    gap = modality_gap(test.image, test.names)
    arms: Arms = {"space": {name.replace("_", " "): value for name, value in gap.items()}}
    for arm, noise in writers(train).items():
        model = trained(seed, train, noise, pictures=arm == PICTURES)
        arms[arm] = {WRITTEN: written(model, test.image, test), COPIED: written(model, test.names, test)}
        if arm == PICTURES:
            arms["pictures, another's"] = {WRITTEN: written(model, test.image.roll(1, 0), test)}
    halves = (arms[PLAIN][WRITTEN].values + arms[PICTURES][WRITTEN].values) / 2
    arms[HALF] = {WRITTEN: PerQuery(halves, range(len(halves)))}
    return arms | classified(*(setup.of_large_subjects(side, train) for side in (train, val, test)))


def writers(train: Vectors) -> dict[str, TextAdapter]:
    """By arm, how vectors are changed."""
    amount = scale_for_dim(CONFIG["noise"]["same"], train.image.shape[1])
    return {PLAIN: GaussianNoise(0.0), NOISE: GaussianNoise(amount), PICTURES: GaussianNoise(0.0)}


def trained(seed: int, train: Vectors, adapter: TextAdapter, *, pictures: bool) -> Any:
    """A model that writes, after training."""
    import nearfar

    own, words = dict(CONFIG["training"]), setup.words_alone(seed)
    made_of = {"tokens": CONFIG["writer"]["tokens"], "projector": CONFIG["writer"]["projector"]}
    torch.manual_seed(seed)
    model = vision_language_model(setup.pair(), words, read="embedding", max_length=32, **made_of)
    method = CLOSE(model, pair=setup.pair(), adapter=adapter)
    batches = WrittenBatches(train, own["steps"], own.pop("batch_size"), seed, pictures=pictures)
    nearfar.train(method, batches, seed=seed, progress=False, report=False, **own)
    return model.eval()


def written(model: Any, vectors: Tensor, test: Vectors) -> PerQuery:
    """Of each concept of the test the F1 of words between what is written of a vector and the nearest of its texts."""
    texts = [text for rows in vectors.split(100) for text in model.caption(rows, max_tokens=24)]
    scores = [max(token_f1(text, each) for each in own) for text, own in zip(texts, test.texts, strict=True)]
    return PerQuery(scores, range(len(scores)))


def classified(train: Vectors, val: Vectors, test: Vectors) -> Arms:
    """Linear classifiers of subjects, that learn from names or from pictures."""
    dim, amount = train.image.shape[1], scale_for_dim(CONFIG["noise"]["classes"], train.image.shape[1])
    known = train.names[: CONFIG["fitted on"]], train.image[: CONFIG["fitted on"]]

    def fitted(vectors: Tensor, adapter: TextAdapter | None = None, penalty: float = 0.0) -> TextTrained:
        return TextTrained(adapter, weight_decay=penalty, **CONFIG["classifier"]).fit(vectors, train.subject)

    best = max(CONFIG["penalties"], key=lambda each: fitted(train.names, None, each).score(val.image, val.subject))
    probes: dict[str, Callable[[], TextTrained]] = {
        CLASS: lambda: fitted(train.names),
        CLASS_NOISE: lambda: fitted(train.names, GaussianNoise(amount)),
        PENALTY: lambda: fitted(train.names, None, best),
        CLASS_SHIFT: lambda: fitted(train.names, MeanShift(dim).fit(*known)),
        CLASS_LINEAR: lambda: fitted(train.names, LinearAlign(dim, noise=amount).fit(*known)),
        "classifier, covariance": lambda: fitted(train.names, CovarianceNoise(dim).fit(*known)),
        OF_PICTURES: lambda: fitted(train.image),
        "classifier of pictures, noise": lambda: fitted(train.image, GaussianNoise(amount)),
    }
    for size in CONFIG["sweep"]:
        probes[f"classifier, {size:g}"] = lambda size=size: fitted(train.names, GaussianNoise(size / dim**0.5))  # type: ignore[misc]
    arms: Arms = {}
    for arm, make in probes.items():
        probe = make()
        hits = [
            [float(one == truth) for one, truth in zip(probe.predict(each), test.subject, strict=True)]
            for each in (test.image, test.names)
        ]
        arms[arm] = {
            name: PerQuery(own, range(len(own))) for name, own in zip((CLASSIFIED, OF_TEXTS), hits, strict=True)
        }
    return arms


reproduction = Reproduction(
    slug="close",
    run=run,
    claims=[
        Claim(
            "a model that was trained on pictures writes of the picture, not of how texts go",
            PICTURES,
            "pictures, another's",
            WRITTEN,
            premise=True,
        ),
        Claim("with noise, texts alone teach to write of pictures", NOISE, PLAIN, WRITTEN),
        Claim("noise closes more than half of the distance to training on pictures", NOISE, HALF, WRITTEN),
        Claim("on texts, no noise is better", PLAIN, NOISE, COPIED),
        Claim("with noise, a classifier of texts does more on pictures", CLASS_NOISE, CLASS, CLASSIFIED),
        Claim(
            "with noise it is at most two points worse than a classifier of pictures",
            CLASS_NOISE,
            OF_PICTURES,
            CLASSIFIED,
            margin=-0.02,
        ),
        Claim("noise does more than the mean shift", CLASS_NOISE, CLASS_SHIFT, CLASSIFIED),
        Claim("a map learnt from pairs adds to noise", CLASS_LINEAR, CLASS_NOISE, CLASSIFIED),
        Claim("noise does more than a penalty", CLASS_NOISE, PENALTY, CLASSIFIED),
        Claim("a little noise does less", CLASS_NOISE, "classifier, 0.25", CLASSIFIED),
        Claim("too much noise does less", CLASS_NOISE, "classifier, 10", CLASSIFIED),
    ],
    seeds=range(10, 15),
    pilot=0,
    config=CONFIG,
    note=(
        "The starter model is MiniLM's sentences and heads on an ImageNet tower, trained on these emojis and their "
        "names; the paper's is CLIP ViT-L/14. What writes is a language model of 2 layers of 64 numbers, from scratch "
        "on some thousand texts; the paper's is T5-base, on COCO. Noise by w sqrt(D) as in the paper: 3.3 where a text "
        "is written, 2.2 for the classifier. Map, shift and covariance are fitted by 400 names and pictures. "
        "Half way: the mean of no noise and of training on pictures, query by query. The penalty is the best of 4 on "
        "validation pictures, which no other arm reads."
    ),
)
