"""From what a user has to batches: a source becomes a loader made for the method's model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nearfar.errors import UserError
from nearfar.methods.base import Method
from nearfar.training import processes
from nearfar.training.config import TrainConfig


def as_batches(data: Any, method: Method, config: TrainConfig, *, training: bool = True) -> Any:
    """`data` itself if it gives batches (or is a function, for validation), a `Loader` if it is a source."""
    if isinstance(data, Callable) and not training:  # type: ignore[arg-type]
        return data
    from nearfar.data.source import Source, Stream

    if not isinstance(data, Source | Stream):
        _check_share(data)
        return data
    model = getattr(method, "model", None)
    if model is None:
        raise UserError(f"{type(method).__name__} has no `model` to say how to make its batches: pass a Loader.")
    wishes = {name: getattr(method, name, None) for name in ("views", "n_views")}
    return make_loader(data, model, config, training=training, **wishes)


def make_loader(source: Any, model: Any, config: TrainConfig, *, training: bool, **options: Any) -> Any:
    """A loader of this process's part of each batch, for `model`: shuffled and augmented in training, in order and
    plain otherwise."""
    from nearfar.data import Loader

    world = processes.world_size()
    if config.batch_size % world:
        raise UserError(f"training.batch_size {config.batch_size} does not divide among {world} processes.")
    options = {name: value for name, value in options.items() if value is not None}
    options.setdefault("max_length", getattr(model, "max_length", None))
    if not training:
        options |= {"views": "none", "shuffle": False, "drop_last": False}
    return Loader(
        source,
        batch_size=config.batch_size // world,
        image_size=model.image_size,
        mean=model.mean,
        std=model.std,
        tokenizer=model.tokenizer,
        device=next(model.parameters()).device,
        seed=config.seed,
        rank=processes.rank(),
        world_size=world,
        workers=config.workers,
        **options,
    )


def _check_share(loader: Any) -> None:
    world = getattr(loader, "world_size", None)
    if world is not None and world != processes.world_size():
        raise UserError(
            f"this loader was made for {world} processes, but {processes.world_size()} are running: pass it "
            "rank=nearfar.training.processes.rank(), world_size=nearfar.training.processes.world_size()."
        )
