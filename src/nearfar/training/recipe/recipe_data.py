"""The data of a recipe: opened, joined with columns of earlier stages, and made into batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfar import distributed as processes
from nearfar import files
from nearfar.data.batches.base_classes import base_classes
from nearfar.data.batches.left_out_domain import leave_domain_out
from nearfar.data.sources.source import Source
from nearfar.errors import UserError
from nearfar.evaluation.needs import missing_in_model, missing_in_source
from nearfar.methods.base import Method, trained_part
from nearfar.training.config import TrainConfig
from nearfar.training.loop.loaders import make_loader
from nearfar.training.loop.setting_checks import (
    check_data,
    check_evaluation,
    check_final,
    check_method,
    check_run,
    share_of_batch,
)
from nearfar.training.loop.validation import mean_loss
from nearfar.training.own_data import fitted
from nearfar.training.recipe import hard_data
from nearfar.training.recipe.recipe_method import chosen
from nearfar.training.recipe.sections import DataSpec
from nearfar.training.stages.columns_file import Part
from nearfar.training.stages.joined_columns import join

if TYPE_CHECKING:
    from nearfar.training.recipe.recipe_file import Recipe


OF_PIXELS = ("views", "validation_views", "small_views", "small_size", "cache")
"""Settings of a loader that reads pictures in each epoch: features have views and a place in memory of their own."""
WELL_COVERED = 0.9
"""The share of records in batches of one cluster, below which a run says so."""


@dataclass
class OpenedData:
    """A recipe's data, opened and not yet read."""

    source: Any
    validated_on: Any
    held_out: Any
    training: TrainConfig
    """The recipe's, fitted to the data where it follows them."""
    fitted: str | None = None
    """What was changed for that."""

    def remarks(self) -> list[str]:
        """What whoever trains on them should know first."""
        each = (getattr(source, "remark", None) for source in (self.source, self.validated_on, self.held_out))
        return list(dict.fromkeys(remark for remark in each if remark))


def open_data(recipe: Recipe) -> OpenedData:
    """Open a recipe's data. What can be known to be wrong is said before anything is read at length."""
    config, data, most = recipe.training, recipe.data, recipe.data.max_skipped
    processes.start(config.device)
    check_run(config, validated=data.validation is not None)
    check_final(config, validated=data.validation is not None, out=True)
    share_of_batch(config)
    check_method(config, chosen(recipe.method, recipe.trust)[0])
    held_out = (
        open_spec("evaluation.data", recipe.evaluation.data, max_skipped=most) if recipe.evaluation.data else None
    )
    source = validated_on = None
    if isinstance(data.validation, float):
        source = validated_on = open_spec("data.train", data.train, limit=data.limit, max_skipped=most)
    elif data.validation:
        validated_on = open_spec("data.validation", data.validation, max_skipped=most)
    check_evaluation(recipe.evaluation, data=held_out, validation=validated_on, joined=data.columns)
    if source is None:
        source = open_spec("data.train", data.train, limit=data.limit, max_skipped=most)
    if data.leave_out is not None:
        source, left_out = leave_domain_out(source, data.leave_out)
        held_out = left_out if held_out is None else held_out
        if data.share is None and validated_on is not None and data.leave_out in (validated_on.domains or ()):
            validated_on = leave_domain_out(validated_on, data.leave_out)[0]
        check_evaluation(recipe.evaluation, data=held_out, validation=validated_on, joined=data.columns)
    if data.base_classes is not None:
        source = base_classes(source, data.base_classes)
        if data.share is None and validated_on is not None:
            validated_on = base_classes(validated_on, source.classes or ())
    if data.share is not None:
        source, validated_on = without_share(source, data.share)
    changed = None
    if hasattr(source, "__len__"):
        config, changed = _fitted(recipe, source)
        check_data(config, len(source) * (2 if data.hard_images else 1))
    return OpenedData(source, validated_on, held_out, config, changed)


def _fitted(recipe: Recipe, source: Source) -> tuple[TrainConfig, str | None]:
    """The settings of training, fitted to the number of records where the recipe follows them, and what was changed."""
    config, changed = fitted(recipe.training, len(source), recipe.follows)
    changed = changed and files.one_line(f"fitted to the {len(source):,} records of {source.name}: {changed}")
    if changed and processes.is_main():
        print(changed, flush=True)
    return config, changed


def without_share(source: Any, share: float) -> tuple[Any, Source]:
    """Training data without a share of them, and this share (`data.validation: 0.1`)."""
    from nearfar.data import hold_out, hold_out_of_stream

    return hold_out(source, share) if isinstance(source, Source) else hold_out_of_stream(source, share)


def measured_on(recipe: Recipe, model: Any, opened: OpenedData) -> Any:
    """What the evaluation measures on: its data, else the share held out, if the model embeds it; else None."""
    if opened.held_out is not None or recipe.data.share is None:
        return opened.held_out
    # Geometry is of all data that the model embeds; some protocols embed nothing.
    names = ("geometry", *(recipe.evaluation.protocols or ()))
    able = any(_is_measurable(name, model, opened.validated_on) for name in names)
    return opened.validated_on if able else None


def protocols_on(recipe: Recipe, model: Any, source: Any) -> list[str] | None:
    """The protocols of a recipe's evaluation; on a share of data that it was not made for, those that it allows, or the
    usual ones."""
    protocols = recipe.evaluation.protocols
    if recipe.evaluation.data is not None or protocols is None:
        return protocols
    return [name for name in protocols if _is_measurable(name, model, source)] or None


def _is_measurable(protocol: str, model: Any, source: Any) -> bool:
    return not (missing_in_source(protocol, source) or missing_in_model(protocol, model, source))


def open_spec(where: str, spec: DataSpec, *, limit: int | None = None, max_skipped: float | None = None) -> Any:
    """The source of a recipe's setting `where`. What it says of itself goes before the `max_skipped` of all data."""
    from nearfar.data import open_source

    options: dict[str, Any] = {"max_skipped": max_skipped} | ({"spec": spec} if isinstance(spec, str) else dict(spec))
    if "spec" not in options:
        raise UserError(f"recipe, {where}: name the data with 'spec'.")
    source = open_source(options.pop("spec"), **options)
    if limit is None:
        return source
    if not hasattr(source, "first"):
        raise UserError(f"recipe, {where}: limit is for data that can be counted; {source.name} is a stream.")
    return source.first(limit)


def with_columns(recipe: Recipe, source: Any, *, part: Part = "training") -> Any:
    """The training or validation data with the columns that earlier stages kept of them (`data.columns`)."""
    if not recipe.data.columns:
        return source
    columns = {key: _column(key, where) for key, where in recipe.data.columns.items()}
    return join(source, columns, part=part, max_skipped=recipe.data.max_skipped)


def _column(key: str, where: str) -> tuple[Path, str]:
    """The folder of a stage, and the column it kept."""
    folder, slash, column = where.rpartition("/")
    if not slash or not folder or not column:
        raise UserError(f"recipe, data.columns.{key}: write FOLDER/COLUMN, not {where!r}.")
    return Path(folder), column


def cluster_order(recipe: Recipe, source: Any, *, training: bool = True) -> Any:
    """The order whose batches are of one cluster each, where `data.clusters` says so; None elsewhere. Validation leaves
    out nobody who has a neighbour."""
    config = recipe.data
    if config.clusters is None or source is None:
        return None
    from nearfar.data.batches.cluster_order import ClusterOrder

    if config.clusters not in source.columns:
        raise UserError(
            f"recipe, data.clusters: the records of {source.name} have no {config.clusters!r}: join it by "
            f"data.columns, {{{config.clusters}: previous/{config.clusters}}}, say."
        )
    if not training:
        order = ClusterOrder(config.clusters, small="partial")
        if order.coverage(source, recipe.training.batch_size):
            return order
        if processes.is_main():
            print(
                f"note: no two of the {len(source)} records of {source.name} share a cluster: val_loss is of batches "
                "of all of them. Validate on more data, or make fewer clusters.",
                flush=True,
            )
        return None
    order = ClusterOrder(config.clusters, small=config.small_clusters, order=config.cluster_order)
    if processes.is_main() and (share := order.coverage(source, recipe.training.batch_size)) < WELL_COVERED:
        print(
            f"note: batches of one cluster each hold {share:.0%} of the records of {source.name} in an epoch: lower "
            "training.batch_size, make fewer clusters, or set data.small_clusters to merge or partial.",
            flush=True,
        )
    return order


def batches_of(recipe: Recipe, method: Method, source: Any, options: dict[str, Any], *, training: bool) -> Any:
    """Batches of pictures, or of what the frozen towers make of them."""
    model, config, views = trained_part(method.encoder), recipe.training, recipe.data.precompute
    if views is None:
        return make_loader(source, model, config, training=training, **options)
    from nearfar.embedding.features import precompute

    options = {name: value for name, value in options.items() if value is not None and name not in OF_PIXELS}
    options.pop("captions", None)  # features are of pairs
    if not options.pop("pictures", True):
        raise UserError(f"recipe, data.precompute: {type(method).__name__} reads no pictures: leave it out.")
    of_method = options.pop("method_fields")
    n_views = options.pop("n_views", 1)
    own = model.fields(training) if hasattr(model, "fields") else []
    fields = [*own, *of_method(source, training, options.get("caption")), *options.pop("fields", [])]
    share: dict[str, Any] = {"batch_size": config.batch_size}  # every process measures all, as by `make_loader`
    if training:
        share = {"batch_size": share_of_batch(config), "rank": processes.rank(), "world_size": processes.world_size()}
    else:
        options |= {"caption": "first"}
    return precompute(
        model,
        source,
        fields,
        views=views if training else ["none"] * n_views,
        n_views=n_views,
        shuffle=training,
        seed=config.seed,
        workers=config.workers,
        progress=config.progress and processes.is_main(),
        **share,
        **options,
    )


def check_records(recipe: Recipe, method: Method, source: Any, options: dict[str, Any], *, training: bool) -> None:
    """Raise a `UserError` where a source lacks a column, or none of its first records makes a sample: before any
    features are computed, and before the first batch."""
    made_later = (*OF_PIXELS, "negatives") if recipe.data.hard_captions and not training else OF_PIXELS
    options = {name: value for name, value in options.items() if name not in made_later}
    make_loader(source, method.encoder, recipe.training, training=training, **options).check_first()


def validation_of(
    recipe: Recipe, method: Method, source: Any, options: dict[str, Any]
) -> Callable[[Method], dict[str, float]] | None:
    """The mean loss over `data.validation`, and the figures of the protocols that are watched."""
    if source is None:
        return None
    if recipe.data.hard_captions:
        source, swapped = hard_data.with_captions(source)
        if processes.is_main():
            print(swapped, flush=True)
    loader = batches_of(recipe, method, source, options, training=False)

    def figures(method: Method) -> dict[str, float]:
        values = mean_loss(method, loader)
        if recipe.evaluation.watch:
            from nearfar.evaluation import evaluate

            results = evaluate(
                method.encoder, source, recipe.evaluation.watch, captions=recipe.evaluation.captions, progress=False
            )
            for result in results.values():
                values |= result.scalars()
        return values

    return figures
