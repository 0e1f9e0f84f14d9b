"""The sections of a recipe beside `method` and `training`, and how their settings are checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from inspect import Parameter, signature
from typing import Any, Literal, get_type_hints

from nearfar import lookup
from nearfar import trust as trusted
from nearfar.errors import UserError
from nearfar.signatures import kinds
from nearfar.training import ranges

DataSpec = str | dict[str, Any]
"""What `nearfar.data.open_source` takes: its first argument, or a mapping of all (`spec`, `split`, `text`, ...)."""


@dataclass(frozen=True)
class DataConfig:
    """What is trained on. All but the first seven are settings of `nearfar.data.Loader`."""

    train: DataSpec = "world/emoji+clipart"
    """The data: a word, `photos/`, or a mapping with `spec` and settings of its source: `{spec: a.csv, text: b}`."""
    validation: DataSpec | float | None = None
    """Data whose mean loss is measured in training; or a share of `train` to hold out for it, 0.1 say, as by
    `nearfar.data.hold_out`: whole groups, by their content, always the same. Of a stream 2,000 records at most."""
    limit: int | None = None
    """Use the first so many records only."""
    columns: dict[str, str] = field(default_factory=dict)
    """Further keys of the records of `train`, from columns that a stage kept: `{label: previous/cluster}`; instead of
    `previous` another stage's name, or the folder of a stage that was run before."""
    precompute: list[str] | None = None
    """Where the image tower is frozen: read the data once for each of these views, and train on what the tower gave;
    see `nearfar.training.precompute`."""
    hard_captions: bool = False
    """Make hard negative captions by swapping units of the captions (English); `negatives: 1` draws one a sample."""
    drop_without_hard: bool = False
    """Train on the records with a hard caption alone, as NegCLIP does; else the others train without one."""
    clusters: str | None = None
    """Make each batch of one cluster: of records that have the same number under this key, `cluster` say, which
    `columns` joins (MCL)."""
    small_clusters: Literal["drop", "merge", "partial"] = "drop"
    """What becomes of clusters that do not fill a batch, and of what others leave over: `drop` leaves it out of the
    epoch, `merge` joins small clusters with their neighbours by number, `partial` makes smaller batches."""
    cluster_order: Literal["shuffle", "round_robin"] = "shuffle"
    """The order of such batches; `round_robin` takes one of each cluster in turn, as MCL's released code."""
    hard_images: int | None = None
    """Fill half of each batch with neighbours of the other half: one of that many pictures most alike to
    the model before training."""
    task: dict[str, Any] | None = None
    """Train on the classes of one task, with a quota of rehearsed samples of earlier ones, and measure on all classes
    so far: `{number: 2, of: 3, order: 0, memory: 12, quota: 8}`; see `nearfar.data.Task`."""
    per_class: int | None = None
    """Make each batch of that many samples of each of its classes, by the records' `label`; by default it is drawn
    over all data."""
    per_domain: int | None = None
    """Make each batch of that many samples of each of its domains, by the records' `domain`: with as many domains as
    `training.batch_size` holds of them, of all."""
    leave_out: str | None = None
    """The name of a domain that is neither trained nor validated on. Where `evaluation.data` names nothing else, it is
    what is measured on."""
    base_classes: float | list[str] | None = None
    """Train and validate on some classes alone: their names, or the share of the classes, from the first one on. The
    methods on prompts (`ogen`) may take the names of the others; the protocol `base_to_new` measures on both."""
    views: str | None = None
    """Augmentation, a preset of `nearfar.data.pictures.views`; by default the method's own, else `clip`."""
    n_views: int | None = None
    """Views of each picture in a batch; by default the method's own number, else one."""
    small_views: int | None = None
    """Further views of each picture, small crops of it (multi-crop), for methods on pictures; by default none."""
    small_size: int | None = None
    """Side of the small views in pixels; by default 96 for each 224 of the large ones."""
    negatives: int | None = None
    """Hard negative captions drawn for each sample; by default those that the method needs."""
    caption: str | float | None = None
    """Which of a record's captions: `random`, `first`, `turn` (each once in as many epochs as it has
    captions), or a number: the share of draws that take the first."""
    text_views: str | None = None
    """Make two views of each text, for methods on pairs of texts, such as `simcse`: a preset of
    `nearfar.data.texts.text_views`. Texts of validation stay as they are."""
    max_length: int | None = None
    """Tokens a text may have in batches; by default as many as the model takes."""
    pad_to: int | None = None
    """Tokens that every text is filled up to; by default those of the longest in its batch."""
    cache: int = 512 << 20
    """Bytes of decoded pictures that are kept from epoch to epoch (512 MiB)."""
    max_skipped: float = 0.1
    """Share of records that may be unusable before the run stops."""

    def __post_init__(self) -> None:
        from nearfar.data.fields.caption_choice import check_caption
        from nearfar.data.pictures.views import PRESETS
        from nearfar.data.texts.text_views import PRESETS as TEXT_PRESETS

        ranges.check("data", ranges.DATA, vars(self), get_type_hints(type(self)))
        for name, presets in (("views", [self.views]), ("precompute", self.precompute)):
            if presets == []:
                raise UserError(f"data.{name} is empty: name at least one of {', '.join(PRESETS)}, or leave it out.")
            chosen = [preset for preset in presets or () if preset is not None]
            lookup.check("views", chosen, PRESETS, where=f"data.{name}: ")
        if self.text_views is not None:
            lookup.check("text views", [self.text_views], TEXT_PRESETS, where="data.text_views: ")
            if self.precompute:
                raise UserError("data.text_views and data.precompute do not go together: leave one of them out.")
        if isinstance(self.validation, int | float):
            ranges.check_number("data.validation", self.validation, ranges.SHARE)
        if isinstance(self.base_classes, int | float):
            ranges.check_number("data.base_classes", self.base_classes, ranges.SHARE_OF_CLASSES)
        if self.drop_without_hard and not self.hard_captions:
            raise UserError("data.drop_without_hard goes with data.hard_captions: true: set that, or leave it out.")
        fills = ("clusters", "per_class", "per_domain", "hard_images", "task")
        if len(chosen := [name for name in fills if getattr(self, name) is not None]) > 1:
            raise UserError(f"data.{chosen[0]} and data.{chosen[1]} both fill the batches: leave one of them out.")
        if self.caption is not None:
            with named("data"):
                check_caption(self.caption)
        if self.task is not None:
            from nearfar.data.rehearsal.task_source import Task

            check_names("data.task", [field.name for field in fields(Task)], self.task)
            if missing := {"number", "of"} - self.task.keys():
                raise UserError(f"recipe, data.task says no {min(missing)}: which task it is, and of how many.")
            with named("data.task"):
                Task(**self.task)

    @property
    def share(self) -> float | None:
        """The share of `train` that is held out to validate on, if one is."""
        return self.validation if isinstance(self.validation, float) else None

    def loader_options(self) -> dict[str, Any]:
        """The loader's part of the settings, without those left to it."""
        own = {"train", "validation", "limit", "columns", "precompute", "clusters", "small_clusters", "cluster_order"}
        own |= {"hard_captions", "drop_without_hard", "hard_images", "per_class", "per_domain", "task", "leave_out"}
        own.add("base_classes")
        return {name: value for name, value in vars(self).items() if name not in own and value is not None}


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured at the end, and shown in the report."""

    data: DataSpec | None = None
    """Held-out data; None measures on the share that `data.validation` holds out, and nothing where it is no share."""
    protocols: list[str] | None = None
    """Names in `nearfar.evaluation.PROTOCOLS`; None: retrieval, zero_shot and geometry, as far as the data allows."""
    watch: list[str] = field(default_factory=list)
    """Protocols also measured on `data.validation` at each validation; `training.monitor` may name one of their
    figures, `val_retrieval/text_to_image_R@1` say."""
    captions: int | None = None
    """How many captions of each image count."""
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings of single protocols."""

    def __post_init__(self) -> None:
        from nearfar.evaluation.protocols import PROTOCOLS

        ranges.check("evaluation", ranges.EVALUATION, vars(self), get_type_hints(type(self)))
        for name in ("protocols", "watch", "options"):
            check_names(f"evaluation.{name}", list(PROTOCOLS), getattr(self, name) or (), kind="protocol")
        for name, settings in self.options.items():
            if not isinstance(settings, Mapping):
                raise UserError(
                    f"recipe, evaluation.options.{name} holds {settings!r}: write option: value below it, or remove it."
                )
            PROTOCOLS[name].check_options(settings, where="recipe, section evaluation.options: ")


CREATE = "create"
"""The maker of a model where a recipe names none: `nearfar.models.create`."""


@dataclass(frozen=True)
class ModelSettings:
    """Settings of `model` beside those of its maker, which are `nearfar.models.create`'s where no other is named."""

    load: str | None = None
    """A model to go on from, in place of one that is made: a run's folder, one that nearfar or transformers saved, or a
    name; `previous` in stages. `image_size`, `max_length`, `freeze` and `lora` may stand beside it."""
    append: Literal["scratch", "base", "previous"] | None = None
    """Train one more encoder beside the loaded model's (MCL), of the same shape, which starts from `scratch`, from the
    weights of the first (`base`), or from those of the last (`previous`). The model is then the concatenation of all;
    `freeze` and `lora` are of the new one."""
    make: str = CREATE
    """What makes the model: `nearfar.models.create`, one of `nearfar.models.MAKERS`, or `module:function` of a trusted
    module."""
    vocab_size: int = 4096
    """Entries of the vocabulary that is learnt from the captions, where the text tower brings none."""
    clean_captions: bool = False
    """Whether the model's tokenizer cleans each text first, as ALBEF does."""
    freeze: str | list[str] | None = None
    """Parts that are not trained: `image`, `text`, or both."""
    lora: Any = None
    """Adapters by tower: `{image: {rank: 8}}`, with `rank`, `alpha`, `dropout` and `targets`."""


MODEL_SETTINGS = get_type_hints(ModelSettings)
"""The kinds of `ModelSettings`."""

OF_A_LOADED_MODEL = ("image_size", "max_length")
"""Settings of `nearfar.models.create` that may stand beside `load`: the loaded model is changed to them."""


def maker(model: Mapping[str, Any], trust: Collection[str] = ()) -> Callable[..., Any]:
    """What makes the model of a section `model`."""
    from nearfar import models

    if model.get("make", CREATE) == CREATE:
        return models.create
    return trusted.find("recipe, model.make", model["make"], models.MAKERS, trust)


def check_model(model: Mapping[str, Any], trust: Collection[str] = ()) -> None:
    """Raise a `UserError` for a setting of `model` that its maker does not know, or of the wrong type."""
    make = maker(model, trust)
    if not any(p.kind is Parameter.VAR_KEYWORD for p in signature(make).parameters.values()):
        check_names("model", [*MODEL_SETTINGS, *known_arguments(make)], model)
    kinds.check("model", kinds.of(make) | MODEL_SETTINGS, model)


def checked(section: str, function: Callable[..., Any], values: Mapping[str, Any], *, skip: Sequence[str] = ()) -> Any:
    """`values` as the arguments of `function`, converted and checked by its signature.

    Raises:
        UserError: an unknown name (the message lists the known ones), or a value of the wrong type.

    >>> checked("data", DataConfig, {"limit": "10"})["limit"]
    10
    """
    check_names(section, known_arguments(function, skip), values)
    kinds.refuse_classes(section, values)
    annotated = kinds.of(function)
    arguments = {
        name: p for name, p in signature(function).parameters.items() if name in known_arguments(function, skip)
    }
    for name, parameter in arguments.items():
        if parameter.default is Parameter.empty and name not in values:
            must = f", which must be {kinds.words(annotated[name])}" if name in annotated else ""
            raise UserError(f"recipe, section {section}: {name} is missing{must}: set {section}.{name}.")
    fitted = {name: kinds.fitted(section, name, annotated.get(name, Any), value) for name, value in values.items()}
    defaults = _defaults(function)
    return {name: fitted[name] if name in fitted else defaults[name] for name in arguments}


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """What a function's arguments are where they are not given."""
    made = {f.name: f.default_factory() for f in _fields_of(function) if f.default_factory is not MISSING}
    return {name: p.default for name, p in signature(function).parameters.items()} | made


def _fields_of(function: Callable[..., Any]) -> Sequence[Field[Any]]:
    return fields(function) if is_dataclass(function) else ()


def known_arguments(function: Callable[..., Any], skip: Sequence[str] = ()) -> list[str]:
    """The names of a function's arguments."""
    several = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return [name for name, p in signature(function).parameters.items() if p.kind not in several and name not in skip]


def check_names(section: str, known: Sequence[str], values: Iterable[str], *, kind: str = "setting") -> None:
    """Raise a `UserError` for the first of `values` whose name is not `known`."""
    lookup.check(kind, values, known, where=f"recipe, section {section}: ")


@contextmanager
def named(section: str) -> Iterator[None]:
    """A value that a maker refuses, as an error that names the recipe's section."""
    try:
        yield
    except ValueError as error:
        where = f"recipe, section {section}"
        raise UserError(str(error) if str(error).startswith("recipe, ") else f"{where}: {error}") from error
