"""The embedding space in pictures: maps by category, images beside texts, and how near pairs are."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from nearfar.embedding.embeddings import MEDIA, Embeddings
from nearfar.evaluation.report.blocks import Figure, Figures, Spot
from nearfar.evaluation.report.figures import PALETTE, histograms, places_on, scatter
from nearfar.evaluation.report.retrieval_gallery import Thumbnails

MAPPED = 1000
"""Images on the map; more would be a blot."""

SPOT = 72
"""Pixels of the longer side of a picture on the map."""


def embedding_map(data: Embeddings, source: Any = None, *, seed: int = 0) -> list[Figures]:
    """A map of each side in two dimensions, coloured by category (or class, or domain, whichever there is): of the
    images and whatever else the records have; of the texts where there is nothing else.

    Points of images show their picture, of `source`, when they are pointed at. By t-SNE where scikit-learn is
    installed, which keeps neighbours together; by the two principal axes otherwise.
    """
    sides = [name for name in data.sides if name != "text"] or list(data.sides)
    return [_map(data, side, seed, source) for side in sides if len(data.sides[side].vectors) >= 3]


def _map(data: Embeddings, side: str, seed: int, source: Any) -> Figures:
    vectors, owner = data.sides[side]
    rows = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(seed))[:MAPPED]
    kind, colouring = _kinds(data.select(owner[rows]))
    x = normalize(vectors[rows], dim=1)
    points, how = (_tsne(x, seed), "t-SNE") if len(x) >= 30 and find_spec("sklearn") else (principal_axes(x), "PCA")
    colours = _colours(kind)
    describe = f"Map of {len(rows)} {side} embeddings by {colouring}"
    svg = scatter(points, kind, colours, describe=describe, name="map" if side == "image" else f"map-{side}")
    remark = f"{len(rows):,} {side} embeddings, laid out by {how}, coloured by {colouring}."
    spots = _spots(data, source, owner[rows].tolist(), points) if side in MEDIA else []
    if spots:
        remark += " Point at a dot, or tap it, to see its picture."
    return Figures([Figure(svg, colours, remark, spots)], wide=True)


def _spots(data: Embeddings, source: Any, rows: list[int], points: NDArray[np.float64]) -> list[Spot]:
    """For each point of a map its place and its picture."""
    if not hasattr(source, "__getitem__") or isinstance(source, Embeddings):
        return []
    thumbnails, caption = Thumbnails(data, source, SPOT, still=True), {}
    for text, row in reversed(list(zip(data.captions, data.image_of_text.tolist(), strict=False))):
        caption[row] = text
    places = places_on(points)
    return [
        Spot(float(left), float(top), thumbnails(row), caption.get(row, data.names[row] if data.names else ""))
        for row, (left, top) in zip(rows, places, strict=True)
    ]


def pair_figures(data: Embeddings, *, seed: int = 0) -> list[Figures]:
    """Cosines of pairs and of strangers, and images and texts on their common principal axes."""
    if len(data.text) < 3 or len(data.image) < 3:
        return []
    cosines = pairs_and_strangers(data, seed=seed)
    series = {name: values for name, values in cosines.items() if len(values)}
    describe = "; ".join(f"a caption and {name}: mean cosine {values.mean():.3f}" for name, values in series.items())
    apart = Figure(
        histograms(series, label="cosine", describe=describe, name="cosines"),
        dict(zip((f"a caption and {name}" for name in series), PALETTE, strict=False)),
        "Cosine of a caption and an image: the less the two hills overlap, the better.",
    )
    generator = torch.Generator().manual_seed(seed)
    images, texts = (
        normalize(x[torch.randperm(len(x), generator=generator)[: MAPPED // 2]], dim=1) for x in (data.image, data.text)
    )
    colours = {"image": PALETTE[0], "caption": PALETTE[1]}
    both = scatter(
        principal_axes(torch.cat([images, texts])),
        ["image"] * len(images) + ["caption"] * len(texts),
        colours,
        describe="Images and captions on their two common principal axes",
        name="modalities",
    )
    gap = Figure(both, colours, "Images and captions on their common principal axes: a gap shows as two islands.")
    return [Figures([apart, gap])]


def pairs_and_strangers(data: Embeddings, *, most: int = 20_000, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """Cosines of captions with their own image, and with the images of other groups, drawn by `seed`."""
    image, text = normalize(data.image, dim=1), normalize(data.text, dim=1)
    generator = torch.Generator().manual_seed(seed)
    texts = torch.randperm(len(text), generator=generator)[:most]
    own = torch.linalg.vecdot(text[texts], image[data.image_of_text[texts]])
    other = torch.randint(len(image), (len(texts),), generator=generator)
    strange = data.match_group[other] != data.text_group[texts]
    far = torch.linalg.vecdot(text[texts], image[other])[strange]
    return {"its own image": own.double().numpy(), "another image": far.double().numpy()}


def principal_axes(x: Tensor) -> NDArray[np.float64]:
    """`[n, 2]`: the rows of `x` on their first two principal axes (zeros for an axis that is not there).

    >>> import torch
    >>> principal_axes(torch.tensor([[0.0, 0, 3], [0, 0, -3]])).round(3).__abs__()
    array([[3., 0.],
           [3., 0.]])
    """
    centred = x.double() - x.double().mean(dim=0)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    points = (left * values)[:, :2].numpy()
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))


def _tsne(x: Tensor, seed: int) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE

    layout = TSNE(metric="cosine", init="random", perplexity=min(30, len(x) // 4), max_iter=500, random_state=seed)
    return np.asarray(layout.fit_transform(x.numpy()), dtype=np.float64)


def _kinds(data: Embeddings) -> tuple[list[str], str]:
    """A name for each image, of at most 9 different, the rest being "other", and what it is a name of."""
    candidates: list[tuple[str, list[Any]]] = []
    if "category" in data.columns:
        candidates.append(("category", data.columns["category"]))
    for colouring, numbers, names in (("class", data.label, data.classes), ("domain", data.domain, data.domains)):
        if numbers is not None:
            named = [names[i] if names and 0 <= i < len(names) else i for i in numbers.tolist()]
            candidates.append((colouring, named))
    # More classes than colours say nothing on a map: then the domain does.
    fitting = [c for c in candidates if 2 <= len(set(c[1])) <= 3 * len(PALETTE)] or candidates
    colouring, values = fitting[0] if fitting else ("source", [data.source] * len(data))
    texts = [str(value) for value in values]
    common = sorted(set(texts), key=lambda text: (-texts.count(text), text))
    kept = common if len(common) <= len(PALETTE) else common[: len(PALETTE) - 1]
    return [text if text in kept else "other" for text in texts], colouring


def _colours(kind: list[str]) -> dict[str, str]:
    common = sorted(set(kind), key=lambda name: (name == "other", -kind.count(name), name))
    # Grey is the last colour, and that of "other".
    return {name: PALETTE[-1] if name == "other" else PALETTE[i] for i, name in enumerate(common)}
