"""From what a user has to batches: a source becomes a loader made for the method's model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nearfar import distributed as processes
from nearfar.errors import UserError
from nearfar.methods.base import Batch, Method
from nearfar.training.config import TrainConfig
from nearfar.training.loop.setting_checks import share_of_batch
from nearfar.training.stages.joined_columns import fields_of


def as_batches(data: Any, method: Method, config: TrainConfig, *, training: bool = True) -> Any:
    """`data` itself if it gives batches (or is a function, for validation), a `Loader` if it is a source, or what
    `nearfar.data.open_source` opens."""
    if isinstance(data, str | Path):
        from nearfar.data import open_source

        data = open_source(data)
    if isinstance(data, Callable) and not training:  # type: ignore[arg-type]
        return data
    from nearfar.data.sources.source import Source, Stream

    if not isinstance(data, Source | Stream):
        if training:
            _check_share(data)
        return data
    if method.model is None:
        raise UserError(f"{type(method).__name__} has no 'model' to say how to make its batches: pass a Loader.")
    options = {**data_settings(method), "fields": fields_of(data)}
    return make_loader(data, method.model, config, training=training, **options)


def run_length(loader: Iterable[Batch], config: TrainConfig) -> tuple[int, int | None]:
    """Steps of the run, and steps an epoch where that is known."""
    try:
        batches = len(loader)  # type: ignore[arg-type]
    except TypeError:  # an iterator, or a loader of a stream
        batches = None
    if batches == 0:
        raise UserError(
            "the data gives no batch: it is empty, or holds fewer samples than one batch (lower training.batch_size)."
        )
    steps_an_epoch = max(1, batches // config.accumulate) if batches else None
    if config.steps:
        return config.steps, steps_an_epoch
    if not batches:
        raise UserError("the length of this data is not known: say how long to train with training.steps=...")
    return max(1, round(config.epochs * batches / config.accumulate)), steps_an_epoch


def data_settings(method: Method) -> dict[str, Any]:
    """What a method needs of its data, as settings of `make_loader`; None: the loader's own."""
    return {
        "views": method.views,
        "n_views": method.n_views,
        "validation_views": method.validation_views,
        "answers": method.answers,
        "pictures": method.pictures,
        "method_fields": method.fields,
        "captions": method.captions,
        "text_pairs": method.text_pairs or None,
        "label_texts": method.label_texts,
        "caption_lengths": method.caption_lengths,
        "boxes": method.boxes or None,
        "picture_pairs": method.picture_pairs or None,
    }


def make_loader(source: Any, model: Any, config: TrainConfig, *, training: bool, **options: Any) -> Any:
    """A loader for `model`: of this process's part of each batch, shuffled and augmented, in training; of all the data,
    in order, with the preset `validation_views` ("none" by default, None: as in training) and texts as they are,
    otherwise. It has the usual
    fields that the model's attributes call for (`image_size`, `tokenizer` ...), and those that its `fields(training)`
    returns, where it has such a method, as the method's own do (`method_fields`); with `captions=False` in the options
    no texts, with `pictures=False` no pictures."""
    from nearfar.data import Loader
    from nearfar.data.fields.usual import settings_of

    mine, plain = share_of_batch(config), options.pop("validation_views", "none")
    options = {name: value for name, value in options.items() if value is not None}
    made_of = settings_of(model)
    if not options.pop("captions", True):
        made_of.pop("tokenizer", None)
    if not options.pop("pictures", True):
        made_of.pop("image_size", None)
    share = {"batch_size": mine, "rank": processes.rank(), "world_size": processes.world_size()}
    if not training:
        options.pop("text_views", None)  # texts are validated as they are
        # Every process measures all: the negatives of a batch, and so its loss, must not depend on their number.
        options |= {"shuffle": False, "drop_last": False} | ({} if plain is None else {"views": plain})
        share = {"batch_size": config.batch_size}
    own = model.fields(training) if hasattr(model, "fields") else []
    of_method = options.pop("method_fields", lambda source, training, caption: [])
    fields = [*own, *of_method(source, training, options.get("caption")), *options.pop("fields", [])]
    made_for = {"device": next(model.parameters()).device, "seed": config.seed, "workers": config.workers}
    return Loader(source, fields, **{**made_of, **made_for, **share, **options})


def _check_share(loader: Any) -> None:
    world = getattr(loader, "world_size", None)
    if world is not None and world != processes.world_size():
        raise UserError(
            f"this loader was made for {world} processes, but {processes.world_size()} are running: pass it "
            "rank=nearfar.distributed.rank(), world_size=nearfar.distributed.world_size()."
        )
