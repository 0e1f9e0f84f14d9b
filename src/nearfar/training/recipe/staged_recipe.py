"""A recipe of several stages: `stages` is a list of overrides of the sections, and what stands outside is for all.

    data:     {train: photos/}
    method:   {name: clip}
    stages:
      - name: heads
        model: {preset: towers, freeze: [image, text]}
        training: {epochs: 10}
        keep: {cluster: {of: image, clusters: 10}}     # columns by record id; see `nearfar.training.stages.columns`
      - name: whole
        model: {load: previous, freeze: []}
        data: {columns: {label: previous/cluster}}
        training: {epochs: 2, lr: 1e-5}

A stage's `method.name` and `model.load` take the place of the whole shared section; all else is replaced by setting.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nearfar import distributed as processes
from nearfar import trust as trusted
from nearfar.errors import UserError
from nearfar.training.own_data import follow
from nearfar.training.recipe.lines import Lines, located, sections
from nearfar.training.recipe.overrides import modules_of, override
from nearfar.training.recipe.reading import RecipeDocument, dump
from nearfar.training.recipe.recipe_file import Recipe, checked_recipe
from nearfar.training.stages.columns import check_keep
from nearfar.training.stages.finished import BEST, PREVIOUS, FinishedStage, check_names
from nearfar.training.stages.task_data import goes_on_with


@dataclass(frozen=True)
class StageSettings:
    """What a stage has beside the five sections."""

    name: str
    """What it is called: in `data.columns`, on the command line and in the run folder."""
    keep: dict[str, Any] = field(default_factory=dict)
    """Columns that are computed of its training data when it ends, by name: a side (`image`, `text`), clusters, or
    `module:function`."""
    train: bool = True
    """False takes the model as it is made or loaded: it is saved, measured, and its columns are kept."""


STAGES = "stages"
MODELS_BEFORE = (
    *(("model", "image"), ("model", "language"), ("model", "teacher"), ("model", "vlm")),
    *(("method", "pair"), ("method", "reference")),
)
"""Settings that `previous` makes the model of the stage before, beside `model.load`."""
PLAIN = ("name", "train")
"""What of a stage is no section."""
Values = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class RecipeStage:
    """One stage: its name, its recipe with what all stages share, and the columns that it keeps."""

    name: str
    recipe: Recipe
    keep: dict[str, Any] = field(default_factory=dict)
    train: bool = True

    def after(self, before: Sequence[FinishedStage]) -> Recipe:
        """Its recipe with the folders of the stages before in the place of their names."""
        recipe = self.recipe
        folders = {stage.name: stage.folder for stage in before}
        if before:
            folders[PREVIOUS] = before[-1].folder
        if (model := recipe.model.get("load")) in (PREVIOUS, BEST):
            model_folder = before[-1].folder / "model" if model == PREVIOUS else before[-1].save_best()
            recipe = replace(recipe, model={**recipe.model, "load": str(model_folder)})
        for section, setting in MODELS_BEFORE:
            values = getattr(recipe, section)
            if before and values.get(setting) == PREVIOUS:
                changed: dict[str, Any] = {section: {**values, setting: str(before[-1].folder / "model")}}
                recipe = replace(recipe, **changed)
        named = {key: where.partition("/") for key, where in recipe.data.columns.items()}
        columns = {
            key: f"{folders[stage]}/{column}" if stage in folders else f"{stage}{slash}{column}"
            for key, (stage, slash, column) in named.items()
        }
        task = goes_on_with(recipe.data.task, before[-1].folder) if before else recipe.data.task
        return replace(recipe, data=replace(recipe.data, columns=columns, task=task))


@dataclass(frozen=True)
class StagedRecipe:
    """A checked recipe of stages. `load` makes one."""

    name: str
    comment: str
    stages: tuple[RecipeStage, ...]

    @property
    def device(self) -> str | None:
        """Where it trains."""
        return self.stages[0].recipe.training.device

    def as_yaml(self) -> str:
        """The whole recipe with every setting of each stage spelled out: loading it gives this recipe again."""
        plain = []
        for stage in self.stages:
            own = ({"keep": stage.keep} if stage.keep else {}) | ({} if stage.train else {"train": False})
            plain.append({"name": stage.name, **own, **stage.recipe.sections()})
        return f"# {self.comment}\n" + dump({STAGES: plain})

    def run(
        self,
        out: str | Path | None = None,
        *,
        resume: bool = False,
        announce: Callable[[StagedRecipe], None] | None = None,
    ) -> list[FinishedStage]:
        """Train, evaluate and report stage after stage in `out/1-NAME`, `out/2-NAME` (`out` is `runs/NAME` by default),
        where the recipe is kept as `config.yaml`. `out/model` is the last stage's, `out/report.html` shows all.

        With `resume` it goes on inside a stage, or between two; a finished stage is not run again. `announce` is called
        once with the recipe as it trains, when all is checked that can be before the first stage.
        """
        from nearfar.training.loop import peers
        from nearfar.training.loop.run_folder import check_folder
        from nearfar.training.recipe.run_recipe_stages import run

        processes.start(self.device)
        with peers.watched():
            folder = Path(out or Path("runs") / self.name)
            check_folder(folder, self.device, resume=resume)
            return run(self, folder, resume=resume, announce=announce)


def load_stages(
    path: Path,
    name: str,
    about: str,
    document: RecipeDocument,
    overrides: Sequence[tuple[str, Any]],
    trust: Sequence[str],
    *,
    is_shipped: bool = False,
) -> StagedRecipe:
    """The recipe of a file that holds `stages`.

    Args:
        path: the file.
        name: the recipe's.
        about: what it is.
        document: what the file says.
        overrides: settings and their values: of all stages, or `stages.NAME.section.setting`.
        trust: modules whose code it may name.
        is_shipped: whether it comes with nearfar, and so follows data that it is given.

    Raises:
        UserError: what is wrong, in which stage and line.
    """
    listed = document.value[STAGES]
    line = document.lines[(STAGES,)]
    if not isinstance(listed, list) or not listed or not all(isinstance(stage, dict) for stage in listed):
        raise UserError(f"{path}, line {line}: stages must be a list of stages, each with a name and its sections.")
    names = [stage.get("name") for stage in listed]
    with located(path, {}, (), f"{path}, line {line}: "):
        check_names(names)
    shared = sections(str(path), {key: value for key, value in document.value.items() if key != STAGES}, document.lines)
    values: list[Values] = []
    lines: list[Lines] = []
    for number, stage in enumerate(listed):
        own_lines = {key[2:]: at for key, at in document.lines.items() if key[:2] == (STAGES, str(number)) and key[2:]}
        own = sections(str(path), {key: value for key, value in stage.items() if key not in PLAIN}, own_lines)
        values.append(_merged(shared, own))
        lines.append({**{key: at for key, at in document.lines.items() if key[0] != STAGES}, **own_lines})
    trust = [*trust, *_apply(values, names, overrides)]
    stages: list[RecipeStage] = []
    for stage_name, stage, stage_values, stage_lines in zip(names, listed, values, lines, strict=True):
        with located(path, stage_lines, overrides, f"stage {stage_name}: "):
            if not isinstance(is_trained := stage.get("train", True), bool):
                raise UserError(f"train must be true or false, not {is_trained!r}.")
            keep = stage_values.pop("keep", {})
            check_keep(keep)
            for column in keep.values():
                _check_function(column, trust)
            follows = follow(stage_values, [key for key, _ in overrides]) if is_shipped else ()
            called = stage_name if str(stage_name).startswith("stage") else f"stage {stage_name}"
            recipe = checked_recipe(f"{name}, {called}", about, stage_values, trust, follows)
            _check_links(recipe, stages, names)
        stages.append(RecipeStage(stage_name, recipe, keep, is_trained))
    return StagedRecipe(name, about, tuple(stages))


def check_alone(recipe: Recipe) -> None:
    """Raise a `UserError` where a recipe without stages names the stage before."""
    _check_links(recipe, (), ())


def _merged(shared: Values, own: Values) -> Values:
    """A stage's sections, with what is shared where it says nothing."""
    merged = deepcopy(shared)
    for section, settings in own.items():
        outer = merged.get(section, {})
        anew = (section == "model" and settings.get("load") is not None) or (
            section == "method" and settings.get("name", outer.get("name")) != outer.get("name")
        )
        merged[section] = deepcopy(settings) if anew else {**outer, **deepcopy(settings)}
    return merged


def _apply(values: list[Values], names: Sequence[str], overrides: Sequence[tuple[str, Any]]) -> list[str]:
    """Put overrides in their places, and return the modules of code that they name."""
    trust = []
    # A model that the stage before made has no settings of the one that is made first.
    makes = [stage.get("model", {}).get("load") not in (PREVIOUS, BEST) for stage in values]
    for key, value in overrides:
        outer, _, rest = key.partition(".")
        if outer != STAGES:
            for stage, own in zip(values, makes, strict=True):
                if own or outer != "model":
                    override(stage, key, value)
            trust += modules_of(key, value)
            continue
        name, _, inner = rest.partition(".")
        if name not in names or not inner:
            raise UserError(f"{key!r}: write stages.NAME.section.setting=value; the stages are {', '.join(names)}.")
        override(values[list(names).index(name)], inner, value)
        trust += modules_of(inner, value)
    return trust


def _check_function(column: Any, trust: Collection[str]) -> None:
    if isinstance(column, str) and ":" in column:
        trusted.find("keep", column, {}, trust)


def _check_links(recipe: Recipe, before: Sequence[RecipeStage], names: Sequence[str]) -> None:
    """What a stage takes from others must be made by an earlier one."""
    reason = "this is the first stage" if names else "this recipe has no stages"
    if (model := recipe.model.get("load")) in (PREVIOUS, BEST) and not before:
        raise UserError(
            f"model.load: {model!r} is the model of the stage before, and {reason}: make a model, or name a folder "
            f"(./{PREVIOUS}, where it is called so)."
        )
    for section, setting in MODELS_BEFORE:
        if getattr(recipe, section).get(setting) == PREVIOUS and not before:
            raise UserError(
                f"{section}.{setting}: {PREVIOUS!r} is the model of the stage before, and {reason}: name one."
            )
    if model == BEST and not before[-1].recipe.data.validation:
        name = before[-1].name
        raise UserError(f"model.load: {BEST!r}, and the stage {name!r} has no data.validation to find the best by.")
    kept: dict[str, Mapping[str, Any]] = {stage.name: stage.keep for stage in before}
    if before:
        kept[PREVIOUS] = before[-1].keep
    for key, where in recipe.data.columns.items():
        stage, _, column = where.partition("/")
        if stage not in kept:
            if stage == PREVIOUS:
                raise UserError(f"data.columns.{key}: {where!r} is of the stage before, and {reason}.")
            if stage in names:
                raise UserError(f"data.columns.{key}: {stage!r} is no earlier stage than this one.")
        elif column not in kept[stage]:
            known = ", ".join(kept[stage]) or "none; name it in that stage's `keep`"
            raise UserError(f"data.columns.{key}: that stage keeps no column {column!r}. There are: {known}.")
