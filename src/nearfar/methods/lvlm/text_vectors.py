"""Vectors of texts by a frozen image-text model, each text once, and vectors of pairs to fit an adapter by (CLOSE,
arXiv 2211.09778)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar import console
from nearfar.errors import UserError
from nearfar.modes import evaluating

AT_ONCE = 256
"""Texts, or pictures, that go through the model together."""
PAIRS = 4096
"""Pairs that an adapter is fitted by, from the first."""


class TextVectors:
    """Unit vectors of texts that stand for pictures. Vectors of single texts are kept as they are, without noise: an
    epoch of training after the first does not run the model.

    It is no module: what it holds is in no state dict, and nothing of it is trained.

    Args:
        pair: an image-text model, or what `nearfar.load` opens; a copy is kept.

    Attributes:
        encoded: how many texts went through the model.

    Raises:
        UserError: a model that embeds no texts.

    >>> class Letters(torch.nn.Module):
    ...     def tokenize(self, texts): return torch.tensor([[text.count("a"), text.count("b")] for text in texts])
    ...     def encode_text(self, tokens): return tokens.float()
    >>> vectors = TextVectors(Letters())
    >>> vectors([["aaabbbb"], ["aaabbbb", "b"]])
    tensor([[0.6000, 0.8000],
            [0.5145, 0.8575]])
    >>> vectors.encoded
    2
    """

    def __init__(self, pair: Any) -> None:
        from nearfar.models.loading import load

        self.pair: Any = deepcopy(load(pair))
        if not (hasattr(self.pair, "encode_text") and hasattr(self.pair, "tokenize")):
            raise UserError(f"pair is a {type(self.pair).__name__}, which embeds no texts: name an image-text model")
        self.pair.requires_grad_(False).eval()
        self.encoded = 0
        self._kept: dict[str, Tensor] = {}

    def __call__(self, groups: Sequence[Sequence[str]]) -> Tensor:
        """One unit vector for each group of texts, `[B, D]` float32 on the CPU: their mean, each as long as the model
        makes it, scaled to unit length."""
        self.read(text for group in groups for text in group)
        means = [torch.stack([self._kept[text] for text in group]).mean(0) for group in groups]
        return F.normalize(torch.stack(means), dim=1)

    def read(self, texts: Iterable[str]) -> None:
        """Embed the texts that were not yet, shortest first: a run that goes on after a kill reads the same blocks, and
        has the same bits."""
        missing = sorted({text for text in texts if text not in self._kept}, key=lambda text: (len(text), text))
        parts = [missing[start : start + AT_ONCE] for start in range(0, len(missing), AT_ONCE)]
        for part in console.track(parts, "encoding texts", None if len(parts) > 1 else False):
            # Not under inference mode: what is made there cannot be trained with later.
            with evaluating(self.pair), torch.inference_mode(False), torch.no_grad():
                vectors = self.pair.encode_text(self.pair.tokenize(part)).float().cpu()
            self._kept |= dict(zip(part, vectors, strict=True))
            self.encoded += len(part)


def paired_vectors(pair: Any, source: Any) -> tuple[Tensor, Tensor]:
    """Vectors of texts and of their pictures, `[N, D]` each, float32 on the CPU, of the first pairs of a source.

    Args:
        pair: an image-text model.
        source: what `nearfar.data.open_source` opens, by its first argument or a mapping of all, or a source.

    Raises:
        UserError: data without pictures or captions.
    """
    from nearfar.data import Loader, open_source
    from nearfar.data.fields.usual import settings_of

    if isinstance(source, dict):
        source = open_source(**source)
    opened = open_source(source) if not hasattr(source, "columns") else source
    part = opened.first(PAIRS) if hasattr(opened, "first") else opened
    reading = {"batch_size": AT_ONCE, "shuffle": False, "drop_last": False, "views": "none", "cache": 0}
    texts, pictures = [], []
    with evaluating(pair):
        for batch in Loader(part, **reading, **settings_of(pair)):
            texts.append(pair.encode_text(batch["text"]).float().cpu())
            pictures.append(pair.encode_image(batch["image"]).float().cpu())
    if not texts:
        raise UserError(f"{opened.name} holds no pairs to fit an adapter by")
    return torch.cat(texts), torch.cat(pictures)
