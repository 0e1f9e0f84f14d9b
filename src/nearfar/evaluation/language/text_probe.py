"""A linear classifier that is trained on texts alone, measured on pictures (CLOSE, arXiv 2211.09778)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from nearfar.classifiers.linear import split
from nearfar.classifiers.text_trained import TextTrained
from nearfar.data.texts.text_adapters import GaussianNoise, scale_for_dim
from nearfar.embedding.embed_source import embed_texts
from nearfar.embedding.embeddings import Embeddings
from nearfar.errors import UserError
from nearfar.evaluation.language.labelled_texts import labelled_texts
from nearfar.evaluation.measures.result import Result
from nearfar.evaluation.measures.retrieval_ranks import Ranks, rank_scores
from nearfar.evaluation.protocols.picture_batches import as_source
from nearfar.evaluation.protocols.probes import things
from nearfar.evaluation.protocols.zero_shot_accuracy import accuracies, labelled


def text_probe(
    encoder: Any,
    data: Embeddings,
    *,
    train: Any = None,
    noise: float = 0.08,
    steps: int = 1200,
    ks: Sequence[int] = (1, 5),
    seed: int = 0,
    batch_size: int = 64,
) -> Result:
    """Soft-max regression on the vectors of labelled texts, with fresh Gaussian noise in each step, measured on
    labelled pictures.

    Args:
        encoder: embeds the texts of `train`.
        data: labelled pictures to classify.
        train: labelled texts to fit, or what `open_source` takes: its classes are known by their names. Default: the
            captions of half of `data`, drawn within each class by `seed`; the pictures of the other half are classified
            then.
        noise: w at 768 dimensions, scaled for others; 0 is none.
        steps: of training.
        ks: the k of the accuracies.
        seed: of the split, of training and of the bootstrap.
        batch_size: texts at a time.

    Returns:
        `top1`, `top5`, `mean_per_class` of the pictures, and `without_noise`, the top 1 of the same classifier fitted
        without noise.

    Raises:
        UserError: no labelled texts, or of one class alone.
    """
    test, text, names = _sides(encoder, data, train, seed, batch_size)
    if len(set(names)) < 2:
        raise UserError(f"text_probe needs labelled texts of two classes at least, and has {len(set(names))}")
    own = _names(labelled(test), test.classes)
    classes = np.unique([*names, *own])
    label = torch.from_numpy(np.searchsorted(classes, own))
    adapter = GaussianNoise(scale_for_dim(noise, text.shape[1]))
    ranks = [
        _ranks(TextTrained(each, steps=steps, seed=seed).fit(text, names, classes=classes), test, label)
        for each in (adapter, None)
    ]
    metrics, plain = (accuracies(each, label, test.image_group, ks=ks, seed=seed) for each in ranks)
    details = {"noise": noise, "texts": len(text), "classes": len(classes), "steps": steps}
    return Result("text_probe", {**metrics, "without_noise": plain["top1"]}, {}, details)


def _sides(
    encoder: Any, data: Embeddings, train: Any, seed: int, batch_size: int
) -> tuple[Embeddings, Tensor, NDArray[Any]]:
    """The pictures to classify, and the texts to learn from, `[M, D]`, with the name of the class of each."""
    if train is not None:
        texts = labelled_texts(as_source(train), pairs=False)
        rows = (labelled(data) >= 0).nonzero().flatten()
        vectors = embed_texts(encoder, texts.first, batch_size=batch_size)
        return data.select(rows), vectors, np.array(texts.label)
    if not len(data.text):
        raise UserError(f"{data.source} has no captions to learn from: name labelled texts, train=texts.csv")
    fitted, held = split(labelled(data), 0.5, seed, group=things(data))
    if not len(held):
        raise UserError(f"no class of {data.source} has two pictures, so none can be held out: pass train=texts.csv")
    part = data.select(fitted)
    return data.select(held), part.text, _names(labelled(part)[part.image_of_text], part.classes)


def _names(label: Tensor, classes: Sequence[str] | None) -> NDArray[Any]:
    return np.array([str(classes[each] if classes else each) for each in label.tolist()])


def _ranks(classifier: TextTrained, test: Embeddings, label: Tensor) -> Ranks:
    scores = torch.from_numpy(classifier.decision_function(normalize(test.image, dim=1)))
    return rank_scores(scores, label, torch.arange(scores.shape[1]))
