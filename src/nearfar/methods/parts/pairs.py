"""What every dual-encoder method does first: embed the two sides of the batch's pairs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nearfar.methods.base import Batch, trained_part


def embed_pairs(model: Any, batch: Batch) -> dict[str, Tensor]:
    """`image` and `text` embeddings `[B, D]`, floating point, by the model's `encode_image` and `encode_text`, and
    `negative_text` `[B K, D]` where the batch has hard captions; of a concatenation, those of its newest part. Of a
    model of sounds, `image` is what `encode_audio` makes of the batch's `audio`."""
    model = trained_part(model)
    sounds = hasattr(model, "encode_audio") and not hasattr(model, "encode_image")
    first = model.encode_audio(batch["audio"]) if sounds else model.encode_image(batch["image"])
    embeddings = {"image": first, "text": model.encode_text(batch["text"])}
    if "negative_text" in batch:
        embeddings["negative_text"] = model.encode_text(batch["negative_text"])
    return embeddings
