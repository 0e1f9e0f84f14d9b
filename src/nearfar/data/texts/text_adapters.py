"""Changes of text vectors in training, so that what is learnt on them works on pictures (CLOSE, arXiv 2211.09778).

In the space of a contrastive model a picture and its text lie apart, and a text's vector holds details that no
picture's has. A head that is trained on texts alone learns both; one that is trained on changed texts does not.

    z = norm(move(t) + w e)      e ~ N(0, I) in training, nothing in evaluation

Vectors of pictures are never changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError

REFERENCE = 768
"""The width of the embeddings that the paper's noise is stated for (CLIP ViT-L/14)."""


class TextAdapter(nn.Module):
    """A change of unit text vectors: a part that is worked out, `moved`, and Gaussian noise, which is drawn anew in
    every call in training mode. In evaluation there is no noise.

    Args:
        noise: w, the standard deviation of the noise in each coordinate: neither its norm, w sqrt(D), nor its variance.

    Raises:
        UserError: noise below 0, or not a number.
    """

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        if not 0 <= noise < math.inf:
            raise UserError(f"noise={noise}: a number of at least 0, the standard deviation of each coordinate")
        self.noise = noise

    def moved(self, text: Tensor) -> Tensor:
        """Vectors `[N, D]`, floating point, before the noise, of unit `text` `[N, D]`."""
        return text

    def fit(self, text: Tensor | ArrayLike, image: Tensor | ArrayLike) -> Self:
        """Work out what it holds of vectors of texts and pictures, `[N, D]` and `[M, D]`, of any length: they are
        scaled to unit length first. Plain noise holds nothing."""
        return self

    def forward(self, text: Tensor) -> Tensor:
        """Unit vectors `[N, D]` of unit `text` `[N, D]`, floating point, in its dtype. What is not changed is returned
        as it is."""
        moved = self.moved(text)
        if self.training and self.noise:
            moved = moved + self.noise * torch.randn_like(moved)
        return text if moved is text else F.normalize(moved, dim=-1)

    def transform(self, text: ArrayLike, *, seed: int | None = None) -> NDArray[Any]:
        """The same for an array `[N, D]`, floating point, in the mode that it is in: an array of its dtype.

        Args:
            text: unit vectors.
            seed: of the noise; None: from PyTorch's own state.

        >>> rows, noise = np.eye(3), GaussianNoise(0.5)
        >>> noise.transform(rows, seed=0).shape, bool((noise.eval().transform(rows) == rows).all())
        ((3, 3), True)
        """
        rows = torch.from_numpy(np.ascontiguousarray(text))
        with torch.no_grad(), torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            return self(rows).numpy()


class GaussianNoise(TextAdapter):
    """Plain noise, which holds nothing of pictures: the paper's own. `scale_for_dim` says what the paper's amounts are
    at other widths.

    >>> noise = GaussianNoise(0.1)
    >>> torch.allclose(noise(torch.eye(4)).norm(dim=1), torch.ones(4))
    True
    >>> torch.equal(noise.eval()(torch.eye(4)), torch.eye(4))
    True
    """


class MeanShift(TextAdapter):
    """`moved(t) = t + scale * m`, where m is the mean of pictures' vectors less that of texts'. They need not be pairs.

    Args:
        dim: D.
        scale: 0 leaves the noise alone.
        noise: w.

    Attributes:
        shift: m, `[D]` float32.

    >>> shift = MeanShift(2).fit([[1.0, 0.0]], [[0.0, 1.0]])
    >>> shift.shift
    tensor([-1.,  1.])
    """

    shift: Tensor

    def __init__(self, dim: int, *, scale: float = 1.0, noise: float = 0.0) -> None:
        super().__init__(noise)
        self.scale = scale
        self.register_buffer("shift", torch.zeros(dim))

    def moved(self, text: Tensor) -> Tensor:
        return text + self.scale * self.shift.to(text.dtype)

    def fit(self, text: Tensor | ArrayLike, image: Tensor | ArrayLike) -> Self:
        texts, images = _unit(text, self.shift), _unit(image, self.shift)
        self.shift.copy_(images.mean(0) - texts.mean(0))
        return self


class FixedShift(TextAdapter):
    """`moved(t) = t + length * u`, where u is one unit vector, drawn once: what a learnt head bears of shifts that it
    was not trained for.

    Args:
        dim: D.
        length: how far.
        noise: w.
        seed: of the direction.

    >>> round((FixedShift(8, length=0.5).moved(torch.eye(8)) - torch.eye(8)).norm(dim=1)[0].item(), 4)
    0.5
    """

    direction: Tensor

    def __init__(self, dim: int, *, length: float = 1.0, noise: float = 0.0, seed: int = 0) -> None:
        super().__init__(noise)
        self.length = length
        drawn = torch.randn(dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.register_buffer("direction", (drawn / drawn.norm()).float())

    def moved(self, text: Tensor) -> Tensor:
        return text + self.length * self.direction.to(text.dtype)


class CovarianceNoise(TextAdapter):
    """`moved(t) = t + m + factor * c` in training, c ~ N(0, C), where m and C are mean and covariance of a picture's
    vector less its text's. In evaluation it changes nothing.

    Args:
        dim: D.
        factor: the released code's is 3, without a word on why.
        noise: w.

    Attributes:
        shift: m, `[D]` float32.
        root: `[D, D]` float32, C = root root'. It is worked out once; fewer pairs than dimensions will do.

    >>> rows = torch.eye(4)
    >>> torch.allclose(CovarianceNoise(4).fit(rows, rows.roll(1, 0))(rows).norm(dim=1), torch.ones(4))
    True
    """

    shift: Tensor
    root: Tensor

    def __init__(self, dim: int, *, factor: float = 3.0, noise: float = 0.0) -> None:
        super().__init__(noise)
        self.factor = factor
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("root", torch.zeros(dim, dim))

    def moved(self, text: Tensor) -> Tensor:
        if not self.training:
            return text
        drawn = torch.randn_like(text) @ self.root.to(text.dtype).T
        return text + self.shift.to(text.dtype) + self.factor * drawn

    def fit(self, text: Tensor | ArrayLike, image: Tensor | ArrayLike) -> Self:
        difference = _difference(text, image, self.shift)
        if len(difference) < 2:
            raise UserError("a covariance needs two pairs at least")
        # By eigenvalues, as the covariance of fewer pairs than dimensions has no Cholesky factor.
        values, vectors = torch.linalg.eigh(difference.T.cov())
        self.shift.copy_(difference.mean(0))
        self.root.copy_(vectors * values.clamp(min=0).sqrt())
        return self


class LinearAlign(TextAdapter):
    """`moved(t) = norm(A t + b)`, the map of texts to pictures of least squares.

    Args:
        dim: D.
        noise: w.

    Attributes:
        weight: A, `[D, D]` float32; bias: b, `[D]` float32. Before `fit` texts stay where they are.

    >>> rows = torch.randn(50, 4)
    >>> map = LinearAlign(4).fit(rows, rows.roll(1, 1)).eval()
    >>> torch.allclose(map(F.normalize(rows, dim=1)), F.normalize(rows.roll(1, 1), dim=1), atol=1e-5)
    True
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, dim: int, *, noise: float = 0.0) -> None:
        super().__init__(noise)
        self.register_buffer("weight", torch.eye(dim))
        self.register_buffer("bias", torch.zeros(dim))

    def mapped(self, text: Tensor) -> Tensor:
        """A t + b, `[N, D]`, before it is scaled to unit length, of `text` `[N, D]`, floating point."""
        return text @ self.weight.to(text.dtype).T + self.bias.to(text.dtype)

    def moved(self, text: Tensor) -> Tensor:
        return F.normalize(self.mapped(text), dim=-1)

    def fit(self, text: Tensor | ArrayLike, image: Tensor | ArrayLike) -> Self:
        texts = _unit(text, self.bias)
        images = texts + _difference(text, image, self.bias)
        # Of fewer pairs than dimensions the smallest solution.
        solved = torch.linalg.lstsq(F.pad(texts, (0, 1), value=1.0), images, driver="gelsd").solution
        self.weight.copy_(solved[:-1].T)
        self.bias.copy_(solved[-1])
        return self


ADAPTERS: dict[str, Callable[..., TextAdapter]] = {
    "noise": lambda dim, noise: GaussianNoise(noise),
    "mean_shift": lambda dim, noise: MeanShift(dim, noise=noise),
    "fixed_shift": lambda dim, noise: FixedShift(dim, noise=noise),
    "covariance": lambda dim, noise: CovarianceNoise(dim, noise=noise),
    "linear": lambda dim, noise: LinearAlign(dim, noise=noise),
}
"""By name: of D and w an adapter, before it is fitted."""
FITTED = ("mean_shift", "covariance", "linear")
"""Those that hold something of pictures."""


def scale_for_dim(noise: float, dim: int, *, reference: int = REFERENCE) -> float:
    """The noise at `dim` dimensions that does what `noise` does at `reference`: w sqrt(D) stays what it is, and with it
    the mean cosine of a vector with its changed self, 1 / sqrt(1 + w^2 D).

    >>> round(scale_for_dim(0.12, 128), 4)
    0.2939
    """
    return noise * math.sqrt(reference / dim)


def noise_for_cosine(cosine: float, dim: int) -> float:
    """The noise with which the mean cosine of a vector with its changed self is `cosine`: how to choose it for another
    encoder is by the cosine of pictures with their own texts.

    Raises:
        UserError: a cosine outside 0 to 1.

    >>> round(noise_for_cosine(0.288, 768), 3)
    0.12
    """
    if not 0 < cosine <= 1:
        raise UserError(f"cosine={cosine}: above 0, and at most 1")
    return math.sqrt(max(0.0, 1 / cosine**2 - 1) / dim)


def _unit(vectors: Tensor | ArrayLike, like: Tensor) -> Tensor:
    """Rows `[N, D]` of unit length, float64, on the device of what is fitted."""
    own = vectors if isinstance(vectors, Tensor) else np.ascontiguousarray(vectors)
    rows = torch.as_tensor(own, dtype=torch.float64, device=like.device)
    if rows.ndim != 2 or rows.shape[1] != len(like) or not len(rows):
        raise UserError(f"vectors to fit by must be [N, {len(like)}], not {list(rows.shape)}")
    if not rows.isfinite().all():
        raise UserError("vectors to fit by hold numbers that are not finite")
    return F.normalize(rows, dim=-1)


def _difference(text: Tensor | ArrayLike, image: Tensor | ArrayLike, like: Tensor) -> Tensor:
    """A picture's vector less its text's, `[N, D]` float64."""
    texts, images = _unit(text, like), _unit(image, like)
    if len(texts) != len(images):
        raise UserError(f"{len(texts)} texts and {len(images)} pictures: pairs, one of each in a row")
    return images - texts
