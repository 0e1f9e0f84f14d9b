"""Run the stages of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfar import distributed as processes
from nearfar import trust as trusted
from nearfar.models import load
from nearfar.training.recipe.assemble import assemble
from nearfar.training.recipe.recipe_data import OpenedData, open_data
from nearfar.training.recipe.recipe_method import build_method, chosen
from nearfar.training.recipe.recipe_model import change_model
from nearfar.training.stages import columns
from nearfar.training.stages.finished import BEST, PREVIOUS, FinishedStage, is_finished, run_in_order, write_report
from nearfar.training.state import random_state, sharding

if TYPE_CHECKING:
    from nearfar.training.recipe.recipe_file import Recipe
    from nearfar.training.recipe.staged_recipe import RecipeStage, StagedRecipe


def run(
    recipe: StagedRecipe, out: Path, *, resume: bool, announce: Callable[[StagedRecipe], None] | None = None
) -> list[FinishedStage]:
    """See `StagedRecipe.run`."""
    stages = recipe.stages
    left = [n for n, stage in enumerate(stages) if not (resume and is_finished(out / f"{n + 1}-{stage.name}"))]
    # All stages are checked before the first one reads its data.
    opened = {number: open_data(stages[number].recipe) for number in left}
    recipe = _with_training(recipe, opened)
    stages = recipe.stages
    if announce and not left:
        announce(recipe)

    def run_one(number: int, folder: Path, before: tuple[FinishedStage, ...]) -> None:
        stage = stages[number]
        following = [(stages[n].recipe, opened[n]) for n in range(number + 1, len(stages))]
        data = opened.pop(number)
        built = assemble(
            stage.after(before),
            data,
            before_reading=lambda model: check_following(model, following),
            announce=(lambda _: announce(recipe)) if announce and number == left[0] else None,
        )
        done = built.run(folder, resume=True) if stage.train else built.as_it_is(folder)
        if stage.keep and processes.is_main():
            model = load(folder / "model") if sharding.enabled() else done.model
            # A stage that is not validated itself keeps columns for the validation of those that read them.
            later = (other.validated_on for recipe, other in following if recipe.data.columns)
            validation = next((one for one in (built.validated_on, *later) if one is not None), None)
            keep_columns(stage, folder, model, built.source, validation, data.source)
        processes.barrier()

    names = [stage.name for stage in stages]
    finished = run_in_order(out, names, run_one, resume=resume, device=recipe.device, config=recipe.as_yaml())
    if stages[-1].recipe.training.report:
        write_report(out, recipe.name, finished)
    return finished


def _with_training(recipe: StagedRecipe, opened: Mapping[int, OpenedData]) -> StagedRecipe:
    """The recipe with the settings of training that the opened data led to."""
    stages = list(recipe.stages)
    for number, data in opened.items():
        fitted = replace(stages[number].recipe, training=data.training, fitted=data.fitted)
        stages[number] = replace(stages[number], recipe=fitted)
    return replace(recipe, stages=tuple(stages))


def check_following(model: Any, following: Sequence[tuple[Recipe, OpenedData]]) -> None:
    """Whether the stages that go on with this model, trained or not, can do what they are to do with it."""
    with random_state.untouched():
        for recipe, opened in following:
            if recipe.model.get("load") not in (PREVIOUS, BEST):
                return
            model = change_model(deepcopy(model), recipe.model)
            kind, settings = chosen(recipe.method, recipe.trust)
            build_method(recipe, kind, settings, [model], opened)


def keep_columns(stage: RecipeStage, folder: Path, model: Any, source: Any, validation: Any, original: Any) -> None:
    """Write what a stage keeps of its training and validation data; `original` is the training data as opened."""
    trust = stage.recipe.trust
    keep = {
        name: trusted.find(f"keep.{name}", column, {}, trust) if isinstance(column, str) and ":" in column else column
        for name, column in stage.keep.items()
    }
    most = stage.recipe.data.max_skipped
    columns.save(folder, keep, model, source, validation, original=original, max_skipped=most)
