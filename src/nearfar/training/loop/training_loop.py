"""The loop: `nearfar.train`."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from nearfar import console
from nearfar import distributed as processes
from nearfar.data.batches.batch import size
from nearfar.data.batches.data_info import DataInfo
from nearfar.data.batches.order import mix
from nearfar.errors import UserError
from nearfar.methods.base import Method
from nearfar.modes import to_device
from nearfar.training.config import TrainConfig
from nearfar.training.loop import finish, setting_checks
from nearfar.training.loop.loaders import as_batches, run_length
from nearfar.training.loop.log import TrainingLog
from nearfar.training.loop.optim import build_optimizer
from nearfar.training.loop.optimizer_step import OptimizerStep
from nearfar.training.loop.precision import grad_scaler, with_float32_weights
from nearfar.training.loop.refresh import refresher
from nearfar.training.loop.run import Run
from nearfar.training.loop.run_folder import alone, open_folder
from nearfar.training.loop.validation import Validation, validate
from nearfar.training.state import random_state, sharding
from nearfar.training.state.dense_average import DenseAverage
from nearfar.training.state.endless_batches import EndlessBatches
from nearfar.training.state.frozen_weights import FrozenWeights
from nearfar.training.state.moving_average import MovingAverage
from nearfar.training.state.run_checkpoint import Checkpoints, load_weights
from nearfar.training.state.run_state import RunState


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
        loop = TrainingLoop(method, data, folder, validation, resume, config)
        with console.showing(config.progress and processes.is_main()):
            return loop.run()


_EPOCH = 31  # a stream of chance


class TrainingLoop:
    """The parts of a run, and the order in which they work."""

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
        random_state.seed_process(config.seed, step=0)
        with_float32_weights(method).to(self.device).train()
        loader = as_batches(data, method, config)
        self.steps, self.steps_an_epoch = run_length(loader, config)
        info = DataInfo.of(loader)
        info.steps = self.steps
        with random_state.shared_randomness(config.seed):
            method.begin(info)
        processes.share_state(method)
        if sharding.enabled():
            sharding.shard(method)

        self.validation = as_batches(validation, method, config, training=False) if validation is not None else None
        config.warmup_steps(self.steps)  # says so where the warm-up is longer than the run
        self.state = RunState(
            config,
            method,
            EndlessBatches(loader),
            build_optimizer(method, config),
            grad_scaler(self.device, config.precision),
            MovingAverage(method, config.ema) if config.ema else None,
            dense=DenseAverage(config.swad) if config.swad else None,
        )
        self.take_step = OptimizerStep(self.state, steps=self.steps, out=out)
        self.refresh = refresher(method, loader, config)
        self.has_epochs = type(method).after_epoch is not Method.after_epoch

        self.checkpoints = Checkpoints(out / "checkpoints", config.keep) if out else None
        if out and self.checkpoints and (latest := open_folder(out, self.checkpoints, resume=resume)):
            self.state.restore(latest)
            self._end_with_the_valley()
        if out and processes.is_main() and not sharding.enabled():
            self.state.frozen = FrozenWeights(method)
        self.log = TrainingLog(out, config, self.steps)

    def run(self) -> Run:
        """Train to the end, then save the model and write the report."""
        state, config = self.state, self.config
        self.log.start(state.step)
        if note := setting_checks.note_on_batch_norm(config, self.method):
            self.log.say(note)
        self._counted_until = window = time.perf_counter()
        samples = 0
        iterator = iter(state.batches)
        try:
            while state.step < self.steps:
                used = [to_device(batch, self.device) for batch in islice(iterator, config.accumulate)]
                row = self.take_step(used)
                self._end_epochs()
                now = self._count_seconds()
                samples += sum(map(size, used)) * processes.world_size()
                if self._is_logged(state.step):
                    row = {**row, "samples_per_s": samples / (now - window), "seconds": state.seconds}
                    self.log.row(row)
                    window, samples = now, 0
                self.log.step(state.step)
                best = self._validate() if self._due(config.eval_every) else False
                self._count_seconds()
                if self.checkpoints and (best or self._due(config.save_every)):
                    state.save(self.checkpoints, best=best)
                    self._counted_until = time.perf_counter()
        finally:
            self.log.close()
        return self._finish()

    def _count_seconds(self) -> float:
        """Add the time since this was last called to the run's; the time now."""
        now = time.perf_counter()
        self.state.seconds += now - self._counted_until
        self._counted_until = now
        return now

    def _end_epochs(self) -> None:
        """Call `after_epoch` for the epochs that ended with this step."""
        state = self.state
        while self.has_epochs and state.ended < state.batches.finished():
            with random_state.shared_randomness(mix(self.config.seed, state.ended, _EPOCH)):
                self.method.after_epoch(state.ended, self.refresh)
            state.ended += 1

    def _is_logged(self, step: int) -> bool:
        """Whether a step has a row. Where nobody said how often, the first has one, too."""
        every = self.config.row_interval(self.steps)
        return step % every == 0 or step == self.steps or (step == 1 and self.config.log_every is None)

    def _due(self, every: int | None) -> bool:
        """Whether something that happens every so many steps (None: once an epoch), and at the end, happens now."""
        every, step = every or self.steps_an_epoch, self.state.step
        return step == self.steps or bool(every and step % every == 0)

    def _validate(self) -> bool:
        """Measure, if there is something to measure with; whether this is the best so far."""
        if self.validation is None:
            return False
        state, name = self.state, self.config.monitor
        figures = validate(self.method, self.validation, state.average)
        self.log.row({"step": state.step, "epoch": state.batches.epoch, **figures})
        if state.dense:
            _check_figure(figures, state.dense.figure, "swad")
            state.dense.check(figures[state.dense.figure])
            self._end_with_the_valley()
        if name not in figures and name == TrainConfig.monitor:
            return False
        _check_figure(figures, name, "monitor")
        value = -figures[name] if name.endswith("loss") else figures[name]
        if state.best is not None and not math.isnan(state.best) and not value > state.best:  # NaN is never better
            return False
        state.best, state.best_step = value, state.step
        return True

    def _end_with_the_valley(self) -> None:
        """Let the step that a valley ended with be the run's last one."""
        if self.state.dense and self.state.dense.ended:
            self.steps = self.state.step

    def _finish(self) -> Run:
        """Put the averaged weights, or the best ones, in place, save the model, write the report, say what was
        skipped."""
        state, config = self.state, self.config
        if state.average:
            state.average.put_in(self.method)
        if state.dense and not state.dense.put_in(self.method):
            self.log.say(f"note: {config.swad} was in no valley yet, so the model has the weights of the last step.")
        if config.final == "best" and self.checkpoints:
            load_weights(self.checkpoints.folder / "best", self.method)
        self.method.eval()
        self.method.hand_over()
        loader = state.batches.loader
        skipped = getattr(loader, "skipped", None)
        run = Run(self.method, self.out, state.step, self.log.rows, state.seconds, skipped)
        finish.save_model(run)
        for data in (loader, self.validation):
            finish.note_skipped(run, DataInfo.of(data).name, getattr(data, "skipped", None))
        if config.report:
            # A split model needs every process to embed.
            model = None if sharding.enabled() else run.model
            options: dict[str, Any] = {"seed": config.seed, "config": asdict(config)}
            if problem := finish.save_report(run, model, self.validation, loader, **options):
                self.log.say(problem)
        if skipped:
            self.log.say(str(skipped))
        return run


def _check_figure(figures: dict[str, float], name: str, setting: str) -> None:
    """Raise a `UserError` where validation gave no figure of the name that a setting holds."""
    if name not in figures:
        raise UserError(f"training.{setting} is {name!r}, but validation gave only {', '.join(sorted(figures))}.")
