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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from nearfar import methods
from nearfar import trust as trusted
from nearfar.errors import UserError
from nearfar.training.config import TrainConfig
from nearfar.training.loop.run import Run
from nearfar.training.recipe.reading import Document, dump, parse, read
from nearfar.training.recipe.sections import DataConfig, EvaluationConfig, check_model, checked

LAUNCH = "accelerate"
"""The folder of launch configurations beside those of recipes, which are by kind of method."""

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
    trust: tuple[str, ...] = field(default=(), compare=False)
    """Modules outside nearfar whose code it may name. The user's word, never the file's: it is not written to YAML."""

    def as_yaml(self) -> str:
        """The whole recipe with every setting spelled out: loading it gives this recipe again."""
        sections = {name: getattr(self, name) for name in SECTIONS}
        plain = {name: value if isinstance(value, dict) else asdict(value) for name, value in sections.items()}
        plain["training"] |= {"betas": list(self.training.betas), "trackers": list(self.training.trackers)}
        return f"# {self.comment}\n" + dump(plain)

    def build(self) -> Any:
        """The method, data and evaluation of this recipe, ready to train; see `nearfar.training.recipe.assemble`."""
        from nearfar.training.recipe.assemble import assemble

        return assemble(self)

    def run(self, out: str | Path | None = None, *, resume: bool = False) -> Run:
        """Train, evaluate and report in the run folder `out` (`runs/NAME` by default), where the recipe is kept as
        `config.yaml`."""
        from nearfar import distributed as processes
        from nearfar.training.loop import peers

        processes.start(self.training.device)
        with peers.watched():  # a rank may end while the data is read, too
            return self.build().run(Path(out or Path("runs") / self.name), resume=resume)


def load(
    path_or_name: str | Path, overrides: Sequence[str] | Mapping[str, Any] = (), *, trust: Collection[str] = ()
) -> Recipe:
    """Read a recipe and check it.

    Args:
        path_or_name: a YAML file, a run folder, or the name of a shipped recipe (`nearfar recipes` lists them).
        overrides: `section.setting=value` lines, or a mapping of the same; a name without a section is one of
            `training`.
        trust: modules outside nearfar that the recipe may name (`method.name: my_module:Mine`, `model.make`). Those
            that an override names are trusted, too.

    Raises:
        UserError: no such recipe, not YAML, an unknown section or setting, a value of the wrong type, code of a module
            that is not trusted.
    """
    path = find(path_or_name)
    text, document = read(path)
    values = _sections(path, document)
    own, pairs = list(trusted.names(trust)), _pairs(overrides)
    for key, value in pairs:
        _override(values, key, value)
        own += _modules(key, value)
    name = path.parent.name if path.name == "config.yaml" else path.stem
    try:
        return _recipe(name, _comment(text), values, tuple(own))
    except UserError as error:
        overridden = {".".join((key if "." in key else f"training.{key}").split(".")[:2]) for key, _ in pairs}
        line = _line(str(error), document, overridden)
        raise UserError(f"{path}, line {line}: {error}" if line else str(error)) from None


def find(path_or_name: str | Path) -> Path:
    """The file of a recipe, by path, run folder or name."""
    path, known = Path(path_or_name), shipped()
    if path.is_dir() and (path / "config.yaml").is_file():
        return path / "config.yaml"
    if path.is_file():
        return path
    if str(path_or_name) in known:
        return known[str(path_or_name)]
    if path.is_dir():
        raise UserError(f"{path} is no run folder: it holds no config.yaml. Name a recipe's file, or another folder.")
    if path.exists():
        raise UserError(f"{path} is no regular file: name a recipe's file, or a run folder.")
    raise UserError(
        f"no recipe {str(path_or_name)!r}: there is no such file, and the recipes that come with nearfar are "
        f"{', '.join(known)}."
    )


def shipped() -> dict[str, Path]:
    """The recipes that come with nearfar, by name."""
    found = [path for path in _folder().glob("*/*.yaml") if path.parent.name != LAUNCH]
    return {path.stem: path for path in sorted(found, key=lambda path: path.stem)}


def launch_configurations() -> dict[str, Path]:
    """The configurations for `accelerate launch --config_file` that come with nearfar, by name."""
    return {f"{LAUNCH}/{path.stem}": path for path in sorted((_folder() / LAUNCH).glob("*.yaml"))}


def _folder() -> Path:
    return Path(str(package_files("nearfar"))) / "recipes"


def comment(path: Path) -> str:
    """The first comment line of a recipe: what it is."""
    return _comment(path.read_text("utf-8"))


def _sections(path: Path, document: Document) -> dict[str, dict[str, Any]]:
    """A file's sections as mappings of their settings."""
    if document.value is None:
        raise UserError(f"{path} is empty: a recipe holds the sections {', '.join(SECTIONS)}.")
    if not isinstance(document.value, dict):
        raise UserError(f"{path} is not a recipe: it must hold the sections {', '.join(SECTIONS)}.")
    for name, section in document.value.items():
        if not isinstance(section, dict | None):
            line = document.lines[(name,)]
            raise UserError(f"{path}, line {line}: section {name} must hold settings (name: value), not {section!r}.")
    return {name: dict(section or {}) for name, section in document.value.items()}


def _line(message: str, document: Document, overridden: Collection[str]) -> int | None:
    """The line of the setting that a complaint is about, if it stands in the file."""
    for (section, *rest), line in document.lines.items():
        key = ".".join([section, *rest])
        setting = re.escape(rest[0]) if rest else ""
        about = rf"\b{re.escape(key)}\b|section {re.escape(section)}: (\w+ \w+ '{setting}'|{setting}\b)"
        named = key == "method.name" and message.startswith(("method", "no method "))
        if rest and key not in overridden and (named or re.search(about, message)):
            return line
        if not rest and f"no section {section!r}" in message:
            return line
    return None


def _modules(key: str, value: Any) -> list[str]:
    """Modules of code that an override names: whoever wrote it means them."""
    if isinstance(value, Mapping):
        return [module for name, inner in value.items() for module in _modules(f"{key}.{name}", inner)]
    names_code = key == "model.make" or (key.startswith("method.") and key.endswith(".name"))
    return [value.partition(":")[0]] if names_code and isinstance(value, str) and ":" in value else []


def _recipe(name: str, about: str, values: dict[str, dict[str, Any]], trust: Collection[str]) -> Recipe:
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
        raise UserError(f"recipe {recipe}, section {section}: say which with `name`. There are: {known}.")
    settings = {key: value for key, value in method.items() if key != "name"}
    settings = checked(section, methods.find(method["name"], trust), settings, skip=("model",))
    if isinstance(settings.get("of"), Mapping):
        settings["of"] = _method(recipe, f"{section}.of", settings["of"], trust)
    return {"name": method["name"], **settings}


def _pairs(overrides: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    if isinstance(overrides, Mapping):
        return list(overrides.items())
    pairs = []
    for line in overrides:
        key, equals, value = line.partition("=")
        if not equals:
            raise UserError(f"{line!r} is no setting: write section.setting=value.")
        pairs.append((key.strip(), parse(value, line).value))
    return pairs


def _override(values: dict[str, dict[str, Any]], key: str, value: Any) -> None:
    section, *path = key.split(".")
    if not all([section, *path]):
        raise UserError(f"{key!r} is no setting: write section.setting=value.")
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
        inner = place.setdefault(name, {})
        if not isinstance(inner, dict):
            raise UserError(f"{key!r}: {name} is {inner!r}, which holds no settings such as {path[-1]!r}.")
        place = inner
    place[path[-1]] = value


def _comment(text: str) -> str:
    first = text.lstrip().splitlines()[0] if text.strip() else ""
    return first.lstrip("# ").strip() if first.startswith("#") else ""
