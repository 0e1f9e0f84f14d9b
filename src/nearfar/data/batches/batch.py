"""The batch: a plain dict of tensors with fixed keys. This is the one place that lists them.

| key | shape and dtype | meaning |
|---|---|---|
| `image` | `[B, 3, H, W]` float | the picture, augmented and normalised as the model wants it (the first view) |
| `views` | `[V, B, 3, H, W]` float | all views, when more than one was asked for; `views[0]` is `image` |
| `geometry` | `[V, B, 3, 3]` float | maps source pixels, homogeneous, to the pixels of that view |
| `text` | dict of `[B, L]` long | `input_ids`, `attention_mask` of one caption a sample |
| `image`, `text` | `[B, W]` float | what a frozen tower gave, where `nearfar.training.precompute` ran it before; for a `FusionModel` `image` is `[B, 1 + P, W]` |
| `negative_text` | dict of `[B * K, L]` long | K hard negative captions a sample, sample-major |
| `answers` | dict of `[B * K, L]` long | K answers a question (the question is `text`), sample-major; empty ones where a question has fewer |
| `answer_weight` | `[B, K]` float | each answer's share among those its question got; 0 for the empty ones |
| `audio`, `video` | `[B, T]`, `[B, T, 3, H, W]` float | waveform; frames |
| `index` | `[B]` long | the sample's stable id within its source, for per-sample state |
| `group` | `[B]` long | equal for samples that match one another (captions of one image, one concept in five styles): never negatives of each other |
| `label` | `[B]` long | class |
| `domain` | `[B]` long | drawing style, corpus, sensor |
| `weight` | `[B]` float | the sample's weight |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PER_SAMPLE = ("index", "group", "label", "domain", "weight")
"""Keys that hold one number a sample: what an objective may read beside the embeddings."""


def per_sample(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The per-sample vectors of a batch.

    >>> sorted(per_sample({"image": torch.zeros(2, 3, 8, 8), "index": torch.arange(2), "label": torch.zeros(2)}))
    ['index', 'label']
    """
    return {key: batch[key] for key in PER_SAMPLE if key in batch}


def size(batch: Mapping[str, Any]) -> int:
    """Number of samples in a batch, read off `index`, `image` or `text`, whichever comes first.

    >>> size({"index": torch.arange(5)})
    5
    """
    for key in ("index", "image"):
        if key in batch:
            return len(batch[key])
    return len(batch["text"]["input_ids"])


def to_device(batch: Any, device: torch.device | str) -> Any:
    """The batch with every tensor, also inside dicts, on `device`."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    return batch


def rows(batch: Any, start: int, stop: int, total: int) -> Any:
    """Samples `start:stop` of a batch of `total` samples, with all their rows: tensors whose leading dimension is a
    multiple of `total` are cut accordingly, `views` and `geometry` along their second dimension.

    >>> rows({"index": torch.arange(4), "negative_text": {"input_ids": torch.arange(8)[:, None]}}, 1, 2, 4)
    {'index': tensor([1]), 'negative_text': {'input_ids': tensor([[2],
            [3]])}}
    """

    def cut(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: cut(name, inner) for name, inner in value.items()}
        if not isinstance(value, Tensor):
            return value
        if key in ("views", "geometry"):
            return value[:, start:stop]
        each = value.shape[0] // total
        return value[start * each : stop * each]

    return {key: cut(key, value) for key, value in batch.items()}
