"""Whitening of embeddings after training (arXiv 2103.15316): fitted on rows, and then a linear map, which a text
encoder can carry as its last layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nearfar.errors import UserError, need
from nearfar.models.language.text_model import TextEncoder
from nearfar.models.towers.dense_layers import described
from nearfar.modes import evaluating


class WhiteningTransform:
    """Rows less their mean, turned onto the directions of largest variance and scaled to unit variance in each. It has
    the methods of scikit-learn's transformers.

    Args:
        components: directions to keep, those of largest variance; None keeps all that vary.

    Attributes:
        mean_: `[D]` float64.
        map_: `[D, K]` float64; `transform` is `(x - mean_) @ map_`.
        variances_: `[K]` float64, of the fitted rows along each direction, in falling order.

    >>> rows = np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> white = WhiteningTransform().fit_transform(rows)
    >>> (white.T @ white / 4).round(6).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    def __init__(self, components: int | None = None) -> None:
        self.components = components

    def fit(self, x: ArrayLike | Tensor, y: None = None) -> Self:
        """Take mean and covariance of rows `[N, D]`, floating point, in float64.

        Raises:
            UserError: another shape, fewer than two rows, values that are not finite, or more components than the rows
                vary in.
        """
        rows = _rows(x)
        if len(rows) < 2:
            raise UserError(f"{len(rows)} row says nothing of how rows vary: fit on more")
        self.mean_ = rows.mean(0)
        centred = rows - self.mean_
        values, basis = np.linalg.eigh(centred.T @ centred / len(rows))
        values, basis = values[::-1], basis[:, ::-1]
        varied = int((values > values[0] * len(values) * np.finfo(np.float64).eps).sum()) if values[0] > 0 else 0
        varied = min(varied, len(rows) - 1)
        kept = varied if self.components is None else self.components
        if not 1 <= kept <= varied:
            raise UserError(
                f"components={kept}: these {len(rows)} rows vary in {varied} directions; keep 1 to {varied}"
            )
        self.variances_ = values[:kept].copy()
        self.map_ = basis[:, :kept] / np.sqrt(self.variances_)
        return self

    def transform(self, x: ArrayLike | Tensor) -> NDArray[np.float64]:
        """Rows `[N, D]`, floating point, whitened: `[N, K]` float64. One row alone gives what it gives among others.

        Raises:
            UserError: before `fit`, or rows of another width.
        """
        if not hasattr(self, "map_"):
            raise UserError("fit the whitening first: WhiteningTransform().fit(rows)")
        rows = _rows(x)
        if rows.shape[1] != len(self.mean_):
            raise UserError(f"rows are {rows.shape[1]} wide, and the fitted ones {len(self.mean_)}")
        return (rows - self.mean_) @ self.map_

    def fit_transform(self, x: ArrayLike | Tensor, y: None = None) -> NDArray[np.float64]:
        """`fit`, then `transform` of the same rows `[N, D]`, floating point: `[N, K]` float64."""
        return self.fit(x).transform(x)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings, as scikit-learn's `clone` wants them."""
        return {"components": self.components}

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn's pipelines ask of their parts: those of any estimator."""
        return need("sklearn.base", "probes").BaseEstimator().__sklearn_tags__()

    def set_params(self, **settings: Any) -> Self:
        """Change settings."""
        self.components = settings.get("components", self.components)
        return self


def whitened_encoder(
    model: TextEncoder, texts: Sequence[str], *, components: int | None = None, batch_size: int = 64
) -> TextEncoder:
    """A text encoder that whitens its embeddings, fitted on texts: a copy with one linear layer more, which is saved
    and exported with the rest (BERT-whitening, arXiv 2103.15316).

    Args:
        model: the encoder; it stays as it is.
        texts: what the embeddings are fitted on: thousands, of the kind that will be embedded.
        components: width of the new embeddings; None: as many as the texts vary in.
        batch_size: texts at a time.

    Raises:
        UserError: fewer than two texts, or more components than they vary in.

    >>> from nearfar.models.language.text_model import text_encoder
    >>> model = whitened_encoder(text_encoder("minilm"), ["a cat", "a dog", "it rains", "we sail"], components=2)
    >>> model.encode(["a kitten"]).shape
    (1, 2)
    """
    with evaluating(model):
        parts = [
            model.encode_text(model.tokenize(list(texts[i : i + batch_size]))) for i in range(0, len(texts), batch_size)
        ]
    fitted = WhiteningTransform(components).fit(torch.cat(parts) if parts else torch.zeros(0, model.embed_dim))
    width, kept = fitted.map_.shape
    layer = {"in_features": width, "out_features": kept, "bias": True, "activation": "Identity"}
    config = model.config()
    config["layers"] = [*described(model.layers), layer]
    config.pop("matryoshka", None)  # their order is another now
    made = TextEncoder.from_config(config, model.tokenizer)
    weight = torch.from_numpy(fitted.map_.T)
    state = model.state_dict() | {
        f"layers.{len(model.layers)}.linear.weight": weight.float(),
        f"layers.{len(model.layers)}.linear.bias": (-weight @ torch.from_numpy(fitted.mean_)).float(),
    }
    made.load_state_dict(state)
    return made.to(model.device).eval()


def _rows(x: ArrayLike | Tensor) -> NDArray[np.float64]:
    rows = np.asarray(x.detach().cpu().double() if isinstance(x, Tensor) else x, dtype=np.float64)
    if rows.ndim != 2:
        raise UserError(f"rows must be [N, D], got shape {rows.shape}")
    if not np.isfinite(rows).all():
        raise UserError(f"row {int(np.flatnonzero(~np.isfinite(rows).all(1))[0])} is not finite: leave it out")
    return rows
