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

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import yaml

from nearfar import methods
from nearfar.errors import UserError
from nearfar.training.config import TrainConfig
from nearfar.training.run import Run
from nearfar.training.sections import DataConfig, EvaluationConfig, check_names, checked

SECTIONS = ("data", "model", "method", "training", "evaluation")


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. `load` makes one.

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

    def as_yaml(self) -> str:
        """The whole recipe with every setting spelled out: loading it gives this recipe again."""
        sections = {name: getattr(self, name) for name in SECTIONS}
        plain = {name: value if isinstance(value, dict) else asdict(value) for name, value in sections.items()}
        plain["training"] |= {"betas": list(self.training.betas), "trackers": list(self.training.trackers)}
        return f"# {self.comment}\n" + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)

    def build(self) -> Any:
        """The method, data and evaluation of this recipe, ready to train; see `nearfar.training.assemble`."""
        from nearfar.training.assemble import assemble

        return assemble(self)

    def run(self, out: str | Path | None = None, *, resume: bool = False) -> Run:
        """Train, evaluate and report in the run folder `out` (`runs/NAME` by default), where the recipe is kept as
        `config.yaml`."""
        return self.build().run(Path(out or Path("runs") / self.name), resume=resume)


def load(path_or_name: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """Read a recipe and check it.

    Args:
        path_or_name: a YAML file, a run folder, or the name of a shipped recipe (`nearfar recipes` lists them).
        overrides: `section.setting=value` lines, or a mapping of the same; a name without a section is one of
            `training`.

    Raises:
        UserError: no such recipe, not YAML, an unknown section or setting, a value of the wrong type.
    """
    path = find(path_or_name)
    text = path.read_text("utf-8")
    try:
        values = _numbers(yaml.safe_load(text)) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict) or not all(isinstance(v, dict | None) for v in values.values()):
        raise UserError(f"{path} is not a recipe: it must hold the sections {', '.join(SECTIONS)}.")
    values = {name: dict(section or {}) for name, section in values.items()}
    for key, value in _pairs(overrides):
        _override(values, key, value)
    name = path.parent.name if path.name == "config.yaml" else path.stem
    return _recipe(name, _comment(text), values)


def find(path_or_name: str | Path) -> Path:
    """The file of a recipe, by path, run folder or name."""
    path = Path(path_or_name)
    if path.is_dir():
        path = path / "config.yaml"
    if path.is_file():
        return path
    known = shipped()
    if str(path_or_name) in known:
        return known[str(path_or_name)]
    raise UserError(
        f"no recipe {str(path_or_name)!r}: there is no such file, and none of {', '.join(known) or 'none'}."
    )


def shipped() -> dict[str, Path]:
    """The recipes that come with nearfar, by name."""
    folder = Path(str(package_files("nearfar"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def launch_configurations() -> dict[str, Path]:
    """The configurations for `accelerate launch --config_file` that come with nearfar, by name."""
    folder = Path(str(package_files("nearfar"))) / "recipes" / "accelerate"
    return {f"accelerate/{path.stem}": path for path in sorted(folder.glob("*.yaml"))}


def comment(path: Path) -> str:
    """The first comment line of a recipe: what it is."""
    return _comment(path.read_text("utf-8"))


def _recipe(name: str, about: str, values: dict[str, dict[str, Any]]) -> Recipe:
    for section in values:
        if section not in SECTIONS:
            raise UserError(f"recipe {name}: no section {section!r}. There are: {', '.join(SECTIONS)}.")
    method = _method(name, "method", values.get("method", {}))
    model = values.get("model", {})
    if "make" not in model:
        _check_model(model)
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
    )


def _check_monitor(monitor: str, evaluation: EvaluationConfig) -> None:
    """A figure of a protocol that is not watched would be missed only after the first validation."""
    protocol, slash, _ = monitor.removeprefix("val_").partition("/")
    if slash and protocol not in evaluation.watch:
        raise UserError(
            f"training.monitor is {monitor!r}, but {protocol!r} is not watched: add it to evaluation.watch "
            f"(now: {', '.join(evaluation.watch) or 'none'})."
        )


def _method(recipe: str, section: str, method: Mapping[str, Any]) -> dict[str, Any]:
    """A method's name and checked settings; those of an ensemble's members, too."""
    if "name" not in method:
        known = ", ".join(methods.METHODS)
        raise UserError(f"recipe {recipe}, section {section}: say which with `name`. There are: {known}.")
    settings = {key: value for key, value in method.items() if key != "name"}
    settings = checked(section, methods.find(method["name"]), settings, skip=("model",))
    if "of" in settings:
        settings["of"] = _method(recipe, f"{section}.of", settings["of"])
    return {"name": method["name"], **settings}


def _check_model(model: Mapping[str, Any]) -> None:
    from nearfar.models import create
    from nearfar.training.assemble import MODEL_SETTINGS
    from nearfar.training.sections import known_arguments

    check_names("model", [*MODEL_SETTINGS, *known_arguments(create)], model)


def _pairs(overrides: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    if isinstance(overrides, Mapping):
        return list(overrides.items())
    pairs = []
    for line in overrides:
        key, equals, value = line.partition("=")
        if not equals:
            raise UserError(f"{line!r} is no setting: write section.setting=value.")
        pairs.append((key.strip(), _numbers(yaml.safe_load(value))))
    return pairs


def _override(values: dict[str, dict[str, Any]], key: str, value: Any) -> None:
    section, *path = key.split(".")
    if not path:
        known = [field.name for field in fields(TrainConfig)]
        if section not in known:
            raise UserError(f"{key!r}: name the section too ({', '.join(SECTIONS)}), as in data.{key}=...")
        section, path = "training", [section]
    place: Any = values.setdefault(section, {})
    if (section, path) == ("model", ["load"]) and value is not None:
        # A model to go on from takes the place of the one that the recipe makes.
        values["model"] = place = {name: place[name] for name in ("freeze", "lora") if name in place}
    for name in path[:-1]:
        if isinstance(place.get(name), str) and section in ("data", "evaluation"):
            place[name] = {"spec": place[name]}  # `data.train.split=val` where `train` was a plain name
        place = place.setdefault(name, {})
    place[path[-1]] = value


def _numbers(value: Any) -> Any:
    """YAML 1.1 takes `1e-3` for a word: here it is a number, as in every other notation."""
    if isinstance(value, dict):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


def _comment(text: str) -> str:
    first = text.lstrip().splitlines()[0] if text.strip() else ""
    return first.lstrip("# ").strip() if first.startswith("#") else ""
