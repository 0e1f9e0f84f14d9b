"""Which pairs of pictures are minimal contrasts: alike in what they are about, and unlike in how they look (S-VCO,
arXiv 2502.13928)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar import console
from nearfar.data.mining.filters import FilterReport
from nearfar.data.pictures.images import BadImage, load_image
from nearfar.data.sources.source import Record, Source
from nearfar.errors import UserError, at_least
from nearfar.modes import evaluating

Embedder = Any
"""A model with `preprocess` and `encode_image`, or a function from a list of PIL pictures to `[N, D]`."""


def filter_contrast_pairs(
    source: Source,
    semantic: Embedder,
    visual: Embedder,
    *,
    semantic_above: float = 0.7,
    visual_below: float = 0.5,
    exempt: Callable[[Record], bool] | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> tuple[Source, FilterReport]:
    """Keep the pairs of pictures that a model of meanings finds alike and a model of looks finds unlike.

    Args:
        source: records with `image` and `image2`.
        semantic: embeds pictures by what they are about (paper: SigLIP): a model with `preprocess` and `encode_image`,
            or a function from a list of PIL pictures to `[N, D]` in floating point.
        visual: embeds them by how they look (paper: DINOv2), in the same way.
        semantic_above, visual_below: a pair is kept whose cosines are above the one and below the other (paper's code:
            0.7 and 0.5).
        exempt: pairs that no cosine can judge, such as mirrored pictures, which both models find alike: of them as
            large a share is kept as of the others, drawn by `seed`, so that the kinds of pairs keep their proportions.
        batch_size: pairs that are embedded at a time.
        seed: of that draw.

    Returns:
        The pairs that were kept, in their order, and a report of what each rule dropped.

    Raises:
        UserError: records without a second picture, bounds that are no cosines, embeddings that are not one row a
            picture.

    >>> from PIL import Image
    >>> from nearfar.data import Records
    >>> pictures = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in (0, 255)]
    >>> pairs = Records([{"image": pictures[0], "image2": each} for each in pictures], name="pairs")
    >>> def about(pictures): return torch.ones(len(pictures), 2)
    >>> def looks(pictures): return torch.tensor([[each.getpixel((0, 0))[0] - 100.0, 20.0] for each in pictures])
    >>> kept, report = filter_contrast_pairs(pairs, about, looks)
    >>> kept.ids(), report.dropped["visual similarity of 0.5 or more"]
    ([1], 1)
    """
    for name, bound in (("semantic_above", semantic_above), ("visual_below", visual_below)):
        if not -1 <= bound <= 1:
            raise UserError(f"{name}={bound}: a cosine lies between -1 and 1")
    at_least(1, batch_size=batch_size)
    if "image2" not in source.columns:
        columns = ", ".join(source.columns)
        raise UserError(f"{source.name} has no second picture, 'image2'; its columns are: {columns}")
    unreadable, unlike, alike, drawn = (
        "a picture cannot be read",
        f"semantic similarity of {semantic_above:g} or less",
        f"visual similarity of {visual_below:g} or more",
        "exempt, and not drawn",
    )
    report = FilterReport(pairs=len(source), dropped=dict.fromkeys((unreadable, unlike, alike, drawn), 0))
    is_exempt = [False] * len(source) if exempt is None else [bool(exempt(record)) for record in source]
    judged = [place for place, spared in enumerate(is_exempt) if not spared]
    kept: list[int] = []
    cosines = [pair_similarities(source.select(judged), model, batch_size=batch_size) for model in (semantic, visual)]
    for place, meaning, look in zip(judged, *(each.tolist() for each in cosines), strict=True):
        if meaning != meaning or look != look:
            report.dropped[unreadable] += 1
        elif meaning <= semantic_above:
            report.dropped[unlike] += 1
        elif look >= visual_below:
            report.dropped[alike] += 1
        else:
            kept.append(place)
    spared = [place for place, each in enumerate(is_exempt) if each]
    count = round(len(spared) * len(kept) / len(judged)) if judged else len(spared)
    order = torch.randperm(len(spared), generator=torch.Generator().manual_seed(seed)).tolist()
    report.dropped[drawn] = len(spared) - count
    kept = sorted([*kept, *(spared[place] for place in order[:count])])
    report.kept = len(kept)
    return source.select(kept, name=f"{source.name}, minimal contrasts"), report


def pair_similarities(source: Source, model: Embedder, *, batch_size: int = 32) -> Tensor:
    """The cosine `[N]` float64 of the two pictures of each record by a model; NaN where one cannot be read.

    Args:
        source: records with `image` and `image2`.
        model: has `preprocess` and `encode_image`, or is a function from a list of PIL pictures to `[N, D]` in floating
            point.
        batch_size: pairs that are embedded at a time.

    Raises:
        UserError: embeddings that are not one row a picture.

    >>> from PIL import Image
    >>> from nearfar.data import Records
    >>> grey = Image.new("RGB", (4, 4))
    >>> pairs = Records([{"image": grey, "image2": grey}])
    >>> pair_similarities(pairs, lambda pictures: torch.ones(len(pictures), 3)).round().tolist()
    [1.0]
    """
    cosine = torch.full((len(source),), torch.nan, dtype=torch.float64)
    for start in console.track(range(0, len(source), batch_size), f"{source.name}: pairs of pictures"):
        places, pictures = list[int](), list[Any]()
        for place in range(start, min(start + batch_size, len(source))):
            record = source.record(place)
            try:
                pictures += [load_image(record.get(key)) for key in ("image", "image2")]
                places.append(place)
            except BadImage:
                continue
        if places:
            first, second = _embedded(model, pictures).double().view(len(places), 2, -1).unbind(1)
            cosine[places] = F.cosine_similarity(first, second, dim=1).cpu()
    return cosine


def _embedded(model: Embedder, pictures: Sequence[Any]) -> Tensor:
    if hasattr(model, "encode_image"):
        with evaluating(model):
            rows = model.encode_image(model.preprocess(pictures))
    else:
        with torch.no_grad():
            rows = torch.as_tensor(model(list(pictures)))
    if rows.ndim != 2 or len(rows) != len(pictures):
        raise UserError(
            f"a model of pictures gave {list(rows.shape)} for {len(pictures)} of them: one row a picture is needed, as "
            "encode_image returns"
        )
    return rows
