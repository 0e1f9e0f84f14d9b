"""A model of nearfar in MTEB and MIEB: `mteb.evaluate(MtebModel(model), tasks)`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.embedding.embed_source import embed_images, embed_texts
from nearfar.errors import UserError, need
from nearfar.modes import device_of


class MtebModel:
    """What MTEB calls an encoder: of texts, of pictures, and of both at once, whose embeddings are added.

    Args:
        model: an encoder of nearfar.
        name: `owner/model`, under which MTEB keeps the results.
        revision: of the model, for the same purpose.

    >>> import nearfar
    >>> model = MtebModel(nearfar.load("towers"))
    >>> model.encode([{"text": ["a red car", "a small dog"]}]).shape
    torch.Size([2, 256])
    """

    def __init__(self, model: Any, name: str = "nearfar/model", revision: str = "none") -> None:
        self.model, self.name, self.revision = model, name, revision

    def encode(self, inputs: Iterable[Mapping[str, Any]], **_: Any) -> Tensor:
        """Unit embeddings `[N, D]` float32 of MTEB's batches, each with a list of `text`, of `image`, or both.

        Raises:
            UserError: a batch that has neither.
        """
        parts = [self._batch(batch) for batch in inputs]
        return torch.cat(parts) if parts else torch.zeros(0, self.model.embed_dim)

    def _batch(self, batch: Mapping[str, Any]) -> Tensor:
        sides = []
        if "text" in batch:
            sides.append(embed_texts(self.model, list(batch["text"])))
        if "image" in batch and hasattr(self.model, "encode_image"):
            sides.append(embed_images(self.model, list(batch["image"])))
        if not sides:
            raise UserError(f"MTEB hands over {', '.join(batch)}, and a {type(self.model).__name__} reads none of it")
        return F.normalize(torch.stack(sides).sum(0), dim=-1)

    def similarity(self, a: Any, b: Any) -> Tensor:
        """Cosines `[N, M]` of embeddings `[N, D]` and `[M, D]`, floating point."""
        return _unit(a) @ _unit(b).T

    def similarity_pairwise(self, a: Any, b: Any) -> Tensor:
        """Cosines `[N]` of the rows of two sets of embeddings `[N, D]`, floating point."""
        return (_unit(a) * _unit(b)).sum(-1)

    @property
    def device(self) -> torch.device:
        return device_of(self.model)

    @property
    def mteb_model_meta(self) -> Any:
        """What MTEB writes beside its results."""
        meta: Any = need("mteb.models.model_meta", "mteb")
        names = [side for side in ("image", "text") if hasattr(self.model, f"encode_{side}")]
        stated = {"name": self.name, "revision": self.revision, "modalities": names, "embed_dim": self.model.embed_dim}
        return meta.ModelMeta.create_empty({**stated, "similarity_fn_name": meta.ScoringFunction.COSINE})


def _unit(vectors: Any) -> Tensor:
    return F.normalize(torch.atleast_2d(torch.as_tensor(vectors)).float(), dim=-1)
