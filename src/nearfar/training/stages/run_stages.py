"""Stages in Python: `nearfar.training.run_stages`, for methods and data that one has in hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nearfar import distributed as processes
from nearfar import lookup
from nearfar.data.sources.source import Source
from nearfar.errors import UserError
from nearfar.methods.base import Method
from nearfar.training.config import TrainConfig
from nearfar.training.loop import finish, setting_checks
from nearfar.training.loop.run import Run
from nearfar.training.loop.training_loop import train
from nearfar.training.stages import columns
from nearfar.training.stages.finished import PREVIOUS, FinishedStage, is_finished, run_in_order, write_report
from nearfar.training.stages.joined_columns import join
from nearfar.training.state import random_state, sharding


@dataclass
class Stage:
    """One training among several.

    Args:
        name: a plain word, which no other stage has.
        method: what to train, or a function of the :class:`FinishedStage` before (None in the first) that makes it.
        data: as `nearfar.train` takes it, or a function likewise.
        validation: as `nearfar.train` takes it.
        config: all settings of the training, the seed among them.
        keep: columns to compute of the data, and of validation data that are a source, after the training, for later
            stages; see `nearfar.training.stages.columns`.
        columns: columns of earlier stages that the records of the data and of the validation data get, as
            `{"label": "previous/cluster"}` or `{"label": "STAGE/cluster"}`; both must be sources then.
        train: False takes the method's model as it is: it is saved, and its columns are kept.
    """

    name: str
    method: Method | Callable[[FinishedStage | None], Method]
    data: Any
    validation: Any = None
    config: TrainConfig = field(default_factory=TrainConfig)
    keep: Mapping[str, columns.Column] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    train: bool = True


def run_stages(stages: Sequence[Stage], out: str | Path, *, resume: bool = False) -> list[FinishedStage]:
    """Train stages one after the other, each in a folder of its own: `out/1-NAME`, `out/2-NAME`.

    Args:
        stages: in their order.
        out: the run folder. `out/model` is the last stage's model, `out/report.html` shows all stages.
        resume: go on where `out` stopped: inside a stage, or between two. A finished stage is not run again. On the CPU
            the weights at the end are the same to the bit as those of a run that was never stopped.

    Returns:
        The stages as they lie on the disk.

    Raises:
        UserError: two stages of one name, settings that do not fit, an `out` that already holds a run.

    >>> import tempfile, torch
    >>> from nearfar.methods.base import Method
    >>> class Fit(Method):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.slope = torch.nn.Parameter(torch.zeros(1))
    ...     def forward(self, batch):
    ...         return {"loss": (batch["image"] * self.slope - 1).square().mean()}
    >>> batches = [{"index": torch.arange(4), "image": torch.ones(4, 1)}]
    >>> quick = TrainConfig(steps=2, progress=False, report=False)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     first = Stage("first", Fit(), batches, config=quick)
    ...     second = Stage("second", lambda previous: previous.restore(Fit()), batches, config=quick)
    ...     [stage.folder.name for stage in run_stages([first, second], out)]
    ['1-first', '2-second']
    """
    names = [stage.name for stage in stages]
    for number, stage in enumerate(stages):
        _check_columns(stage, stages[:number])
        setting_checks.check_run(stage.config, validated=stage.validation is not None)
        columns.check_keep(stage.keep)
        if wrong := [name for name, column in stage.keep.items() if isinstance(column, str) and ":" in column]:
            raise UserError(f"stage {stage.name!r}, keep.{wrong[0]}: give the function itself here, not its name.")
        if isinstance(stage.method, Method):
            setting_checks.check_method(stage.config, type(stage.method))

    def run_one(number: int, folder: Path, before: tuple[FinishedStage, ...]) -> None:
        stage = stages[number]
        previous = before[-1] if before else None
        # A method in hand may share its model with one of an earlier stage, which must be as that one ended.
        for done, earlier in zip(before, stages, strict=False):
            if isinstance(earlier.method, Method) and earlier.train and done.name in restore:
                done.restore(earlier.method)
                restore.remove(done.name)
        random_state.seed_everything(stage.config.seed)
        method = stage.method if isinstance(stage.method, Method) else stage.method(previous)
        data = stage.data(previous) if callable(stage.data) else stage.data
        validation = stage.validation
        if stage.columns:
            names = {key: _place(where, before) for key, where in stage.columns.items()}
            data = join(data, names)
            validation = join(validation, names, part="validation") if isinstance(validation, Source) else validation
        method.zero_grad(set_to_none=True)
        run = _run_of(stage, method, data, validation, folder)
        if stage.keep and processes.is_main():
            from nearfar.models import load

            model = load(folder / "model") if sharding.enabled() else run.model
            columns.save(folder, stage.keep, model, _source(data), _source(validation))
        processes.barrier()

    out = Path(out)
    restore = {name for number, name in enumerate(names, start=1) if is_finished(out / f"{number}-{name}")}
    finished = run_in_order(out, names, run_one, resume=resume, device=stages[0].config.device if stages else None)
    if stages[-1].config.report:
        write_report(out, out.resolve().name, finished)
    return finished


def _run_of(stage: Stage, method: Method, data: Any, validation: Any, folder: Path) -> Run:
    if stage.train:
        return train(method, data, out=folder, validation=validation, resume=True, config=stage.config)
    run = Run(method.to(processes.start(stage.config.device)).eval(), folder, 0, [], 0.0)
    finish.save_model(run)
    return run


def _source(data: Any) -> Any:
    """The source of a loader, or the data themselves."""
    return getattr(data, "source", data) if not isinstance(data, Source) else data


def _place(where: str, before: Sequence[FinishedStage]) -> tuple[Path, str]:
    """The folder of the stage that `where` names, and its column."""
    name, _, column = where.partition("/")
    return next(stage.folder for stage in reversed(before) if name in (PREVIOUS, stage.name)), column


def _check_columns(stage: Stage, before: Sequence[Stage]) -> None:
    kept = {earlier.name: earlier.keep for earlier in before}
    if before:
        kept[PREVIOUS] = before[-1].keep
    for key, where in stage.columns.items():
        name, _, column = where.partition("/")
        known = [f"{earlier}/{own}" for earlier, keep in kept.items() for own in keep]
        lookup.check("kept column", [f"{name}/{column}"], known, where=f"stage {stage.name!r}, columns.{key}: ")
