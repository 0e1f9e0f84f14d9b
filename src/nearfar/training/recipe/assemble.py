"""From a recipe to a run: data, model, method and batches, one after the other."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from typing import TYPE_CHECKING, Any

from nearfar import distributed as processes
from nearfar.training.loop.loaders import data_settings
from nearfar.training.recipe import hard_data
from nearfar.training.recipe.recipe_data import (
    OpenedData,
    batches_of,
    check_records,
    cluster_order,
    measured_on,
    open_data,
    validation_of,
    with_columns,
)
from nearfar.training.recipe.recipe_method import build_method, chosen
from nearfar.training.recipe.recipe_model import build_model
from nearfar.training.recipe.recipe_run import AssembledRun
from nearfar.training.stages.joined_columns import fields_of
from nearfar.training.stages.task_data import of_task, order_of
from nearfar.training.state import random_state

if TYPE_CHECKING:
    from nearfar.training.recipe.recipe_file import Recipe


def assemble(
    recipe: Recipe,
    opened: OpenedData | None = None,
    *,
    before_reading: Callable[[Any], None] | None = None,
    announce: Callable[[Recipe], None] | None = None,
) -> AssembledRun:
    """Open the data, make the model and the method. Every process makes the same.

    Args:
        recipe: what to train.
        opened: its data, where they are open.
        before_reading: is called with the model before the data are read at length.
        announce: is called once with the recipe as it trains, its batch and length fitted to the data, when all is
            checked that can be: here, where the data are read at length before the first step, else by the run.
    """
    opened = opened or open_data(recipe)
    recipe = replace(recipe, training=opened.training, fitted=opened.fitted)
    validated_on, source = opened.validated_on, opened.source
    random_state.seed_everything(recipe.training.seed)
    source = with_columns(recipe, source)
    if validated_on is not None:
        validated_on = with_columns(recipe, validated_on, part="validation")
    fields = fields_of(source)
    swapped = None
    if recipe.data.hard_captions:
        source, swapped = hard_data.with_captions(source, drop=recipe.data.drop_without_hard)
    kind, settings = chosen(recipe.method, recipe.trust)
    parts = [build_model(recipe.model, source, recipe.trust)] if "model" in signature(kind).parameters else []
    if recipe.data.task:  # after the model is made: its vocabulary is of all tasks
        source, validated_on, known = of_task(recipe.data.task, source, validated_on, opened.held_out)
        opened, fields = replace(opened, validated_on=validated_on, held_out=known), fields_of(source)
    method = build_method(recipe, kind, settings, parts, opened)
    held_out = measured_on(recipe, method.encoder, opened)
    if before_reading:
        before_reading(method.encoder)
    method.to(processes.start(recipe.training.device))
    options = data_settings(method) | recipe.data.loader_options()
    check_records(recipe, method, source, {**options, "fields": fields}, training=True)
    if validated_on is not None:
        check_records(recipe, method, validated_on, {**options, "fields": fields_of(validated_on)}, training=False)

    def say_first() -> None:
        if announce:
            announce(recipe)
        if processes.is_main():
            for remark in opened.remarks():
                print(remark, file=sys.stderr, flush=True)
            if swapped:
                print(swapped, flush=True)

    if takes_long := bool(recipe.data.precompute or recipe.data.hard_images):
        say_first()
    order: Any = cluster_order(recipe, source) or order_of(recipe.data.task)
    if (k := recipe.data.hard_images) is not None:
        from nearfar.data import PairedOrder

        order = PairedOrder(hard_data.mined_images(source, method.encoder, k))
    elif (per_class := recipe.data.per_class) is not None:
        from nearfar.data import ClassOrder

        order = ClassOrder.of(source, per_class)
    elif (per_domain := recipe.data.per_domain) is not None:
        from nearfar.data import ClassOrder

        order = ClassOrder.of(source, per_domain, key="domain")
    loader = batches_of(recipe, method, source, {**options, "order": order, "fields": fields}, training=True)
    validated_by = {"order": cluster_order(recipe, validated_on, training=False), "fields": fields_of(validated_on)}
    validation = validation_of(recipe, method, validated_on, options | validated_by)
    first = None if takes_long else say_first
    return AssembledRun(recipe, method, loader, validation, held_out, source, validated_on, first)
