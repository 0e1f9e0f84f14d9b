"""Two-stream grounding, the second stage of VG-Bert (arXiv 2111.07180): pictures and captions are contrasted by their
cells and words, and the language stream learns of what can be seen.

    s(i, j) = 1 / n_j  sum_{w < n_j}  max_p <I_i[p], T_j[w]> ,
    L = mean_i CE(s(i, :) / sigma, i) + mean_j CE(s(:, j) / sigma, j) .
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from nearfar.errors import UserError
from nearfar.losses.global_local import MatchmapInfoNCE
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.models.grounded.frozen_language import freeze_language


class TwoStreamGrounding(EmbeddingMethod):
    """Contrast in which every word finds its best cell, over a `GroundedEncoder`.

    The convolutions or patches below the attention over cells stay as they are, and so do the first layers of the
    language model and all its queries and keys: words go on attending to one another as before. Negatives are the
    other samples of the whole batch, of all processes.

    Args:
        model: a `nearfar.models.GroundedEncoder`; `.model` is what to evaluate and save.
        temperature: sigma (paper: 0.1).
        learn_temperature: whether it is trained (paper: no).
        frozen_layers: of the language model, from the first, with the embeddings (paper: 4); 0 trains all.
        frozen_query_key: whether its queries and keys are frozen (paper: yes).
        train_image: whether the image tower is trained, too (paper: no).
        exclude_duplicates: leave samples of one `group` out of each other's negatives.

    The batch has `image` `[B, 3, S, S]` and `text`; all of a text's tokens count, the first and the last included.

    Raises:
        UserError: a model without cells and words, or a language model that cannot be frozen so.

    Example:
        >>> from nearfar.data import train_tokenizer
        >>> from nearfar.models import grounded_encoder
        >>> model = grounded_encoder("tiny", tokenizer=train_tokenizer(["a red fox", "a ship"], 300))
        >>> method = TwoStreamGrounding(model, frozen_layers=1)
        >>> import torch
        >>> batch = {"image": torch.rand(2, 3, 64, 64), "text": model.tokenize(["a red fox", "a ship"])}
        >>> sorted(method(batch))
        ['loss', 'temperature']
    """

    def __init__(
        self,
        model: Any,
        *,
        temperature: float = 0.1,
        learn_temperature: bool = False,
        frozen_layers: int = 4,
        frozen_query_key: bool = True,
        train_image: bool = False,
        exclude_duplicates: bool = False,
    ) -> None:
        super().__init__()
        if not (hasattr(model, "encode_cells") and hasattr(model, "encode_words")):
            raise UserError(
                f"two_stream trains a model of cells and words, and this is a {type(model).__name__}: make one of it "
                "with nearfar.models.grounded_encoder (in a recipe, model.make: grounded_encoder)"
            )
        freeze_language(model.text.backbone, layers=frozen_layers, query_key=frozen_query_key)
        if not train_image:
            model.freeze("image")
        self.model = model
        self.loss = MatchmapInfoNCE(temperature, learnable=learn_temperature)
        self.exclude_duplicates = exclude_duplicates

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        words = self.model.encode_words(batch["text"])
        real = batch["text"]["attention_mask"].to(words)
        more = self.model.max_length - words.shape[1]  # the same length in every process
        return {
            "cells": self.model.encode_cells(batch["image"]),
            "words": pad(words, (0, 0, 0, more)) if more > 0 else words,
            "real": pad(real, (0, more)) if more > 0 else real,
        }

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        group = batch.get("group") if self.exclude_duplicates else None
        loss = self.loss(embeddings["cells"], embeddings["words"], mask=embeddings["real"], group=group)
        return {"loss": loss, "temperature": self.loss.temperature().detach()}
