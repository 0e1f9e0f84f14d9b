"""What can be said about a run before it begins: settings that do not fit the method, the machine or one another."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from torch.nn.modules.batchnorm import _BatchNorm

from nearfar import distributed as processes
from nearfar.errors import UserError
from nearfar.methods.base import EmbeddingMethod, Method
from nearfar.ops.tiling.float_products import has_onednn
from nearfar.training.config import TrainConfig
from nearfar.training.loop.log import check_trackers
from nearfar.training.state import sharding

if TYPE_CHECKING:
    from nearfar.training.recipe.sections import EvaluationConfig


def check_run(config: TrainConfig, *, validated: bool) -> None:
    """Settings that this machine, or a run without validation, cannot follow.

    Raises:
        UserError: a tracker that is not installed, a library that torch was built without, a figure to monitor where
            nothing is measured.
    """
    check_trackers(config.trackers)
    check_swad(config, validated=validated)
    if config.linear_layers == "onednn" and not has_onednn():
        raise UserError("training.linear_layers is 'onednn', which this torch was built without: leave it out.")
    if config.monitor != TrainConfig.monitor and not validated:
        raise UserError(
            f"training.monitor is {config.monitor!r}, but there is nothing to measure it on: name validation data "
            "(validation=..., in a recipe data.validation), or leave training.monitor out."
        )


def check_swad(config: TrainConfig, *, validated: bool) -> None:
    """Raise a `UserError` where the valley of a figure is looked for and nothing is validated, or other weights are to
    be the model's."""
    if config.swad is None:
        return
    where = f"training.swad is {config.swad!r}"
    if not validated:
        raise UserError(f"{where}, but there are no validation data to find the valley by: name some, or leave it out.")
    if config.ema or config.final == "best":
        other = "training.ema" if config.ema else "training.final: best"
        raise UserError(f"{where}, and so is {other}: both say which weights the model gets, so leave one of them out.")
    if sharding.enabled():
        raise UserError(f"{where}: it averages whole weights, which are split over the processes here: leave it out.")


def check_final(config: TrainConfig, *, validated: bool, out: bool) -> None:
    """Raise a `UserError` where a run is to end with its best checkpoint and will have none."""
    if config.final == "best" and not (validated and out):
        lacks = "no run folder to keep it in (out=...)" if validated else "no validation data to find it by"
        raise UserError(f"training.final is best, but there is {lacks}: name one, or leave training.final out.")


def note_on_batch_norm(config: TrainConfig, method: Method) -> str | None:
    """What to know where batch norm sees a batch in chunks; None where it does not."""
    norms = [module for module in method.modules() if isinstance(module, _BatchNorm) and module.training]
    if not norms or config.chunk is None or config.chunk >= share_of_batch(config):
        return None
    return (
        f"{len(norms)} batch norms normalise each chunk of {config.chunk} samples by itself: the gradient is that of "
        "virtual batches of this size, and another training.chunk gives another run."
    )


def check_method(config: TrainConfig, method: Method | type[Method]) -> None:
    """Settings that are for the other kind of method. Its class is enough."""
    kind = method if isinstance(method, type) else type(method)
    if config.chunk and not issubclass(kind, EmbeddingMethod):
        raise UserError(f"chunk is for methods with embeddings; {kind.__name__} has none: use accumulate.")
    if config.accumulate > 1 and issubclass(kind, EmbeddingMethod):
        raise UserError(
            "accumulate would cut the negatives of this method to one small batch: raise batch_size and set chunk "
            "instead, which gives the gradient of the whole batch in the same memory."
        )


def check_data(config: TrainConfig, records: int) -> None:
    """Settings that so many records cannot give: for what is read at length before the first step.

    Raises:
        UserError: fewer records than a batch, or than the warm-up needs.
    """
    batches = records // config.batch_size
    if not batches:
        held = "1 record" if records == 1 else f"{records:,} records"
        raise UserError(
            f"the data gives no batch: it holds {held}, and training.batch_size is {config.batch_size}: lower "
            "training.batch_size."
        )
    if config.steps is None:
        config.warmup_steps(max(1, round(config.epochs * batches / config.accumulate)))


def check_evaluation(
    settings: EvaluationConfig, *, data: Any, validation: Any, model: Any = None, joined: Collection[str] = ()
) -> None:
    """Protocols that the data, or the model, cannot give, which would fail only after the training.

    Args:
        settings: a recipe's section `evaluation`.
        data, validation: the sources of `evaluation.data` and `data.validation`; None where there are none.
        model: what is to be trained: then the model is checked, not the data.
        joined: columns that earlier stages keep, which the validation data get before they are measured.

    Raises:
        UserError: protocols to watch without validation data; a protocol that cannot be measured.
    """
    from nearfar.evaluation.needs import missing_in_model, missing_in_source

    if settings.watch and validation is None:
        raise UserError("recipe, evaluation.watch: there is no data.validation to watch.")
    # Every evaluation embeds the data, as geometry does.
    protocols, options_of = settings.protocols or ["geometry"], settings.options
    measured: list[tuple[str, Any, str, Any, Collection[str]]] = []
    if data is not None:
        measured += [("evaluation.data", data, name, options_of.get(name), ()) for name in protocols]
    measured += [("data.validation", validation, name, None, joined) for name in settings.watch]
    for where, source, name, options, more in measured:
        if model is not None:
            why = missing_in_model(name, model, source)
        else:
            why = missing_in_source(name, source, captions=settings.captions, options=options, joined=more)
        if why:
            raise UserError(f"recipe, section evaluation: {name} cannot be measured on {where}, as {why}.")


def share_of_batch(config: TrainConfig) -> int:
    """Samples of a batch that this process makes."""
    world = processes.world_size()
    if config.batch_size % world:
        raise UserError(
            f"training.batch_size {config.batch_size} does not divide among {world} processes: set "
            f"training.batch_size to a multiple of {world}."
        )
    return config.batch_size // world
