"""A linear classifier that is trained on texts, and used on pictures (CLOSE, arXiv 2211.09778)."""

from __future__ import annotations

from typing import Any, Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.classifiers.classifier import Classifier, examples
from nearfar.data.texts.text_adapters import TextAdapter
from nearfar.errors import UserError, at_least


class TextTrained(Classifier):
    """Soft-max regression on unit vectors of texts, which an adapter changes anew in each step (Adam). Afterwards it
    classifies unit vectors of pictures, or of texts, as they are.

    Args:
        adapter: how vectors are changed, such as `nearfar.data.texts.text_adapters.GaussianNoise`; None: not at all.
        steps: of Adam.
        batch_size: texts a step, drawn with replacement.
        lr: Adam's.
        weight_decay: of the weights, as a penalty.
        seed: of texts and noise.

    Attributes:
        classes_: the labels.

    Raises:
        UserError: a setting out of its range.

    >>> from nearfar.data.texts.text_adapters import GaussianNoise
    >>> probe = TextTrained(GaussianNoise(0.1), steps=50).fit([[1.0, 0.1], [0.1, 1.0]], ["cat", "dog"])
    >>> probe.predict([[0.8, 0.3], [-0.2, 0.9]]).tolist()
    ['cat', 'dog']
    """

    def __init__(
        self,
        adapter: TextAdapter | None = None,
        *,
        steps: int = 1200,
        batch_size: int = 256,
        lr: float = 0.05,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        at_least(1, steps=steps, batch_size=batch_size)
        if not lr > 0 or not weight_decay >= 0:
            raise UserError(f"lr={lr}, weight_decay={weight_decay}: above 0, and at least 0")
        self.adapter, self.steps, self.batch_size = adapter, steps, batch_size
        self.lr, self.weight_decay, self.seed = lr, weight_decay, seed

    def fit(self, embeddings: Tensor | ArrayLike, labels: ArrayLike, *, classes: ArrayLike | None = None) -> Self:
        """Fit vectors of texts, `embeddings` `[N, D]`, floating point, with their labels `[N]`, of any dtype. `classes`
        may name some that have no example.

        Raises:
            UserError: fewer than two classes have examples.
        """
        x, y, known = examples(embeddings, labels, classes)
        if len(y.unique()) < 2:
            raise UserError("a classifier needs examples of two classes at least")
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            layer = nn.Linear(x.shape[1], len(known))
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
            weights: dict[str, Any] = {"params": [layer.weight], "weight_decay": self.weight_decay}
            optimizer = torch.optim.Adam([weights, {"params": [layer.bias]}], lr=self.lr)
            for _ in range(self.steps):
                rows = torch.randint(len(x), (self.batch_size,))
                vectors = x[rows] if self.adapter is None else self.adapter.train()(x[rows])
                optimizer.zero_grad()
                F.cross_entropy(layer(vectors), y[rows]).backward()
                optimizer.step()
        self.classes_, self.n_features_in_, self._layer = known, x.shape[1], layer.requires_grad_(False)
        return self

    def scores(self, embeddings: Tensor) -> Tensor:
        """Logits `[N, C]` float32 of unit `embeddings` `[N, D]`."""
        return self._layer(embeddings)

    def softmax_temperature(self) -> float:
        return 1.0
