"""Labels as texts, matched with texts by a trained head: zero-shot, and for texts with several labels or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearfar.errors import UserError
from nearfar.prompting.class_texts import ClassTexts


class LabelMatchClassifier:
    """A classifier of texts made of labels that are texts: `fit` on labels, `predict` on texts. Nothing is learnt in
    `fit`, so that labels need no examples; what the model was trained on decides (`nearfar.methods.CLESS`).

    Args:
        model: has `match_labels`, as a `nearfar.models.LabelMatcher`.
        multi_label: predict every label whose probability is at least `threshold`, none perhaps, in place of the best.
        threshold: for `multi_label`. Probabilities mean something after training with the binary objective; choose it
            on labelled texts where that is at hand.
        batch_size: texts at a time.

    Attributes:
        classes_: the labels' names, `[C]`.

    Raises:
        UserError: a model without `match_labels`, a threshold outside 0 to 1.

    >>> from nearfar.models import label_matcher
    >>> classifier = LabelMatchClassifier(label_matcher("minilm")).fit(["animal", "vehicle", "weather"])
    >>> classifier.decision_function(["a red fox", "a ship at sea"]).shape
    (2, 3)
    """

    def __init__(self, model: Any, *, multi_label: bool = False, threshold: float = 0.5, batch_size: int = 64) -> None:
        if not hasattr(model, "match_labels"):
            raise UserError(
                f"a {type(model).__name__} does not match labels: train a label_matcher with the method cless, or take "
                "a ZeroShotClassifier, which compares embeddings"
            )
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold={threshold}: a probability is from 0 to 1")
        self.model, self.multi_label, self.threshold, self.batch_size = model, multi_label, threshold, batch_size

    def fit(self, labels: Sequence[str] | ClassTexts) -> Self:
        """Take labels by name, or `ClassTexts` with several texts for each, whose logits are averaged.

        Raises:
            UserError: no labels, or one text in place of a list.
        """
        if isinstance(labels, str) or not len(labels):
            raise UserError(f"fit takes a list of labels, not {labels!r}")
        self.texts_ = labels if isinstance(labels, ClassTexts) else ClassTexts.of(labels, ["{}"])
        self.classes_ = np.asarray(list(self.texts_.names))
        return self

    def decision_function(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The logit of each label for each of N texts, `[N, C]` float32.

        Raises:
            UserError: it was not fitted yet.
        """
        if not hasattr(self, "classes_"):
            raise UserError("this LabelMatchClassifier has no labels yet: call fit(...) first")
        logits = self.model.match_labels(list(texts), self.texts_.texts, batch_size=self.batch_size)
        counts = [len(own) for own in self.texts_.sentences]
        columns = [part.mean(1).numpy() for part in logits.split(counts, dim=1)]
        return np.stack(columns, axis=1).astype(np.float32)

    def predict_proba(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The probability that each label fits, each by itself, `[N, C]` float32: rows need not sum to 1."""
        return (1 / (1 + np.exp(-self.decision_function(texts)))).astype(np.float32)

    def predict(self, texts: Sequence[str]) -> NDArray[Any]:
        """The best label of each of N texts, `[N]`; with `multi_label` whether each label fits, `[N, C]` bool."""
        if self.multi_label:
            return self.predict_proba(texts) >= self.threshold
        best = self.decision_function(texts).argmax(axis=1)
        return self.classes_[best]

    def score(self, texts: Sequence[str], labels: ArrayLike) -> float:
        """Accuracy: the share of texts whose prediction is all of `labels`, `[N]`, or `[N, C]` bool."""
        right = self.predict(texts) == np.asarray(labels)
        return float((right.all(axis=1) if self.multi_label else right).mean())
