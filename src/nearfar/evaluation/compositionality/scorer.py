"""Scores of the options of multiple-choice cases: by default the cosine of image and text embedding."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from nearfar.data.pictures.images import load_image
from nearfar.embedding.embed_source import embed_images, embed_texts
from nearfar.evaluation.compositionality.choice import ChoiceQuestion

Scorer = Callable[[Sequence[ChoiceQuestion]], list[list[float]]]
"""Cases in, the scores of their options out."""

_ROWS = 8192
"""Options whose cosines are taken at a time."""


def cosine_scorer(encoder: Any, *, batch_size: int = 64) -> Scorer:
    """Options scored by the cosine of image and text embedding; each different picture and caption is embedded once."""

    def score(cases: Sequence[ChoiceQuestion]) -> list[list[float]]:
        pictures: dict[Hashable, int] = {}
        picture_number = torch.tensor(
            [pictures.setdefault((image_key(case), case.box), len(pictures)) for case in cases]
        )
        first = dict(zip(picture_number.tolist()[::-1], cases[::-1], strict=True))
        images = embed_images(encoder, (picture(first[i]) for i in range(len(pictures))), batch_size=batch_size)
        texts = embed_texts(encoder, [caption for case in cases for caption in case.captions], batch_size=batch_size)
        sizes = [len(case.captions) for case in cases]
        owner = picture_number.repeat_interleave(torch.tensor(sizes))
        # Double precision, and each caption against its own image only: equal embeddings give exactly equal scores.
        cosine = torch.cat(
            [
                (images[owner[i : i + _ROWS]].double() * texts[i : i + _ROWS].double()).sum(1)
                for i in range(0, len(texts), _ROWS)
            ]
        )
        return [part.tolist() for part in cosine.split(sizes)]

    return score


def picture(case: ChoiceQuestion) -> Any:
    """The case's image, cropped to its box."""
    image = load_image(case.image)
    return image.crop(case.box) if case.box else image


def blank(case: ChoiceQuestion) -> ChoiceQuestion:
    """The case with a white image in place of its own."""
    return replace(case, image=_white(), box=None)


def image_key(case: ChoiceQuestion) -> Hashable:
    """Equal for cases about the same image: the file, or the object in memory."""
    return str(case.image) if isinstance(case.image, str | Path) else id(case.image)


@lru_cache(1)
def _white() -> Any:
    from PIL import Image

    return Image.new("RGB", (64, 64), "white")
