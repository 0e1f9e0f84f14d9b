"""Every setting of a training run, in one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_type_hints

from nearfar import lookup
from nearfar.errors import UserError
from nearfar.training import ranges

LEAST_ROWS, LONGEST_INTERVAL = 20, 10
"""Rows that make a curve, and the steps between two of a long run."""


@dataclass(frozen=True)
class TrainConfig:
    """How a run trains. Batches and steps are those of the whole run, whatever the number of processes.

    Raises:
        UserError: a setting that is not what it may be; the message names it and says what to write.

    >>> TrainConfig(lr=3e-4, warmup=0.1).schedule
    'cosine'
    """

    epochs: float = 10
    """Passes over the data; `steps` overrides it."""
    steps: int | None = None
    """Optimiser steps. Needed where the length of the data is not known (streams)."""
    batch_size: int = 256
    """Samples in a batch, over all processes together. Only used where `nearfar.train` makes the loader itself."""
    chunk: int | None = None
    """Gradient caching: embed this many samples at a time, so that memory for activations does not grow with the
    batch. The gradient is that of the whole batch. Only for an `EmbeddingMethod`; costs up to one more forward pass:
    none while a quarter of the free memory holds what the chunks save for their backward pass.
    Batch norm in training mode normalises each chunk by itself (a virtual batch), which the run says at its start."""
    accumulate: int = 1
    """Batches whose gradients are averaged in one step, for methods that are not an `EmbeddingMethod` (those have
    `chunk`, which keeps the negatives of the whole batch)."""
    optimizer: Literal["adamw", "lamb", "lars", "sgd"] = "adamw"
    """`sgd` takes its (Nesterov) momentum from the first of `betas`, `lars` its plain one."""
    lr: float = 1e-3
    """Peak learning rate. A parameter group of the method may scale it with `lr_scale` or replace it with `lr`."""
    weight_decay: float = 0.1
    """Decoupled; by default spares vectors and scalars (biases, norms, temperatures)."""
    betas: tuple[float, float] = (0.9, 0.98)
    """How slowly the means of the gradient and of its square move."""
    eps: float = 1e-8
    """Added to the root of the mean square that gradients are divided by."""
    schedule: Literal["cosine", "linear", "constant", "steps"] = "cosine"
    """From `lr` after the warm-up towards `min_lr`, which the step after the last one would have; `steps` falls to a
    tenth after each third, 30 and 60 of 90 epochs."""
    warmup: float = 0.05
    """Steps of linear warm-up from 0, no more than the run has; below 1, a share of all steps."""
    min_lr: float = 0.0
    """The learning rate that `cosine` and `linear` schedules fall towards."""
    clip_norm: float | None = 1.0
    """Largest L2 norm of the gradient; None leaves it as it is."""
    ema: float | None = None
    """Decay of a moving average of the weights (0.999, say), which then is what is validated and saved as the model."""
    swad: str | None = None
    """Average the weights of all steps in the valley of this validation figure, `val_cross_entropy` say (SWAD, arXiv
    2102.08604), and end the run where the valley ends. Validations (`eval_every`) are of the weights as they are: the
    valley begins at the first whose figure is the least of 3 in a row, and ends when 6 in a row lie above 1.3 times the
    mean of those 3. The average is saved as the model; checkpoints, the best among them, hold the weights as they were.
    Keeps up to 8 copies of what is trained."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Autocast while embedding. `auto` follows `accelerate launch --mixed_precision`, else takes bf16 on a GPU that has
    it and float32 everywhere else."""
    linear_layers: Literal["torch", "onednn"] = "torch"
    """Which library multiplies in linear layers, in float32 on a CPU: `onednn` is as exact, and faster where torch's
    own, MKL, leaves AVX-512 unused (AMD); elsewhere it may be slower (`benchmarks/product_libraries.py` times both)."""
    seed: int = 0
    """All chance depends on it: weights, order, captions, augmentation."""
    device: str | None = None
    """'cpu', 'cuda', ...; None takes the accelerator if there is one."""
    workers: int = 0
    """Loader workers a process, where `nearfar.train` makes the loader itself."""
    log_every: int | None = None
    """Steps between rows of `history.jsonl`; the last step has one, too. None: 10, and fewer in a run so short that it
    would have less than 20 rows; the first step then has one, too."""
    eval_every: int | None = None
    """Steps between validations; None validates at the end of each epoch."""
    save_every: int | None = None
    """Steps between checkpoints; None saves at the end of each epoch. One is always saved at the end."""
    keep: int = 2
    """Checkpoints kept, beside the best."""
    monitor: str = "val_loss"
    """The validation figure that picks the best checkpoint: lower is better if its name ends in `loss`, else higher."""
    final: Literal["last", "best"] = "last"
    """The weights that a run ends with, saves as its model and evaluates: those of the last step, or of the checkpoint
    that is best by `monitor`."""
    trackers: tuple[str, ...] = ()
    """Accelerate's trackers by name: tensorboard, wandb, mlflow, ..."""
    progress: bool = True
    """A progress bar, or plain lines where the output is no terminal."""
    report: bool = True
    """Write the HTML report at the end of the run."""

    def __post_init__(self) -> None:
        # YAML and JSON know lists only; and `trackers="wandb"` means one tracker, not five letters.
        for name in ("betas", "trackers"):
            value = getattr(self, name)
            if isinstance(value, str):
                value = (value,)
            elif not isinstance(value, Iterable):
                raise UserError(f"training.{name} must be a list, not {value!r}: write [a, b].")
            object.__setattr__(self, name, tuple(value))
        if self.swad is not None and not (isinstance(self.swad, str) and self.swad):
            raise UserError(f"training.swad must be the name of a figure, not {self.swad!r}: val_cross_entropy, say.")
        ranges.check("training", ranges.TRAINING, vars(self), get_type_hints(type(self)))
        if len(self.betas) != 2:
            raise UserError(f"training.betas must be two numbers, not {list(self.betas)}: 0.9 and 0.98, say.")
        for i, beta in enumerate(self.betas):
            ranges.check_number(f"training.betas[{i}]", beta, ranges.BETA)
        if self.min_lr > self.lr:
            raise UserError(
                f"training.min_lr ({self.min_lr}) is above training.lr ({self.lr}): lower training.min_lr, where the "
                "schedule ends, or raise training.lr, its peak."
            )
        if self.steps is not None:
            self.warmup_steps(self.steps)

    def with_overrides(self, overrides: Mapping[str, Any]) -> TrainConfig:
        """A copy with some settings replaced; an unknown name is an error that lists the known ones.

        >>> TrainConfig().with_overrides({"lr": 0.1}).lr
        0.1
        """
        known = [field.name for field in fields(self)]
        lookup.check("training setting", overrides, known)
        return replace(self, **overrides)

    def warmup_steps(self, steps: int) -> int:
        """Steps of warm-up in a run of `steps`.

        Raises:
            UserError: the warm-up is longer than the run.

        >>> TrainConfig(warmup=0.1).warmup_steps(200), TrainConfig(warmup=30).warmup_steps(200)
        (20, 30)
        """
        if self.warmup < 1:
            return round(self.warmup * steps)
        if self.warmup > steps:
            raise UserError(
                f"training.warmup is {int(self.warmup)} steps, but the run has only {steps}: its learning rate would "
                "never reach training.lr. Lower training.warmup (below 1 it is a share of the steps: 0.1, say), or "
                "train longer (training.steps, training.epochs)."
            )
        return int(self.warmup)

    def row_interval(self, steps: int) -> int:
        """Steps between rows of the history in a run of `steps`.

        >>> TrainConfig().row_interval(1000), TrainConfig().row_interval(90), TrainConfig(log_every=7).row_interval(90)
        (10, 4, 7)
        """
        return self.log_every or max(1, min(LONGEST_INTERVAL, steps // LEAST_ROWS))
