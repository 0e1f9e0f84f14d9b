"""The loop: `nearfar.train`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearfar import distributed as processes
from nearfar import files
from nearfar.data.batches.batch import size, to_device
from nearfar.data.batches.data_info import DataInfo
from nearfar.data.batches.order import mix
from nearfar.errors import UserError
from nearfar.locks import Lock
from nearfar.methods.base import Batch, Method
from nearfar.training.config import TrainConfig
from nearfar.training.loop import finish, guard, peers, setting_checks
from nearfar.training.loop.ema import MovingAverage
from nearfar.training.loop.endless import EndlessBatches
from nearfar.training.loop.gradients import backward, total_norm
from nearfar.training.loop.loaders import as_batches
from nearfar.training.loop.log import LogRow, TrainingLog
from nearfar.training.loop.optim import build_optimizer, lr_factor, set_lr
from nearfar.training.loop.precision import autocast_for, grad_scaler
from nearfar.training.loop.refresh import refresher
from nearfar.training.loop.run import Run
from nearfar.training.loop.validation import Validation, validate
from nearfar.training.state import random_state, sharding
from nearfar.training.state import run_checkpoint as checkpoint
from nearfar.training.state.run_checkpoint import Checkpoints


def train(
    method: Method,
    data: Any,
    *,
    out: str | Path | None = None,
    validation: Validation | None = None,
    resume: bool = False,
    config: TrainConfig | None = None,
    **overrides: Any,
) -> Run:
    """Train a method.

    Args:
        method: what to train.
        data: a `nearfar.data` source or what `open_source` opens ("photos/", "pairs.csv"), a loader, or any iterable of
            batches that can be read once an epoch.
        out: the run folder; None writes nothing.
        validation: a source, loader or batches whose mean loss is measured, or a function `method -> {name: figure}`.
            It leaves no trace in training. With several processes, each calls it.
        resume: go on from the last checkpoint in `out`, if there is one. On the CPU, with the same number of threads
            and processes, the weights at the end are the same to the bit as those of a run that was never stopped.
        config: all settings; `overrides` replace some of them by name. See :class:`TrainConfig`.

    Raises:
        UserError: a setting that does not fit, no data, an `out` that already holds a run or that another process
            trains in, a disk that takes no more, another rank that ended.
        NotFinite: the loss or gradient became NaN or infinite; the batch's ids are saved in `out`.

    >>> import torch
    >>> from nearfar.methods.base import EmbeddingMethod
    >>> class Pull(EmbeddingMethod):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.tower = torch.nn.Linear(2, 2)
    ...     def embed(self, batch):
    ...         return {"image": self.tower(batch["image"])}
    ...     def objective(self, embeddings, batch):
    ...         return {"loss": embeddings["image"].square().mean()}
    >>> batch = {"index": torch.arange(4), "image": torch.ones(4, 2)}
    >>> run = train(Pull(), [batch], steps=3, progress=False)
    >>> run.step, sorted(run.history[-1])[:3]
    (3, ['epoch', 'grad_norm', 'loss'])
    """
    config = (config or TrainConfig()).with_overrides(overrides)
    folder = Path(out) if out else None
    with alone(folder, config.device):
        return TrainingLoop(method, data, folder, validation, resume, config).run()


@contextmanager
def alone(out: Path | None, device: str | None) -> Iterator[None]:
    """All ranks together, and no other run in the folder `out`, until the block ends.

    Raises:
        UserError: another process trains in `out` (the message says which), or another rank ended.
    """
    processes.start(device)
    with peers.watched():
        lock, why = None, None
        if out and processes.is_main():
            try:
                lock = Lock(out, "training in", ", or name another folder (--out, out=)", name="run.lock")
            except UserError as error:
                why = str(error)
        if why := processes.gather_objects(why)[0]:
            raise UserError(why)
        try:
            yield
        finally:
            if lock:
                lock.release()


_EPOCH = 31  # a stream of chance


class TrainingLoop:
    """The state of a run and the steps that change it."""

    def __init__(
        self,
        method: Method,
        data: Any,
        out: Path | None,
        validation: Validation | None,
        resume: bool,
        config: TrainConfig,
    ) -> None:
        setting_checks.check_run(config, validated=validation is not None)
        setting_checks.check_final(config, validated=validation is not None, out=out is not None)
        setting_checks.check_method(config, method)
        self.config, self.method, self.out = config, method, out
        self.device = processes.start(config.device)
        self.done = 0
        self._seed()
        method.to(self.device).train()
        loader = as_batches(data, method, config)
        with random_state.shared_randomness(config.seed):
            method.begin(DataInfo.of(loader))
        processes.share_state(method)
        if sharding.wanted():
            sharding.shard(method)

        self.validation = as_batches(validation, method, config, training=False) if validation is not None else None
        self.batches = EndlessBatches(loader)
        self.steps, self.steps_an_epoch = _length(loader, config)
        config.warmup_steps(self.steps)  # says so where the warm-up is longer than the run
        self.optimizer = build_optimizer(method, config)
        self.average = MovingAverage(method, config.ema) if config.ema else None
        self.autocast = autocast_for(self.device, config.precision)
        self.scaler = grad_scaler(self.device, config.precision)
        self.parameters = [p for p in method.parameters() if p.requires_grad]

        self.refresh = refresher(method, loader, config)
        self.has_epochs = type(method).after_epoch is not Method.after_epoch

        self.ended = 0
        self.best: float | None = None
        self.best_step: int | None = None
        self.seconds = 0.0
        self.checkpoints = Checkpoints(out / "checkpoints", config.keep) if out else None
        if self.checkpoints:
            self._open(self.checkpoints, resume)
        self.log = TrainingLog(out, config, self.steps)

    def run(self) -> Run:
        """Train to the end, then save the model and write the report."""
        self.log.start(self.done)
        if note := setting_checks.note_on_batch_norm(self.config, self.method):
            self.log.say(note)
        began, window, samples = time.perf_counter(), time.perf_counter(), 0
        iterator = iter(self.batches)
        try:
            while self.done < self.steps:
                used = [to_device(batch, self.device) for batch in islice(iterator, self.config.accumulate)]
                row = self._step(used)
                self._end_epochs()
                samples += sum(map(size, used)) * processes.world_size()
                last = self.done == self.steps
                if self.done % self.config.log_every == 0 or last:
                    now = time.perf_counter()
                    row = {**row, "samples_per_s": samples / (now - window), "seconds": self.seconds + now - began}
                    self.log.row(row)
                    window, samples = now, 0
                self.log.step(self.done)
                best = self._validate() if self._due(self.config.eval_every) else False
                if best or self._due(self.config.save_every):
                    self._save(self.seconds + time.perf_counter() - began, best)
        finally:
            self.log.close()
        self.seconds += time.perf_counter() - began
        return self._finish()

    def _step(self, used: list[Batch]) -> LogRow:
        """One optimiser step on the batches `used`."""
        epoch = self.batches.epoch
        self.method.before_step()
        set_lr(self.optimizer, lr_factor(self.done, self.steps, self.config))
        self.optimizer.zero_grad(set_to_none=True)
        outputs = [
            backward(
                self.method,
                batch,
                chunk=self.config.chunk,
                autocast=self.autocast(),
                scale=lambda loss: self._scale(loss) / len(used),
                seed=self.config.seed * 1_000_003 + self.done,
            )
            for batch in used
        ]
        processes.average_gradients(self.parameters)
        scalars = processes.mean({name: _mean([o[name] for o in outputs]) for name in outputs[0]})
        norm, taken = self._update(used, scalars)
        self.done += 1
        if taken:
            self.method.after_step(self.done)
            if self.average:
                self.average.update(self.method)
        values = dict(zip(scalars, torch.stack(list(scalars.values())).tolist(), strict=True))
        lr = self.optimizer.param_groups[0]["lr"]
        return {"step": self.done, "epoch": epoch, **values, "grad_norm": norm, "lr": lr}

    def _end_epochs(self) -> None:
        """Tell the method of the epochs that ended with this step."""
        while self.has_epochs and self.ended < self.batches.finished():
            with random_state.shared_randomness(mix(self.config.seed, self.ended, _EPOCH)):
                self.method.after_epoch(self.ended, self.refresh)
            self.ended += 1

    def _scale(self, loss: Tensor) -> Tensor:
        return self.scaler.scale(loss) if self.scaler else loss

    def _update(self, used: list[Batch], scalars: dict[str, Tensor]) -> tuple[float, bool]:
        """Check, clip and apply the gradient. Its norm before clipping, and whether the step was taken: a loss scaler
        skips one whose gradient is infinite."""
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        norm = total_norm(self.parameters)
        loss, size_of_gradient = torch.stack([scalars["loss"].float(), norm.float()]).tolist()
        # To a loss scaler an infinite gradient means that its scale is too large: it skips the step and lowers it.
        if not (_finite(loss) and (self.scaler or _finite(size_of_gradient))):
            values = {name: value.item() for name, value in scalars.items()}
            guard.stop(self.done + 1, values, size_of_gradient, used, self.out)
        if self.config.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.clip_norm, norm)
        if not self.scaler:
            self.optimizer.step()
            return size_of_gradient, True
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return size_of_gradient, self.scaler.get_scale() >= scale  # lowered if, and only if, it skipped

    def _finish(self) -> Run:
        """Put the averaged weights, or the best ones, in place, save the model, write the report, say what was
        skipped."""
        if self.average:
            self.average.put_in(self.method)
        if self.config.final == "best" and self.checkpoints:
            checkpoint.load_weights(self.checkpoints.folder / "best", self.method)
        self.method.eval()
        skipped = getattr(self.batches.loader, "skipped", None)
        run = Run(self.method, self.out, self.done, self.log.rows, self.seconds, skipped)
        finish.save_model(run)
        finish.save_skipped(run)
        if self.config.report:
            # A split model needs every process to embed.
            model, config = None if sharding.wanted() else run.model, self.config
            options: dict[str, Any] = {"seed": config.seed, "config": asdict(config)}
            problem = finish.save_report(run, model, self.validation, self.batches.loader, **options)
            if problem:
                self.log.say(problem)
        if skipped:
            self.log.say(str(skipped))
        return run

    def _validate(self) -> bool:
        """Measure, if there is something to measure with; whether this is the best so far."""
        if self.validation is None:
            return False
        figures = validate(self.method, self.validation, self.average)
        self.log.row({"step": self.done, "epoch": self.batches.epoch, **figures})
        name = self.config.monitor
        if name not in figures:
            if name == TrainConfig.monitor:
                return False
            raise UserError(f"training.monitor is {name!r}, but validation gave only {', '.join(sorted(figures))}.")
        value = -figures[name] if name.endswith("loss") else figures[name]
        if self.best is not None and value <= self.best:
            return False
        self.best, self.best_step = value, self.done
        return True

    def _due(self, every: int | None) -> bool:
        """Whether something that happens every so many steps (None: once an epoch), and at the end, happens now."""
        every = every or self.steps_an_epoch
        return self.done == self.steps or bool(every and self.done % every == 0)

    def _open(self, checkpoints: Checkpoints, resume: bool) -> None:
        """Make the run folder ready, or go on from the checkpoint in it."""
        assert self.out
        latest = checkpoints.latest()
        if latest and not resume:
            raise UserError(
                f"{self.out} already holds a run: resume it (resume=True, --resume), or name another folder."
            )
        if processes.is_main():
            files.folder(checkpoints.folder)
            with files.writing(self.out):
                files.remove_leftovers(self.out)
                files.remove_leftovers(checkpoints.folder)
            checkpoints.relink()
        processes.barrier()
        if latest:
            like = {
                "method": self.method.state_dict(),
                "average": self.average.average if self.average else {},
                "optimizer": sharding.numbered(self.optimizer),
            }
            self._restore(checkpoint.load(latest, like))

    def _save(self, seconds: float, best: bool) -> None:
        if not self.checkpoints:
            return
        progress = {
            "step": self.done,
            "ended": self.ended,
            "best": self.best,
            "best_step": self.best_step,
            "seconds": seconds,
            "processes": processes.world_size(),
            "config": asdict(self.config),
        }
        state = {
            "step": self.done,
            "method": self.method.state_dict(),
            "average": self.average.average if self.average else None,
            "optimizer": {
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict() if self.scaler else None,
                "average_updates": self.average.updates if self.average else 0,
            },
            "process": {"batches": self.batches.state_dict(), "random": random_state.state_dict()},
            "progress": progress,
        }
        self.checkpoints.save(state, best=best)

    def _restore(self, state: dict[str, Any]) -> None:
        progress = state["progress"]
        self.done, self.best, self.seconds = progress["step"], progress["best"], progress["seconds"]
        self.best_step = progress.get("best_step")
        self.method.check_state(state["method"])
        sharding.load_tensors(self.method.state_dict(), state["method"])
        sharding.load_optimizer_state(self.optimizer, state["optimizer"]["optimizer"])
        if self.average and state["average"] is not None:
            sharding.load_tensors(self.average.average, state["average"])
            self.average.updates = state["optimizer"]["average_updates"]
        if self.scaler and state["optimizer"]["scaler"]:
            self.scaler.load_state_dict(state["optimizer"]["scaler"])
        self.batches.load_state_dict(state["process"]["batches"])
        self.ended = progress.get("ended", self.batches.epoch)
        if state["process"]["random"] is None:  # of another number of processes: new streams, that depend on the step
            self._seed()
        else:
            random_state.load_state_dict(state["process"]["random"])

    def _seed(self) -> None:
        """Give this process a random stream of its own."""
        random_state.seed_everything(self.config.seed + 7919 * processes.rank() + 1_000_003 * self.done)


def _length(loader: Iterable[Batch], config: TrainConfig) -> tuple[int, int | None]:
    """Steps of the run, and steps an epoch where that is known."""
    try:
        batches = len(loader)  # type: ignore[arg-type]
    except TypeError:  # an iterator, or a loader of a stream
        batches = None
    if batches == 0:
        raise UserError(
            "the data gives no batch: it is empty, or holds fewer samples than one batch (lower training.batch_size)."
        )
    steps_an_epoch = max(1, batches // config.accumulate) if batches else None
    if config.steps:
        return config.steps, steps_an_epoch
    if not batches:
        raise UserError("the length of this data is not known: say how long to train with training.steps=...")
    return max(1, round(config.epochs * batches / config.accumulate)), steps_an_epoch


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack([value.float() for value in values]).mean()


def _finite(value: float) -> bool:
    return value - value == 0
