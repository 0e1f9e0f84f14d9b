"""Recipes: a run as one YAML file.

    # What it is, in one line.
    data:       {train: world/emoji+clipart, validation: {spec: world/emoji, split: val}}
    model:      {preset: tiny}
    method:     {name: align, label_smoothing: 0.1}
    training:   {epochs: 10, batch_size: 256, lr: 1e-3}
    evaluation: {data: {spec: world/emoji, split: test}}

Each section is checked against the signature of what it sets: `DataConfig`, `nearfar.models.create`, the method's
class, `TrainConfig`, `EvaluationConfig`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nearfar import methods
from nearfar.errors import UserError
from nearfar.training.config import TrainConfig
from nearfar.training.loop.run import Run
from nearfar.training.recipe.reading import dump
from nearfar.training.recipe.sections import DataConfig, EvaluationConfig, check_model, checked

SECTIONS = ("data", "model", "method", "training", "evaluation")


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. `load` makes one.

    >>> from nearfar.training.recipe import load
    >>> recipe = load("world", ["steps=3", "model.embed_dim=32"])
    >>> recipe.training.steps, recipe.model["embed_dim"]
    (3, 32)
    """

    name: str
    comment: str
    data: DataConfig
    model: dict[str, Any]
    method: dict[str, Any]
    training: TrainConfig
    evaluation: EvaluationConfig
    trust: tuple[str, ...] = field(default=(), compare=False)
    """Modules outside nearfar whose code it may name. The user's word, never the file's: it is not written to YAML."""
    follows: tuple[str, ...] = field(default=(), compare=False)
    """Settings of `training` that follow the size of the data: those of a shipped recipe on somebody's own data, as far
    as they were not set. Not written to YAML: a run's own recipe has the settings that it trained with."""
    fitted: str | None = field(default=None, compare=False)
    """What was changed for the size of the data, from what to what; a comment of the YAML."""

    def as_yaml(self) -> str:
        """The whole recipe with every setting spelled out: loading it gives this recipe again."""
        fitted = f"# {self.fitted}\n" if self.fitted else ""
        return f"# {self.comment}\n{fitted}" + dump(self.sections())

    def sections(self) -> dict[str, dict[str, Any]]:
        """The sections as plain data, every setting spelled out."""
        sections = {name: getattr(self, name) for name in SECTIONS}
        plain = {name: value if isinstance(value, dict) else asdict(value) for name, value in sections.items()}
        plain["training"] |= {"betas": list(self.training.betas), "trackers": list(self.training.trackers)}
        return plain

    @property
    def device(self) -> str | None:
        """Where it trains."""
        return self.training.device

    def build(self, announce: Callable[[Recipe], None] | None = None) -> Any:
        """The method, data and evaluation of this recipe, ready to train; see `nearfar.training.recipe.assemble`."""
        from nearfar.training.recipe.assemble import assemble

        return assemble(self, announce=announce)

    def run(
        self, out: str | Path | None = None, *, resume: bool = False, announce: Callable[[Recipe], None] | None = None
    ) -> Run:
        """Train, evaluate and report in the run folder `out` (`runs/NAME` by default), where the recipe is kept as
        `config.yaml`. `announce` is called once with the recipe as it trains, when all is checked that can be, and
        before anything takes long."""
        from nearfar import distributed as processes
        from nearfar.training.loop import peers
        from nearfar.training.loop.run_folder import check_folder

        processes.start(self.training.device)
        with peers.watched():  # a rank may end while the data is read, too
            folder = Path(out or Path("runs") / self.name)
            check_folder(folder, self.training.device, resume=resume)
            return self.build(announce).run(folder, resume=resume)


def checked_recipe(
    name: str,
    about: str,
    values: Mapping[str, dict[str, Any]],
    trust: Collection[str],
    follows: tuple[str, ...] = (),
) -> Recipe:
    """The recipe of these sections.

    Raises:
        UserError: an unknown section or setting, a value of the wrong type, code of a module that is not trusted.
    """
    for section in values:
        if section not in SECTIONS:
            raise UserError(f"recipe {name}: no section {section!r}. There are: {', '.join(SECTIONS)}.")
    method = _method(name, "method", values.get("method", {}), trust)
    model = values.get("model", {})
    check_model(model, trust)
    training = TrainConfig(**checked("training", TrainConfig, values.get("training", {})))
    evaluation = EvaluationConfig(**checked("evaluation", EvaluationConfig, values.get("evaluation", {})))
    _check_monitor(training.monitor, evaluation)
    return Recipe(
        name=name,
        comment=about,
        data=DataConfig(**checked("data", DataConfig, values.get("data", {}))),
        model=model,
        method=method,
        training=training,
        evaluation=evaluation,
        trust=tuple(trust),
        follows=follows,
    )


def _check_monitor(monitor: str, evaluation: EvaluationConfig) -> None:
    """A figure of a protocol that is not watched would be missed only after the first validation."""
    protocol, slash, _ = monitor.removeprefix("val_").partition("/")
    if slash and protocol not in evaluation.watch:
        raise UserError(
            f"training.monitor is {monitor!r}, but {protocol!r} is not watched: add it to evaluation.watch "
            f"(now: {', '.join(evaluation.watch) or 'none'})."
        )


def _method(recipe: str, section: str, method: Mapping[str, Any], trust: Collection[str]) -> dict[str, Any]:
    """A method's name and checked settings; those of an ensemble's members, too."""
    if "name" not in method:
        known = ", ".join(methods.METHODS)
        raise UserError(f"recipe {recipe}, section {section}: say which with 'name'. There are: {known}.")
    settings = {key: value for key, value in method.items() if key != "name"}
    settings = checked(section, methods.find(method["name"], trust), settings, skip=("model",))
    if isinstance(settings.get("of"), Mapping):
        settings["of"] = _method(recipe, f"{section}.of", settings["of"], trust)
    return {"name": method["name"], **settings}
