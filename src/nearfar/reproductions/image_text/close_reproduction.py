"""CLOSE (arXiv 2211.09778): what is learnt on the vectors of texts alone works on pictures, where the vectors are
changed by noise in training.

The starter model embeds emojis, their names and tags, once; it stays as it is. Each seed draws which concepts are
learnt and which are the test. All arms learn from the vectors: to write a text, by the same small language model, which
knows the training texts already, on the same texts in the same order, and to say what Unicode files an emoji under, by
a linear classifier. They are measured on pictures of the test's concepts. The amounts of noise are the paper's, carried
over to another width by w sqrt(D).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from numpy.typing import NDArray
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
from nearfar.methods.text.simctg import SimCTG
from nearfar.models.vlm.vlm_maker import vision_language_model
from nearfar.reproductions.image_text import described_emojis as setup
from nearfar.reproductions.image_text.described_emojis import Vectors, WrittenBatches
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction
from nearfar.reproductions.shared.per_query import PerQuery

CONFIG: dict[str, Any] = {
    "model": "starter",
    "data": setup.DATA,
    "writer": {"language": setup.LANGUAGE, "tokens": 4, "projector": "linear"},
    "words": {"steps": 150, "batch_size": 64, "lr": 6e-3, "warmup": 0.1, "weight_decay": 0.0},
    "training": {"steps": 300, "batch_size": 64, "lr": 6e-3, "warmup": 0.1, "weight_decay": 0.0},
    "noise": {"same": 0.12, "classes": 0.08},
    "sweep": [0.25, 1.0, 10.0],
    "fitted on": 800,
    "classifier": {"steps": 600, "batch_size": 256, "lr": 0.05},
    "penalties": [1e-5, 1e-4, 1e-3],
}
WRITTEN, COPIED, CLASSIFIED, OF_TEXTS = "words written", "words copied", "subjects", "subjects of texts"
PLAIN, NOISE, PICTURES, HALF = "no noise", "noise", "pictures", "half way to pictures"
SHIFT, LINEAR = "mean shift", "linear + noise"
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
    gap = modality_gap(test.image, test.caption)
    arms: Arms = {"space": {name.replace("_", " "): value for name, value in gap.items()}}
    half = len(test.captions) // 2
    for arm, adapter in writers(train).items():
        model = trained(seed, train, adapter, pictures=arm == PICTURES)
        arms[arm] = {WRITTEN: written(model, test.image, test), COPIED: written(model, test.caption, test)}
        if arm in (PLAIN, NOISE, PICTURES):
            # Half of all away, since neighbours are of one subject.
            arms[anothers(arm)] = {
                WRITTEN: written(model, test.image.roll(half, 0), test),
                COPIED: written(model, test.caption.roll(half, 0), test),
            }
    plain, pictures = arms[PLAIN][WRITTEN], arms[PICTURES][WRITTEN]
    arms[HALF] = {WRITTEN: PerQuery((plain.values + pictures.values) / 2, plain.group)}
    return arms | classified(*(setup.of_large_subjects(side, train) for side in (train, val, test)))


def anothers(arm: str) -> str:
    """The same arm, measured with the vectors of other concepts."""
    return f"{arm}, another's"


def writers(train: Vectors) -> dict[str, TextAdapter]:
    """By arm, how vectors are changed."""
    dim = train.image.shape[1]
    amount = scale_for_dim(CONFIG["noise"]["same"], dim)
    known = pairs(train.caption, train.image)
    return {
        PLAIN: GaussianNoise(0.0),
        NOISE: GaussianNoise(amount),
        SHIFT: MeanShift(dim).fit(*known),
        LINEAR: LinearAlign(dim, noise=amount).fit(*known),
        PICTURES: GaussianNoise(0.0),
    }


def pairs(texts: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """The texts and pictures that adapters are fitted by. Rows are in Unicode's order, so they are drawn."""
    rows = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))[: CONFIG["fitted on"]]
    return texts[rows], images[rows]


@cache
def words(seed: int) -> Any:
    """The language model, trained on the texts of training without vectors."""
    import nearfar

    own = dict(CONFIG["words"])
    method = SimCTG(setup.words_alone(seed), weight=0.0)
    batches = WrittenBatches(setup.parts(seed)["train"], own["steps"], own.pop("batch_size"), seed)
    nearfar.train(method, batches, seed=seed, progress=False, report=False, **own)
    return method.model.eval()


def trained(seed: int, train: Vectors, adapter: TextAdapter, *, pictures: bool) -> Any:
    """A model that writes, after training."""
    import nearfar

    own, made_of = dict(CONFIG["training"]), {name: CONFIG["writer"][name] for name in ("tokens", "projector")}
    known = words(seed)
    torch.manual_seed(seed)
    model = vision_language_model(setup.pair(), known, read="embedding", max_length=24, **made_of)
    method = CLOSE(model, pair=setup.pair(), adapter=adapter)
    batches = WrittenBatches(train, own["steps"], own.pop("batch_size"), seed, pictures=pictures)
    nearfar.train(method, batches, seed=seed, progress=False, report=False, **own)
    return model.eval()


def written(model: Any, vectors: Tensor, side: Vectors) -> PerQuery:
    """Of each concept the F1 of words between what is written of a vector and its caption."""
    texts = [text for rows in vectors.split(400) for text in model.caption(rows, max_tokens=8)]
    scores = [token_f1(text, caption) for text, caption in zip(texts, side.captions, strict=True)]
    return PerQuery(scores, side.thing)


def classified(train: Vectors, val: Vectors, test: Vectors) -> Arms:
    """Linear classifiers of subjects, that learn from names or from pictures."""
    dim, amount = train.image.shape[1], scale_for_dim(CONFIG["noise"]["classes"], train.image.shape[1])
    known = pairs(train.name, train.image)

    def fitted(vectors: Tensor, adapter: TextAdapter | None = None, penalty: float = 0.0) -> TextTrained:
        return TextTrained(adapter, weight_decay=penalty, **CONFIG["classifier"]).fit(vectors, train.subject)

    best = max(CONFIG["penalties"], key=lambda each: fitted(train.name, None, each).score(val.image, val.subject))
    probes: dict[str, Callable[[], TextTrained]] = {
        CLASS: lambda: fitted(train.name),
        CLASS_NOISE: lambda: fitted(train.name, GaussianNoise(amount)),
        PENALTY: lambda: fitted(train.name, None, best),
        CLASS_SHIFT: lambda: fitted(train.name, MeanShift(dim).fit(*known)),
        CLASS_LINEAR: lambda: fitted(train.name, LinearAlign(dim, noise=amount).fit(*known)),
        "classifier, covariance": lambda: fitted(train.name, CovarianceNoise(dim).fit(*known)),
        OF_PICTURES: lambda: fitted(train.image),
        "classifier of pictures, noise": lambda: fitted(train.image, GaussianNoise(amount)),
    }
    for size in CONFIG["sweep"]:
        probes[f"classifier, {size:g}"] = lambda size=size: fitted(train.name, GaussianNoise(size / dim**0.5))  # type: ignore[misc]
    arms: Arms = {}
    for arm, make in probes.items():
        probe = make()
        arms[arm] = {
            CLASSIFIED: right(probe.predict(test.image), test),
            OF_TEXTS: right(probe.predict(test.name), test),
        }
    return arms


def right(predicted: NDArray[Any], side: Vectors) -> PerQuery:
    """Of each concept whether its subject was predicted."""
    return PerQuery([float(one == truth) for one, truth in zip(predicted, side.subject, strict=True)], side.thing)


reproduction = Reproduction(
    slug="close",
    run=run,
    claims=[
        Claim(
            "a model that was trained on pictures writes of the picture, by a tenth",
            PICTURES,
            anothers(PICTURES),
            WRITTEN,
            margin=0.1,
            premise=True,
        ),
        Claim(
            "a model that was trained on texts writes of the text, by a fifth",
            PLAIN,
            anothers(PLAIN),
            COPIED,
            margin=0.2,
            premise=True,
        ),
        Claim("with noise, texts alone teach to write of pictures", NOISE, PLAIN, WRITTEN, floor=anothers(NOISE)),
        Claim("noise closes more than half of the distance to training on pictures", NOISE, HALF, WRITTEN),
        Claim("on texts, no noise is better", PLAIN, NOISE, COPIED),
        Claim("a writer gains more by noise than by the mean shift", NOISE, SHIFT, WRITTEN),
        Claim("a map learnt from pairs adds to a writer's noise", LINEAR, NOISE, WRITTEN),
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
    seeds=range(40, 48),
    pilot=0,
    config=CONFIG,
    note=(
        "The starter model is MiniLM's sentences and heads on an ImageNet tower, trained on these emojis and their "
        "names; the paper's is CLIP ViT-L/14. What writes is a language model of 1 layer of 64 numbers, trained on "
        "some 680 captions; the paper's is T5-base, on COCO. Noise by w sqrt(D) as in the paper: 3.3 where a text is "
        "written, 2.2 for the classifier. Map, shift and covariance are fitted by the pairs of training, fewer than "
        "800. Half way: the mean of no noise and of training on pictures, query by query. The penalty is the best of "
        "3 on validation pictures, which no other arm reads. Another's: with the vector of another concept."
    ),
)
