"""What a training method is: a module that owns its models and losses and turns a batch into a loss.

Any loop can train a :class:`Method`. An :class:`EmbeddingMethod` also says where its embeddings end and its objective
begins; `nearfar.training` then adds gradient caching and the negatives of other processes, once, for all methods.

All that the house reads of a method is declared here, with its default and its reader. A class attribute that is nearly
one of these names is refused when the class is made, and an objective that reads a batch key outside `reads` too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from nearfar.data.batches.data_info import DataInfo
from nearfar.data.fields.caption_choice import Caption
from nearfar.data.fields.field import Field
from nearfar.data.texts.caption_lengths_field import CaptionLengths
from nearfar.data.texts.label_texts_field import LabelTexts
from nearfar.losses.temperature import Temperature
from nearfar.methods.declarations import DeclaredBatch, check_attributes, check_reads

Batch = Mapping[str, Any]
"""A plain dict of tensors; `nearfar.data.batches.batch` lists its keys."""


class DataPart(nn.Module):
    """A part of a method that keeps something of the data, such as a table by sample. A method's `begin` and
    `check_state` reach each of its parts."""

    def begin(self, data: DataInfo) -> None:
        """Make the buffers for these data."""

    def check_state(self, state: Mapping[str, Tensor], prefix: str) -> None:
        """Refuse, by a `UserError`, a saved state that is of other data; `prefix` is this part's own in its names."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        self.check_state(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Method(nn.Module, ABC):
    """A training method: an `nn.Module` that owns the models and losses it trains.

    Everything that changes during training must live in parameters or buffers (queues, momentum copies, moving
    averages), so that `state_dict` is enough to resume.

    Raises:
        UserError: a subclass has an attribute that is nearly one of those declared here (`n_view`).
    """

    model: Any
    """What batches are made for, and what is evaluated, saved and searched with. None until a method sets its own.
    Read by `training.loop.loaders`, through `encoder` by `Run.model` and the recipe's evaluation."""

    views: str | None = None
    """The preset of `nearfar.data.pictures.views` that its pictures are augmented by; None: the loader's own. Read,
    like the next three, by `training.loop.loaders.data_settings`, where a recipe or the user's own `Loader` says
    nothing."""

    n_views: int = 1
    """Augmented views of each picture: more than one come as the batch's `views`."""

    validation_views: str | None = "none"
    """The preset of validation pictures, "none" for pictures as they are; None: as in training, for methods whose loss
    says nothing without augmentation. Each validation then draws the same views."""

    answers: bool = False
    """Whether its batches hold the answers to the questions in `text`."""

    pictures: bool = True
    """Whether its batches hold pictures; a method that reads none trains on records without, though its model reads
    them. Read as `answers` is."""

    captions: bool = True
    """Whether its batches hold the records' texts; a method that reads none trains on records without. Read as
    `answers` is."""

    text_pairs: bool = False
    """Whether its batches hold the second text of each pair, and each sample's own number of hard negatives, where the
    data have them. Read as `answers` is."""

    label_texts: LabelTexts | None = None
    """Which texts its batches hold as labels of each text. Read as `answers` is."""

    caption_lengths: CaptionLengths | None = None
    """Where its batches hold a short caption of each sample and a long one: which are short. Read as `answers` is."""

    boxes: bool = False
    """Whether its batches hold boxes of things and what they are called. Read as `answers` is."""

    picture_pairs: bool = False
    """Whether its batches hold the second picture of each pair, and its text. Read as `answers` is."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for base in cls.__mro__:
            if base is not cls and base.__module__ == __name__:
                check_attributes(cls, base)

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.model = None
        self._temperatures: list[Temperature] | None = None  # found at the first step

    @property
    def encoder(self) -> Any:
        """`model`, or the method itself where it has none."""
        return self if self.model is None else self.model

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return `{"loss": scalar}` with a gradient, and any further detached scalars to log. Must not change state:
        an evaluation in the middle of training, or a second call in the same step, must leave nothing behind. What a
        queue is to get after the step waits in `nearfar.methods.parts.pending.Pending`."""

    def fields(self, source: Any, training: bool, caption: Caption | None = None) -> list[Field]:
        """Fields of its batches beside the usual ones, on the data `source`, in training and in validation; `caption`
        is the data's own setting of which captions are taken, None the usual one. Read by
        `training.loop.loaders.make_loader`. Here there are none."""
        return []

    def before_step(self) -> None:
        """Forget what an earlier step left that was not taken. Called before the first forward pass of each step. Here
        there is nothing to forget."""

    def begin(self, data: DataInfo) -> None:
        """Get to know the training data: their size, ids, classes and domains. Called once, before the first step, by
        `nearfar.train` and the adapters for other loops; on resume, too, before the saved state is loaded; on all
        processes alike, with the same random draws. Here: passes it to each `DataPart` of the method.

        Streams and plain batches have `size` and `ids` None: a method that cannot do without raises a `UserError`.
        """
        for part in self.modules():
            if isinstance(part, DataPart):
                part.begin(data)

    def check_state(self, state: Mapping[str, Tensor]) -> None:
        """Refuse a saved state that is of other data, before it is loaded. Read by `training_loop` on resume."""
        for name, part in self.named_modules():
            if isinstance(part, DataPart):
                part.check_state(state, f"{name}." if name else "")

    def after_step(self, step: int) -> None:
        """Update what follows the optimiser: momentum encoders, queues, schedules. Called once after each optimiser
        step that changed the weights, with its number (1 for the first); a step that the float16 loss scaler skips has
        a number, too, and no call. Here: temperatures return within their bounds."""
        if self._temperatures is None:
            self._temperatures = [module for module in all_modules(self) if isinstance(module, Temperature)]
        for temperature in self._temperatures:
            temperature.clamp_()

    def train(self, mode: bool = True) -> Self:
        self._temperatures = None  # a method may have got other parts meanwhile
        return super().train(mode)

    def after_epoch(self, epoch: int, refresh: Callable[[], dict[str, Tensor]]) -> None:
        """Called once after the step that used an epoch's last batch, with the epoch's number from 0, on all processes
        with the same random draws; before that step's validation and checkpoint. Here there is nothing to do.

        `refresh()` embeds the training data with the method as it is now, in evaluation mode, without augmentation,
        each record once; all processes call it, share the work and get the whole. It returns float32 tensors on the
        CPU: `index`, the ids `[N]`, and what `embed` returns, or for a method without `embed` what the model's
        `encode_image`, `encode_text` ... do. Streams cannot be embedded whole: `UserError`.
        """

    def learned(self) -> dict[str, float]:
        """What the method has learned beside the model's weights, and the model is used with: `temperature`, and
        others by the names of the model's attributes. Read at the end of training, by checkpoints and by the adapters
        for other loops, which give it to the model. Here: the temperature, where the method has one and not several.
        """
        temperatures = [module for module in self.modules() if isinstance(module, Temperature)]
        return {"temperature": temperatures[0]().item()} if len(temperatures) == 1 else {}

    def hand_over(self) -> None:
        """Give the model what was `learned`, where it has attributes of these names that hold a number or None."""
        # Around a model that was given to peft stands another.
        model = self.encoder.get_base_model() if hasattr(self.encoder, "get_base_model") else self.encoder
        for name, value in self.learned().items():
            if isinstance(getattr(model, name, self), (float, type(None))):
                setattr(model, name, value)

    def leave(self, folder: Path) -> None:
        """Write into the run folder what was learned beside the model, and is looked at: files that a report may draw.
        Called on the main process when the model is saved at the end, but where it is split over the processes. Here
        there is nothing."""

    def param_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """The optimiser's parameter groups. By default weight decay spares vectors and scalars (biases, norms,
        temperatures), as in the papers' code."""
        return decay_groups(self.parameters(), weight_decay)


class EmbeddingMethod(Method):
    """A method whose loss sees the batch only through embeddings.

    `embed` must treat rows independently (no batch statistics shared between rows), so that it may be run in chunks:
    that is what makes gradient caching exact.

    Raises:
        UserError: `objective` reads a batch key that `reads` does not name.
    """

    reads: tuple[str, ...] = ("index", "group", "label", "domain", "weight")
    """The batch keys that `objective` gets, and no others: in `forward`, in training, in validation, with gradient
    caching, and gathered over all processes, alike. An instance may set fewer. Read by `for_objective` and
    `training.loop.gradients`."""

    gather: bool = True
    """Whether `objective` gets the whole batch of all processes, embeddings and `reads`; else this process's own part.
    Read by `training.loop.gradients`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_reads(cls.__name__, cls.objective, cls.reads)

    @abstractmethod
    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Embeddings by name. Row i of a `[B, D]` tensor belongs to sample i; a tensor of `[B * K, D]` holds K rows a
        sample, sample-major."""

    def ring_losses(self) -> list[nn.Module]:
        """Losses, each with a `backend`, that are all of `objective` which looks across samples. While theirs is
        "ring", `objective` of each process's own part is that of the whole batch (`nearfar.ops`), and nothing need be
        gathered: the processes share the work that each would repeat. The default is none."""
        return []

    @abstractmethod
    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The loss over embeddings of the whole (global) batch. `batch` holds only the keys in `reads`, gathered like
        the embeddings."""

    def for_objective(self, batch: Batch) -> Batch:
        """The part of a batch that `objective` gets; reading any other key of it is an error."""
        return DeclaredBatch(batch, reads=self.reads, method=type(self).__name__)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.objective(self.embed(batch), self.for_objective(batch))


def all_modules(module: nn.Module) -> list[nn.Module]:
    """A module and all within it, each once, in a quarter of the time of `modules()`, which names each: a step is not
    to wait."""
    modules, known = [module], {id(module)}
    for each in modules:  # which grows meanwhile
        for part in each._modules.values():
            if part is not None and id(part) not in known:  # an empty queue is false
                known.add(id(part))
                modules.append(part)
    return modules


def all_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module, each once, as `parameters()` gives them but for the order, and sooner."""
    owned = {id(each): each for part in all_modules(module) for each in part._parameters.values() if each is not None}
    return list(owned.values())


def trained_part(model: Any) -> Any:
    """The encoder of a `model` that a method trains: the newest part of a concatenation, else the model itself."""
    return getattr(model, "newest", model)


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices with `weight_decay`, vectors and scalars without."""
    trainable = [p for p in parameters if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
