"""Zero-shot: an image belongs to the class whose texts are nearest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nearfar.classifiers.classifier import Classifier
from nearfar.embedding.embed_source import embed_texts
from nearfar.errors import UserError
from nearfar.prompting.class_texts import ClassTexts


def class_prototypes(
    encoder: Any,
    classes: Sequence[str] | ClassTexts,
    *,
    templates: str | Sequence[str] = "short",
    batch_size: int = 64,
) -> Tensor:
    """One unit vector a class, `[C, D]` float32: the normalised mean of the normalised embeddings of its sentences
    (CLIP, arXiv 2103.00020, section 3.1.4).

    Args:
        encoder: anything with `encode_text` and `tokenize`.
        classes: names, or `ClassTexts` with sentences of their own.
        templates: what names are put into.
        batch_size: texts at a time.
    """
    texts = classes if isinstance(classes, ClassTexts) else ClassTexts.of(classes, templates)
    embedded = embed_texts(encoder, texts.texts, batch_size=batch_size)
    counts = [len(own) for own in texts.sentences]
    means = torch.stack([part.mean(dim=0) for part in embedded.split(counts)])
    return normalize(means, dim=1)


class ZeroShotClassifier(Classifier):
    """A classifier made of names: `fit` on class names, `predict` on image embeddings.

    Args:
        encoder: embeds the names.
        templates: as for `nearfar.evaluation.zero_shot`.

    Attributes:
        classes_: the names; prototypes_: `[C, D]`, a unit vector for each.

    >>> from nearfar.evaluation import ZeroShotClassifier, embed_images
    >>> classifier = ZeroShotClassifier(encoder).fit(["cat", "dog"])  # doctest: +SKIP
    >>> classifier.predict(embed_images(encoder, ["rex.jpg"]))  # doctest: +SKIP
    array(['dog'], dtype='<U3')
    """

    def __init__(self, encoder: Any, *, templates: str | Sequence[str] = "short") -> None:
        self.encoder, self.templates = encoder, templates

    def fit(self, classes: Sequence[str] | ClassTexts) -> Self:
        """Embed the class names, or the sentences of `ClassTexts`."""
        if isinstance(classes, str) or not len(classes):
            raise UserError(f"fit takes a list of class names, not {classes!r}")
        names = classes.names if isinstance(classes, ClassTexts) else classes
        self.prototypes_ = class_prototypes(self.encoder, classes, templates=self.templates)
        self.classes_ = np.asarray(list(names))
        self.n_features_in_ = self.prototypes_.shape[1]
        return self

    def softmax_temperature(self) -> float:
        """The model's own temperature, or 0.01."""
        return getattr(self.encoder, "temperature", None) or super().softmax_temperature()

    def scores(self, embeddings: Tensor) -> Tensor:
        """Cosine of each embedding with each class, `[N, C]`."""
        return embeddings @ self.prototypes_.T
