"""Other people's loops: any method under the `Trainer` of transformers, or in a Lightning module.

Both loops see one process's batch at a time: negatives of other processes and gradient caching are `nearfar.train`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import IterableDataset

from nearfar.data.batches.data_info import DataInfo
from nearfar.methods.base import Batch, Method
from nearfar.training.config import TrainConfig
from nearfar.training.loop.optim import build_optimizer, lr_factor, own_peak
from nearfar.training.loop.precision import with_float32_weights
from nearfar.training.loop.refresh import refresher
from nearfar.training.state.endless_batches import EndlessBatches
from nearfar.training.state.random_state import shared_randomness


def for_trainer(method: Method, loader: Iterable[Batch]) -> dict[str, Any]:
    """What the `Trainer` of transformers needs to train a method: its arguments `model`, `train_dataset`,
    `data_collator` and `callbacks`. Give it `TrainingArguments(per_device_train_batch_size=1,
    remove_unused_columns=False, max_steps=...)`: a loader makes whole batches itself.

    >>> from nearfar.methods import CLIP
    >>> sorted(for_trainer(CLIP(nn.Linear(1, 1)), [{"index": 0}]))
    ['callbacks', 'data_collator', 'model', 'train_dataset']
    """
    from transformers import TrainerCallback

    batches, refresh = BatchDataset(loader), _begin(method, loader)

    class Steps(TrainerCallback):
        ended: int | None = None

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            method.before_step()

        def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
            if not getattr(optimizer, "step_was_skipped", False):
                method.after_step(state.global_step)
            # Batches are read ahead: an epoch has ended when its last one was used.
            used = state.global_step * args.gradient_accumulation_steps
            ended = sum(end <= used for end in batches.ends)
            for epoch in range(self.begun_at(used), ended):
                method.after_epoch(epoch, refresh)
            self.ended = ended

        def on_train_end(self, *_: Any, **__: Any) -> None:
            method.hand_over()

        def begun_at(self, used: int) -> int:
            return sum(end < used for end in batches.ends) if self.ended is None else self.ended

    return {
        "model": KeywordMethod(method),
        "train_dataset": batches,
        "data_collator": _only,
        "callbacks": [Steps()],
    }


class KeywordMethod(nn.Module):
    """A method that takes the keys of its batch as arguments, as models of transformers do."""

    accepts_loss_kwargs = False

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, **batch: Any) -> dict[str, Tensor]:
        return self.method(batch)


class BatchDataset(IterableDataset):
    """The batches of a loader, epoch after epoch, as a dataset whose items are whole batches."""

    def __init__(self, loader: Iterable[Batch]) -> None:
        self.loader = loader
        self._now = EndlessBatches(loader)

    @property
    def ends(self) -> list[int]:
        """How many batches had been handed out, in all, when each epoch ended."""
        return self._now.ends

    def __iter__(self) -> Iterator[Batch]:
        self._now = EndlessBatches(self.loader)
        return iter(self._now)


def lightning_module(
    method: Method, *, steps: int, config: TrainConfig | None = None, loader: Iterable[Batch] | None = None
) -> Any:
    """A `LightningModule` that trains a method with the optimiser and schedule of `config`, for `steps` steps. Its
    `method` is the method. Give `Trainer.fit` a loader as it is, and `Trainer(max_steps=steps)`; give the loader here,
    too, where the method must know its data."""
    from nearfar.errors import need

    lightning = need("lightning", "dev")
    settings, refresh = config or TrainConfig(), _begin(method, loader, config, steps)

    class Module(lightning.LightningModule):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.method = method

        def training_step(self, batch: Batch, number: int) -> Tensor:
            outputs = self.method(batch)
            self.log_dict({name: value.detach() for name, value in outputs.items()}, batch_size=1)
            return outputs["loss"]

        def optimizer_step(self, *args: Any, **settings: Any) -> None:
            scaler = getattr(self.trainer.precision_plugin, "scaler", None)
            scale = scaler.get_scale() if scaler else 0.0
            super().optimizer_step(*args, **settings)
            if not scaler or scaler.get_scale() >= scale:
                self.method.after_step(self.global_step + 1)  # counted when this returns
            self.method.before_step()

        def on_train_epoch_end(self) -> None:
            self.method.after_epoch(self.current_epoch, refresh)

        def on_train_end(self) -> None:
            self.method.hand_over()

        def configure_optimizers(self) -> dict[str, Any]:
            optimizer = build_optimizer(self.method, settings)
            factors: list[Callable[[int], float]] = [
                partial(lr_factor, steps=steps, config=settings, peak=own_peak(group))
                for group in optimizer.param_groups
            ]
            schedule = LambdaLR(optimizer, factors)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return Module()


def _begin(
    method: Method, loader: Any, config: TrainConfig | None = None, steps: int | None = None
) -> Callable[[], dict[str, Tensor]]:
    """Make the method know its data, its weights in float32; what embeds the data again."""
    settings = config or TrainConfig()
    with_float32_weights(method)
    info = DataInfo.of(loader)
    info.steps = steps
    with shared_randomness(settings.seed):
        method.begin(info)
    return refresher(method, loader, settings)


def _only(items: list[Batch]) -> Batch:
    return items[0]
