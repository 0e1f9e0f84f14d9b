"""Every setting of a training run, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Literal

from nearfar.errors import UserError


@dataclass(frozen=True)
class TrainConfig:
    """How a run trains. Batches and steps are those of the whole run, whatever the number of processes.

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
    batch. The gradient is that of the whole batch. Only for an `EmbeddingMethod`; costs up to one more forward pass."""
    accumulate: int = 1
    """Batches whose gradients are averaged in one step, for methods that are not an `EmbeddingMethod` (those have
    `chunk`, which keeps the negatives of the whole batch)."""
    optimizer: Literal["adamw", "lamb", "sgd"] = "adamw"
    """`sgd` takes its (Nesterov) momentum from the first of `betas`."""
    lr: float = 1e-3
    """Peak learning rate. A parameter group of the method may scale it with `lr_scale` or replace it with `lr`."""
    weight_decay: float = 0.1
    """Decoupled; by default spares vectors and scalars (biases, norms, temperatures)."""
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """From `lr` after the warm-up to `min_lr` at the last step."""
    warmup: float = 0.05
    """Steps of linear warm-up from 0; below 1, a share of all steps."""
    min_lr: float = 0.0
    clip_norm: float | None = 1.0
    """Largest L2 norm of the gradient; None leaves it as it is."""
    ema: float | None = None
    """Decay of a moving average of the weights (0.999, say), which then is what is validated and saved as the model."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Autocast while embedding. `auto` follows `accelerate launch --mixed_precision`, else takes bf16 on a GPU that has
    it and float32 everywhere else."""
    seed: int = 0
    device: str | None = None
    """'cpu', 'cuda', ...; None takes the accelerator if there is one."""
    workers: int = 0
    """Loader workers a process, where `nearfar.train` makes the loader itself."""
    log_every: int = 10
    """Steps between rows of `history.jsonl`."""
    eval_every: int | None = None
    """Steps between validations; None validates at the end of each epoch."""
    save_every: int | None = None
    """Steps between checkpoints; None saves at the end of each epoch. One is always saved at the end."""
    keep: int = 2
    """Checkpoints kept, beside the best."""
    monitor: str = "val_loss"
    """The validation figure that picks the best checkpoint: lower is better if its name ends in `loss`, else higher."""
    trackers: tuple[str, ...] = ()
    """Accelerate's trackers by name: tensorboard, wandb, mlflow, ..."""
    progress: bool = True
    """A progress bar, or plain lines where the output is no terminal."""
    report: bool = True
    """Write the HTML report at the end of the run."""

    def __post_init__(self) -> None:
        # YAML and JSON know lists only.
        object.__setattr__(self, "betas", tuple(self.betas))
        object.__setattr__(self, "trackers", tuple(self.trackers))
        for name in ("steps", "batch_size", "chunk", "accumulate", "log_every", "eval_every", "save_every", "keep"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"training.{name} must be at least 1, not {value}.")
        for name in ("lr", "epochs"):
            if getattr(self, name) <= 0:
                raise UserError(f"training.{name} must be above 0, not {getattr(self, name)}.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise UserError(f"training.ema is a decay between 0 and 1 (0.999, say), not {self.ema}.")
        if self.min_lr > self.lr:
            raise UserError(f"training.min_lr ({self.min_lr}) is above training.lr ({self.lr}).")

    def with_overrides(self, overrides: Mapping[str, Any]) -> TrainConfig:
        """A copy with some settings replaced; an unknown name is an error that lists the known ones.

        >>> TrainConfig().with_overrides({"lr": 0.1}).lr
        0.1
        """
        known = [field.name for field in fields(self)]
        for name in overrides:
            if name not in known:
                near = get_close_matches(name, known, 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise UserError(f"no training setting {name!r}.{hint} There are: {', '.join(known)}.")
        return replace(self, **overrides)

    def warmup_steps(self, steps: int) -> int:
        """Steps of warm-up in a run of `steps`.

        >>> TrainConfig(warmup=0.1).warmup_steps(200), TrainConfig(warmup=30).warmup_steps(200)
        (20, 30)
        """
        return round(self.warmup * steps) if self.warmup < 1 else min(int(self.warmup), steps)
