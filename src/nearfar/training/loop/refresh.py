"""The training data embedded again, as a method may request at the end of an epoch (to cluster them, say)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from nearfar import console
from nearfar import distributed as processes
from nearfar.data.sources.source import Source, Stream
from nearfar.embedding.feature_loader import FeatureLoader
from nearfar.errors import UserError
from nearfar.methods.base import Batch, EmbeddingMethod, Method
from nearfar.modes import to_device
from nearfar.training.config import TrainConfig
from nearfar.training.loop.loaders import data_settings, make_loader
from nearfar.training.loop.validation import at_rest
from nearfar.training.state import sharding


def refresher(method: Method, loader: Any, config: TrainConfig) -> Callable[[], dict[str, Tensor]]:
    """A function that embeds the training data with the method as it is then; see `Method.after_epoch`.

    Each process embeds its part of the data, and all get the whole. Random streams, modes and buffers stay as they
    were.

    Args:
        method: an `EmbeddingMethod` embeds by `embed`, any other by its model's `encode_image`, `encode_text` ...
        loader: the training batches: a source's loader is read plainly and in order, precomputed features likewise,
            other batches as they come, which each process must have its own of.
        config: gives the size of batches.
    """

    @torch.no_grad()
    def refresh() -> dict[str, Tensor]:
        parts: list[dict[str, Tensor]] = []
        with at_rest(method):
            for batch in console.track(_plain(method, loader, config), "embedding the training data"):
                batch = to_device(batch, next(method.parameters()).device)
                numbers = {"index": batch["index"]} if "index" in batch else {}
                values = {name: value.float() for name, value in _embeddings(method, batch).items()} | numbers
                parts.append({name: value.cpu() for name, value in values.items()})
        mine = {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}
        shared = [mine] if sharding.enabled() else processes.gather_objects(mine)
        shared = [each for each in shared if each]
        if not shared:
            raise UserError("the training data give no batch to embed.")
        return {name: torch.cat([each[name] for each in shared]) for name in shared[0]}

    return refresh


def _plain(method: Method, loader: Any, config: TrainConfig) -> Iterable[Batch]:
    """This process's part of the training data, each record once, in order, unaugmented."""
    world, rank = processes.world_size(), processes.rank()
    if sharding.enabled():  # the layers of a split model come from all processes: they embed the same
        world, rank = 1, 0
    size = config.chunk or max(1, config.batch_size // world)
    if isinstance(loader, FeatureLoader):
        count = len(loader.texts)
        return loader.plain(range(rank * count // world, (rank + 1) * count // world), batch_size=size)
    source = getattr(loader, "source", None)
    if isinstance(source, Stream):
        raise UserError(f"{source.name} is a stream, which cannot be embedded whole: give data that can be counted.")
    if not isinstance(source, Source):
        return loader
    if method.model is None:
        raise UserError(f"{type(method).__name__} has no 'model' to say how to read its data again.")
    part = source.select(range(rank * len(source) // world, (rank + 1) * len(source) // world))
    # Whether too many records are broken is judged in training, on all of them.
    settings = data_settings(method) | {"batch_size": size, "max_skipped": 1.0}
    return make_loader(part, method.model, config, training=False, **settings)


def _embeddings(method: Method, batch: Batch) -> dict[str, Tensor]:
    if isinstance(method, EmbeddingMethod):
        return method.embed(batch)
    sides = [key for key in batch if hasattr(method.model, f"encode_{key}")]
    if not sides:
        raise UserError(f"the model of {type(method).__name__} has no encode_image, encode_text or the like.")
    return {side: getattr(method.model, f"encode_{side}")(batch[side]) for side in sides}
