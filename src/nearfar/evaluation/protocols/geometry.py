"""The shape of an embedding space: how near pairs are, how well the sphere is used, and what has collapsed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from nearfar.embedding.embed_source import embed
from nearfar.embedding.embeddings import Embeddings
from nearfar.errors import UserError
from nearfar.evaluation.measures.bootstrap import clusters, mean_interval, resample
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.nearest import nearest


def geometry(
    encoder: Any,
    source: Any = None,
    *,
    alpha: float = 2.0,
    t: float = 2.0,
    hubs: int = 10,
    limit: int | None = 20_000,
    seed: int = 0,
    batch_size: int = 64,
) -> Result:
    """Alignment, uniformity, effective rank, modality gap, signs of collapse and hubness, all on unit vectors.

    Of data with one side only, pictures or texts, that side's figures.

    Args:
        encoder: `Embeddings`, or an encoder to embed `source` with.
        source: the data, when `encoder` is an encoder.
        alpha: exponent of the distance in alignment.
        t: sharpness of the Gaussian in uniformity.
        hubs: neighbours that hubness counts.
        limit: records beyond this number are sampled (uniformity compares all pairs); None takes all.
        seed: of the sample and the bootstrap.
        batch_size: for embedding.

    Returns:
        - `alignment`: mean distance ** alpha of a caption and its image; lower is nearer. Chance: over random pairs.
        - `image_uniformity`, `text_uniformity`: log of the mean of exp(-t d^2) over distinct pairs; lower is more even.
          Chance: points drawn evenly from the sphere, the best there is for many points.
        - `image_effective_rank`, `text_effective_rank`: exp of the entropy of the normalised singular values.
        - `image_mean_cosine`, `text_mean_cosine`: over distinct pairs; 1 is total collapse.
        - `image_spread`, `text_spread`: mean standard deviation of a dimension times sqrt(D); 1 on the whole sphere, 0
          in a point.
        - `modality_gap`: distance of the mean image from the mean text.
        - `hubness`: skewness of how often an image is among the `hubs` nearest of a text; 0 is even.

    >>> eye = torch.eye(4)
    >>> result = geometry(Embeddings(eye, eye, torch.arange(4)))
    >>> result["alignment"], round(result["image_effective_rank"], 3), result["image_mean_cosine"]
    (0.0, 4.0, 0.0)
    """
    data = embed(encoder, source, batch_size=batch_size) if not isinstance(encoder, Embeddings) else encoder
    if limit is not None and len(data) > limit:
        drawn = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:limit]
        data = data.select(drawn.sort().values)
    image, group = normalize(data.image.float(), dim=1), data.image_group
    text, texts, text_group = normalize(data.text.float(), dim=1), data.distinct_texts(), data.text_group
    if not len(image) and not len(text):
        raise UserError(f"geometry needs pictures or texts, and {data.source} has neither")
    both = len(image) and len(text)
    metrics: dict[str, Metric] = {}
    if both:
        metrics["alignment"] = _alignment(image, text, data.image_of_text, group[data.image_of_text], alpha, seed)
    match_group = data.match_group
    if len(image):
        different = data.distinct_images()
        image, group, match_group = image[different], group[different], match_group[different]
        metrics |= _one_side("image", image, group, t)
    if len(text):
        metrics |= _one_side("text", text[texts], text_group[texts], t)
    if both:
        metrics["modality_gap"] = _gap(image, text[texts], match_group, text_group[texts], seed)
        metrics["hubness"] = Metric(hubness(text[texts], image, hubs), n=len(image))
    counts = {"images": len(image), "texts": len(texts)}
    return Result("geometry", metrics, details={"alpha": alpha, "t": t, **counts, "hubs": hubs})


def uniformity(x: Tensor, *, t: float = 2.0) -> float:
    """log mean exp(-t |x_i - x_j|^2) over distinct pairs of the unit rows of `x [N, D]`, floating point (Wang and
    Isola, arXiv 2005.10242); NaN for fewer than two rows. Normalises the rows itself, in float32. Streamed: the N x N
    matrix is never held.

    >>> round(uniformity(torch.tensor([[1.0, 0.0], [0.0, 1.0]])), 6)
    -4.0
    """
    return float(np.log(_potential(normalize(x.float(), dim=1), t).mean())) if len(x) > 1 else math.nan


def uniformity_of_sphere(dim: int, *, t: float = 2.0) -> float:
    """The uniformity of points drawn evenly from the unit sphere in `dim` dimensions: log of
    exp(-2t) 0F1(; dim / 2; t^2).

    >>> round(uniformity_of_sphere(512), 2)
    -3.98
    """
    term = total = 1.0
    for n in range(1, 1000):
        term *= t * t / (n * (dim / 2 + n - 1))
        total += term
        if term < 1e-17 * total:
            break
    return math.log(total) - 2 * t


def effective_rank(x: Tensor) -> float:
    """exp of the entropy of the singular values of `x [N, D]`, floating point, normalised to sum to 1 (Roy and
    Vetterli, EUSIPCO 2007): from 1 to min(N, D). From the D x D Gram matrix in float64.

    >>> round(effective_rank(torch.eye(5)), 4)
    5.0
    """
    gram = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for rows in x.split(4096):
        gram += rows.double().T @ rows.double()
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    # Below this a value is rounding of the Gram matrix, not data.
    values = values[values > values.max() * 1e-7]
    share = values / values.sum()
    return float((-(share * share.log()).sum()).exp())


def mean_cosine(x: Tensor) -> float:
    """Mean cosine over distinct pairs of the rows of `x [N, D]`, floating point and of unit length, in O(N D); NaN for
    fewer than two rows. 0 where directions are even, 1 where all rows are one."""
    n = len(x)
    if n < 2:
        return math.nan
    x64 = x.double()
    return float((x64.sum(0).square().sum() - x64.square().sum()) / (n * (n - 1)))


def spread(x: Tensor) -> float:
    """Mean standard deviation of the dimensions of `x [N, D]`, floating point, times sqrt(D): for unit rows 1 where
    they spread evenly, 0 where they collapse (SimSiam, arXiv 2011.10566, section 4.1)."""
    return float(x.double().std(dim=0, correction=0).mean() * math.sqrt(x.shape[1]))


def hubness(query: Tensor, candidate: Tensor, k: int = 10) -> float:
    """Skewness of the number of queries that have a candidate among their `k` nearest (Radovanovic and others, JMLR
    2010); 0 where every candidate is met equally often. `query [Q, D]` and `candidate [N, D]` are float32.

    >>> hubness(torch.eye(4), torch.eye(4), 1)
    0.0
    """
    _, rows = nearest(query, candidate, k)
    count = torch.bincount(rows.flatten(), minlength=len(candidate)).double()
    centred = count - count.mean()
    deviation = centred.square().mean().sqrt()
    return float((centred**3).mean() / deviation**3) if deviation > 0 else 0.0


def _one_side(name: str, x: Tensor, group: Tensor, t: float) -> dict[str, Metric]:
    n = len(x)
    return {
        f"{name}_uniformity": _uniformity(x, group, t),
        f"{name}_effective_rank": Metric(effective_rank(x), n=n),
        f"{name}_mean_cosine": Metric(mean_cosine(x), chance=0.0, n=n),
        f"{name}_spread": Metric(spread(x), chance=1.0, n=n),
    }


def _alignment(image: Tensor, text: Tensor, image_of_text: Tensor, group: Tensor, alpha: float, seed: int) -> Metric:
    def powered(cosine: Tensor) -> Tensor:
        return (2 - 2 * cosine.double()).clamp(min=0) ** (alpha / 2)

    # A difference of vectors, not 2 - 2 cos: near 0 the latter is all rounding.
    rows = torch.arange(len(text)).split(1 << 16)
    gap = [torch.linalg.vector_norm(text[r] - image[image_of_text[r]], dim=1).double() for r in rows]
    value = (torch.cat(gap) ** alpha).numpy()
    low, high = mean_interval(value, cluster=group.numpy(), seed=seed)
    if alpha == 2:
        chance = float(2 - 2 * image.double().mean(0) @ text.double().mean(0))
    else:
        chance = _blockwise_mean(text, image, powered)
    return Metric(float(value.mean()), float(low[0]), float(high[0]), chance, len(value))


def _uniformity(x: Tensor, group: Tensor, t: float) -> Metric:
    if len(x) < 2:
        return Metric(math.nan, n=len(x))
    potential = _potential(x, t)
    mean, n = potential.mean(), len(x)
    # A mean over pairs: its variance is four times that of the mean of what each point contributes (Hoeffding), here
    # with the points of one group moving together.
    member, count = clusters(group.numpy(), n)
    deviation = 2 * np.sqrt(np.square(np.bincount(member, potential - mean, count)).sum()) / n
    margin = 1.959964 * deviation / mean
    value = float(np.log(mean))
    return Metric(value, value - margin, value + margin, uniformity_of_sphere(x.shape[1], t=t), n)


def _potential(x: Tensor, t: float) -> NDArray[np.float64]:
    """`[N]`: mean of exp(-t |x_i - x_j|^2) over the other rows j, for unit rows."""
    from nearfar.ops import log_partition

    own = torch.arange(len(x))
    with torch.no_grad():
        lse = log_partition(x, x, 2 * t, q_group=own, k_group=own, admit="different")
    return (lse.double() - 2 * t).exp().numpy() / (len(x) - 1)


def _gap(image: Tensor, text: Tensor, image_group: Tensor, text_group: Tensor, seed: int) -> Metric:
    value = float(torch.linalg.vector_norm(image.double().mean(0) - text.double().mean(0)))
    groups, member = torch.cat([image_group, text_group]).unique(return_inverse=True)
    sides = []
    for x, of in ((image, member[: len(image)]), (text, member[len(image) :])):
        sums = torch.zeros(len(groups), x.shape[1], dtype=torch.float64).index_add_(0, of, x.double())
        sides.append((sums.numpy(), torch.bincount(of, minlength=len(groups)).double().numpy()))
    gaps = []
    for weights in resample(len(groups), 200, seed):
        first, second = (weights @ sums / np.maximum(weights @ sizes, 1)[:, None] for sums, sizes in sides)
        gaps.append(np.square(first - second).sum(axis=1))
    # The noise of resampling adds to a squared distance, so a plain percentile interval would lie above its value.
    squared = np.concatenate(gaps)
    low, high = np.sqrt(np.clip(np.percentile(squared - squared.mean() + value**2, [2.5, 97.5]), 0, None))
    return Metric(value, float(low), float(high), 0.0, len(image) + len(text))


def _blockwise_mean(x: Tensor, y: Tensor, change: Callable[[Tensor], Tensor]) -> float:
    total = sum(float(change(a @ b.T).sum()) for a in x.split(2048) for b in y.split(2048))
    return total / (len(x) * len(y))
