"""Names for one picture: which of some labels fits it best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nearfar.errors import UserError
from nearfar.evaluation.embed import embed_images
from nearfar.evaluation.zero_shot import ZeroShotClassifier

if TYPE_CHECKING:
    from PIL.Image import Image


class Label(NamedTuple):
    """A label of a picture: its `score` is a cosine, its `share` the softmax over all labels asked for."""

    name: str
    score: float
    share: float


def zero_shot_labels(
    encoder: Any,
    image: Path | str | bytes | Image,
    labels: Sequence[str],
    *,
    templates: str | Sequence[str] = "short",
    temperature: float = 0.01,
) -> list[Label]:
    """The labels for a picture, best first.

    Args:
        encoder: anything with `encode_image`, `encode_text`, `preprocess` and `tokenize`.
        image: path, bytes or PIL.
        labels: class names; blank and repeated ones are left out.
        templates: sentences the names are put into, as in `nearfar.evaluation.zero_shot`.
        temperature: of the softmax that gives the shares (CLIP models end near 0.01).

    Raises:
        UserError: there are no labels, or the picture is broken.
    """
    names = list(dict.fromkeys(name.strip() for name in labels if name.strip()))
    if not names:
        raise UserError("no labels to choose from: give at least one")
    classifier = ZeroShotClassifier(encoder, templates=templates).fit(names)
    embedding = embed_images(encoder, [image])
    scores = classifier.decision_function(embedding)[0].tolist()
    shares = classifier.predict_proba(embedding, temperature=temperature)[0].tolist()
    return sorted(map(Label, names, scores, shares), key=lambda label: -label.score)
