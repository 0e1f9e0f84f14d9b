"""Names for one picture: which of some labels fits it best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nearfar.classifiers.zero_shot import ZeroShotClassifier
from nearfar.embedding.embed_source import embed_images
from nearfar.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


class Label(NamedTuple):
    """A label of a picture: its `score` is a cosine, its `share` the softmax over all given labels."""

    name: str
    score: float
    share: float


def zero_shot_labels(
    encoder: Any,
    image: Path | str | bytes | Image,
    labels: Sequence[str],
    *,
    templates: str | Sequence[str] = "short",
    temperature: float | None = None,
) -> list[Label]:
    """The labels for a picture, best first.

    Args:
        encoder: anything with `encode_image`, `encode_text`, `preprocess` and `tokenize`.
        image: path, bytes or PIL.
        labels: class names; blank and repeated ones are left out.
        templates: sentences the names are put into, as in `nearfar.evaluation.zero_shot`.
        temperature: of the softmax that gives the shares. Default: the model's own, or 0.01, where CLIP models end.

    Raises:
        UserError: there are no labels, or the picture is broken.
    """
    return rank_labels(label_classifier(encoder, labels, templates=templates), image, temperature=temperature)


def label_classifier(
    encoder: Any, labels: Sequence[str], *, templates: str | Sequence[str] = "short"
) -> ZeroShotClassifier:
    """A classifier of these labels, to be used on many pictures."""
    names = list(dict.fromkeys(name.strip() for name in labels if name.strip()))
    if not names:
        raise UserError("no labels to choose from: give at least one")
    return ZeroShotClassifier(encoder, templates=templates).fit(names)


def rank_labels(
    classifier: ZeroShotClassifier, image: Path | str | bytes | Image, *, temperature: float | None = None
) -> list[Label]:
    """The classifier's labels for a picture, best first."""
    embedding = embed_images(classifier.encoder, [image], progress=False)
    scores = classifier.decision_function(embedding)[0].tolist()
    shares = classifier.predict_proba(embedding, temperature=temperature)[0].tolist()
    named = map(Label, classifier.classes_.tolist(), scores, shares)
    return sorted(named, key=lambda label: -label.score)
