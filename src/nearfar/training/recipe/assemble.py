"""From a recipe to a method, its data and its evaluation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from nearfar import distributed as processes
from nearfar import files, methods
from nearfar import trust as trusted
from nearfar.data.fields.text import clean_caption, cleaning
from nearfar.errors import UserError
from nearfar.methods.base import Method
from nearfar.models import load
from nearfar.training.loop import finish
from nearfar.training.loop.loaders import data_settings, make_loader
from nearfar.training.loop.run import Run
from nearfar.training.loop.setting_checks import check_data, check_evaluation, check_method, check_run, share_of_batch
from nearfar.training.loop.training_loop import TrainingLoop, alone
from nearfar.training.loop.validation import mean_loss
from nearfar.training.recipe import hard_data as hard_negatives
from nearfar.training.recipe.sections import MODEL_SETTINGS, OF_A_LOADED_MODEL, DataSpec, check_names, maker
from nearfar.training.stages.columns import fields_of, join
from nearfar.training.state import random_state, sharding

if TYPE_CHECKING:
    from nearfar.training.recipe import Recipe

CORPUS = 200_000
"""Records of a stream that a vocabulary is learnt from."""


@dataclass
class AssembledRun:
    """A recipe's parts, ready to train."""

    recipe: Recipe
    method: Method
    loader: Any
    validation: Callable[[Method], dict[str, float]] | None
    held_out: Any
    """The source of the evaluation, or None."""
    source: Any
    """The source that is trained on."""
    validated_on: Any
    """The source of the validation, or None."""

    def run(self, out: Path, *, resume: bool = False) -> Run:
        """Train, then evaluate and report. The recipe is kept as `config.yaml`."""
        # The report is written once, at the end, when there is something to show.
        config = replace(self.recipe.training, report=False)
        with alone(out, config.device):
            if processes.is_main() and not list(out.glob("checkpoints/step-*")):
                files.write(out / "config.yaml", self.recipe.as_yaml())
            run = TrainingLoop(self.method, self.loader, out, self.validation, resume, config).run()
            if processes.is_main():
                # A split model needs every process to embed: this one takes the whole model that was saved.
                self._evaluate(run, load(out / "model") if sharding.wanted() else run.model, out)
            processes.barrier()
        return run

    def _evaluate(self, run: Run, model: Any, out: Path) -> None:
        from nearfar.evaluation import embed, evaluate, left_out, save_results
        from nearfar.evaluation.report import write_report

        settings, config = self.recipe.evaluation, self.recipe.training
        if self.held_out is None:
            if config.report:
                options: dict[str, Any] = {
                    "seed": config.seed,
                    "captions": settings.captions,
                    "title": self.recipe.name,
                }
                if problem := finish.save_report(run, model, self.validated_on, self.source, **options):
                    print(problem)
            return
        found = embed(model, self.held_out, captions=settings.captions, progress=config.progress)
        if settings.protocols is None and config.progress:
            for name, reason in left_out(model, found).items():
                print(f"evaluation: {name} is left out, as {reason}")
        results = evaluate(
            model, self.held_out, settings.protocols, seed=config.seed, embeddings=found, options=settings.options
        )
        save_results(results, out / "results.json", model=str(out / "model"), data=settings.data)
        run.results = results
        if config.report:
            contents: dict[str, Any] = {
                "results": results,
                "embeddings": found,
                "source": self.held_out,
                "encoder": model,
            }
            write_report(out, title=self.recipe.name, skipped=run.skipped or None, **contents)


@dataclass
class OpenedData:
    """A recipe's data, opened and not yet read."""

    source: Any
    validated_on: Any
    held_out: Any


def open_data(recipe: Recipe) -> OpenedData:
    """Open a recipe's data. What can be known to be wrong is said before anything is read at length."""
    config, data = recipe.training, recipe.data
    processes.start(config.device)
    check_run(config, validated=data.validation is not None)
    share_of_batch(config)
    check_method(config, chosen(recipe.method, recipe.trust)[0])
    held_out = open_spec("evaluation.data", recipe.evaluation.data) if recipe.evaluation.data else None
    validated_on = open_spec("data.validation", data.validation) if data.validation else None
    check_evaluation(recipe.evaluation, data=held_out, validation=validated_on)
    source = open_spec("data.train", data.train, limit=data.limit)
    if hasattr(source, "__len__"):
        check_data(config, len(source) * (2 if data.hard_images else 1))
    return OpenedData(source, validated_on, held_out)


def assemble(
    recipe: Recipe, opened: OpenedData | None = None, *, before_reading: Callable[[Any], None] | None = None
) -> AssembledRun:
    """Open the data, make the model and the method. Every process makes the same.

    Args:
        recipe: what to train.
        opened: its data, where they are open.
        before_reading: is called with the model before the data are read at length.
    """
    opened = opened or open_data(recipe)
    held_out, validated_on, source = opened.held_out, opened.validated_on, opened.source
    random_state.seed_everything(recipe.training.seed)
    if recipe.data.columns:
        columns = {key: _column(key, where) for key, where in recipe.data.columns.items()}
        source = join(source, columns, max_skipped=recipe.data.max_skipped)
    fields = fields_of(source)
    if recipe.data.hard_captions:
        source = hard_negatives.with_captions(source, drop=recipe.data.drop_without_hard)
    kind, settings = chosen(recipe.method, recipe.trust)
    parts = [build_model(recipe.model, source, recipe.trust)] if "model" in signature(kind).parameters else []
    method = build_method(recipe, kind, settings, parts, opened)
    if before_reading:
        before_reading(method.encoder)
    method.to(processes.start(recipe.training.device))
    options = data_settings(method) | recipe.data.loader_options()
    order: Any = None
    if (k := recipe.data.hard_images) is not None:
        from nearfar.data import PairedOrder

        order = PairedOrder(hard_negatives.mined_images(source, method.encoder, k))
    loader = _loader(recipe, method, source, {**options, "order": order, "fields": fields}, training=True)
    validation = _validation(recipe, method, validated_on, options)
    return AssembledRun(recipe, method, loader, validation, held_out, source, validated_on)


def build_method(
    recipe: Recipe, kind: type[Method], settings: Mapping[str, Any], parts: list[Any], opened: OpenedData
) -> Method:
    """The method of a recipe around its model (`parts` is empty where it takes none), and whether they fit."""
    for model in parts:
        check_made(model, kind)
    with named("method"):
        method = kind(*parts, **settings)
    check_method(recipe.training, method)
    check_evaluation(recipe.evaluation, data=opened.held_out, validation=opened.validated_on, model=method.encoder)
    return method


def _column(key: str, where: str) -> tuple[Path, str]:
    """The folder of a stage, and the column it kept."""
    folder, slash, column = where.rpartition("/")
    if not slash or not folder or not column:
        raise UserError(f"recipe, data.columns.{key}: write FOLDER/COLUMN, not {where!r}.")
    return Path(folder), column


def open_spec(where: str, spec: DataSpec, *, limit: int | None = None) -> Any:
    """The source of a recipe's setting `where`."""
    from nearfar.data import open_source

    options = {"spec": spec} if isinstance(spec, str) else dict(spec)
    if "spec" not in options:
        raise UserError(f"recipe, {where}: name the data with `spec`.")
    source = open_source(options.pop("spec"), **options)
    if limit is None:
        return source
    if not hasattr(source, "first"):
        raise UserError(f"recipe, {where}: limit is for data that can be counted; {source.name} is a stream.")
    return source.first(limit)


def chosen(settings: Mapping[str, Any], trust: Collection[str]) -> tuple[type[Method], dict[str, Any]]:
    """A method's class and settings; an ensemble gets its members' class, too."""
    others = {name: value for name, value in settings.items() if name != "name"}
    if isinstance(of := others.get("of"), Mapping) and "name" in of:
        others["of"] = {**of, "name": methods.find(of["name"], trust)}
    return methods.find(settings["name"], trust), others


def check_made(model: Any, kind: type[Method]) -> None:
    """A maker of the user's own must have made a model: one that encodes, unless the method is the user's own, too."""
    encodes = hasattr(model, "lm") or any(name.startswith("encode_") for name in dir(model))
    if not isinstance(model, nn.Module):
        raise UserError(f"recipe, model.make gave a {type(model).__name__}: it must return a model (a torch module).")
    if not encodes and trusted.is_within(kind.__module__, ["nearfar"]):
        raise UserError(
            f"recipe, model.make gave a {type(model).__name__}, which encodes nothing: {kind.__name__} needs a model "
            "with encode_image, encode_text or the like."
        )


def build_model(settings: Mapping[str, Any], source: Any, trust: Collection[str] = ()) -> Any:
    """The model of a recipe's `model` section; a vocabulary is learnt from `source` where one is needed."""
    from nearfar import models

    values = {name: value for name, value in settings.items() if name not in MODEL_SETTINGS}
    if settings.get("load") is not None:
        values = {name: value for name, value in values.items() if name not in OF_A_LOADED_MODEL}
        if values:
            raise UserError(
                f"recipe, section model: {next(iter(values))} does not go with load, which is a whole model."
            )
        model = models.load(settings["load"])
    else:
        make = maker(settings, trust)
        if "tokenizer" in signature(make).parameters and "tokenizer" not in values and _needs_vocabulary(settings):
            with named("model"):
                values["tokenizer"] = _vocabulary(source, settings)
        with named("model"):
            model = make(**values)
    return change_model(model, settings)


def change_model(model: Any, settings: Mapping[str, Any]) -> Any:
    """Change what a recipe changes of a model: the size of its pictures and the length of its texts, where it was
    loaded; how it cleans captions; adapters, which parts are frozen. A model that was loaded keeps its frozen parts,
    unless `freeze` says which they are now."""
    if settings.get("load") is not None:
        if (size := settings.get("image_size")) is not None:
            if not hasattr(model, "resize_images"):
                raise UserError(f"recipe, section model: a {type(model).__name__} keeps its image_size.")
            model.resize_images(size)
        if (length := settings.get("max_length")) is not None:
            if not hasattr(model, "cut_texts"):
                raise UserError(f"recipe, section model: a {type(model).__name__} keeps its max_length.")
            model.cut_texts(length)
    if settings.get("clean_captions"):
        if getattr(model, "tokenizer", None) is None:
            raise UserError(f"recipe, model.clean_captions: a {type(model).__name__} has no tokenizer to clean with.")
        model.tokenizer = cleaning(model.tokenizer)
    frozen = settings.get("freeze")
    if "load" in settings and frozen is not None and (thawed := _thawed(model)):
        model.unfreeze(*thawed)
    for tower, options in _adapters(settings.get("lora") or {}).items():
        with named("model.lora"):
            model.add_lora(tower, **options)
    if frozen:
        model.freeze(*([frozen] if isinstance(frozen, str) else frozen))
    return model


def _thawed(model: Any) -> list[str]:
    """The frozen parts that can be trained: not the weights below adapters."""
    return [part for part in getattr(model, "frozen", ()) if part not in getattr(model, "adapters", ())]


@contextmanager
def named(section: str) -> Iterator[None]:
    """A value that a maker refuses, as an error that names the recipe's section."""
    try:
        yield
    except ValueError as error:
        where = f"recipe, section {section}"
        raise UserError(str(error) if str(error).startswith("recipe, ") else f"{where}: {error}") from error


def _adapters(towers: Any) -> dict[str, dict[str, Any]]:
    """The settings of `lora` by tower, their names checked."""
    if not isinstance(towers, Mapping) or not all(isinstance(options, Mapping | None) for options in towers.values()):
        raise UserError("recipe, section model: lora is a mapping by tower: {image: {rank: 8}, text: {rank: 8}}.")
    for options in towers.values():
        check_names("model.lora", ["rank", "alpha", "dropout", "targets"], options or {})
    return {tower: dict(options or {}) for tower, options in towers.items()}


def _loader(recipe: Recipe, method: Method, source: Any, options: dict[str, Any], *, training: bool) -> Any:
    """Batches of pictures, or of what the frozen towers make of them."""
    model, config, views = method.encoder, recipe.training, recipe.data.precompute
    if views is None:
        return make_loader(source, model, config, training=training, **options)
    from nearfar.embedding.features import precompute

    n_views = recipe.data.n_views or method.n_views
    return precompute(
        model,
        source,
        batch_size=share_of_batch(config),
        views=views if training else ["none"] * n_views,
        n_views=n_views,
        caption=recipe.data.caption if training else None,
        order=options.get("order"),
        shuffle=training,
        seed=config.seed,
        rank=processes.rank(),
        world_size=processes.world_size(),
        workers=config.workers,
        max_skipped=recipe.data.max_skipped,
        progress=config.progress and processes.is_main(),
    )


def _validation(
    recipe: Recipe, method: Method, source: Any, options: dict[str, Any]
) -> Callable[[Method], dict[str, float]] | None:
    """The mean loss over `data.validation`, and the figures of the protocols that are watched."""
    if source is None:
        return None
    if recipe.data.hard_captions:
        source = hard_negatives.with_captions(source)
    loader = _loader(recipe, method, source, options, training=False)

    def figures(method: Method) -> dict[str, float]:
        found = mean_loss(method, loader)
        if recipe.evaluation.watch:
            from nearfar.evaluation import evaluate

            results = evaluate(
                method.encoder, source, recipe.evaluation.watch, captions=recipe.evaluation.captions, progress=False
            )
            for result in results.values():
                found |= result.scalars()
        return found

    return figures


def _needs_vocabulary(settings: Mapping[str, Any]) -> bool:
    """Whether the text tower starts from a config, and so has no tokenizer of its own."""
    from nearfar.models import MAKERS, PRESETS
    from nearfar.models.language.model import SIZES

    if settings.get("make") in MAKERS:
        name = settings.get("name")
        return isinstance(name, Mapping) or name in SIZES
    preset = PRESETS.get(str(settings.get("preset")), {})
    text = settings.get("text", preset.get("text"))
    return isinstance(text, Mapping) or (text is None and not preset)


def _vocabulary(source: Any, settings: Mapping[str, Any]) -> Any:
    from nearfar.data.fields.answers import answer_counts
    from nearfar.data.fields.text import train_tokenizer
    from nearfar.data.sources.source import captions

    records = source if hasattr(source, "select") else islice(source, CORPUS)
    texts: Iterator[str] = (
        text for record in records for text in [*captions(record.get("text")), *answer_counts(record.get("answers"))]
    )
    if settings.get("clean_captions"):
        texts = (clean_caption(text, max_words=None) for text in texts)
    longest = {"max_length": length} if (length := settings.get("max_length")) else {}
    return train_tokenizer(texts, settings.get("vocab_size", 4096), **longest)
