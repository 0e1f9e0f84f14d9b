"""Stages one after the other in one run folder, each run once, however often the whole is stopped and resumed.

    RUN/
      config.yaml      the whole recipe, where there is one
      1-first/         a run folder: config.yaml, history.jsonl, checkpoints/, model/, report.html
        columns.parquet    what it keeps for later stages, by record id
        stage.json         written last of all: the stage is finished, and is never run again
      2-second/
      model            -> 2-second/model
      report.html      all stages

What a stage takes from those before it, it reads from their folders, also when nothing was stopped in between: so a
resumed run does the same as one that was never stopped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nearfar import distributed as processes
from nearfar import files
from nearfar.errors import UserError
from nearfar.methods.base import Method
from nearfar.training.loop.run_folder import alone
from nearfar.training.stages.columns_file import Part
from nearfar.training.stages.joined_columns import join
from nearfar.training.state import dense_average, run_checkpoint, sharding

MARK = "stage.json"
PREVIOUS, BEST = "previous", "previous/best"
"""What names the stage before, and its best checkpoint, in recipes."""
BEST_MODEL = "model-best"
"""The folder of a stage with the model of its best checkpoint, where a later stage goes on from it."""


@dataclass(frozen=True)
class FinishedStage:
    """A stage that was run to its end, as it lies on the disk."""

    name: str
    folder: Path
    before: tuple[FinishedStage, ...] = field(default=(), repr=False)
    """The stages before this one, the first one first."""

    @property
    def model(self) -> Any:
        """Its trained model, loaded anew each time.

        Raises:
            UserError: its model is none that nearfar can save; see `restore`.
        """
        from nearfar.models import load

        if not (self.folder / "model").is_dir():
            raise UserError(
                f"stage {self.name!r} saved no model, as its model has no save_pretrained: make the method anew and "
                "give it its weights with previous.restore(method)."
            )
        return load(self.folder / "model")

    @property
    def best(self) -> Any:
        """The model of its best checkpoint, by the figure that `training.monitor` names, loaded anew each time.

        Raises:
            UserError: it was not validated, its model is none that nearfar can save, or its method keeps its model
                under another name than `model`; see `restore`.
        """
        model, folder = self.model, self._checkpoint(best=True)
        saved = run_checkpoint.weights(folder)
        inside = {name.removeprefix("model."): value for name, value in saved.items() if name.startswith("model.")}
        if not inside:
            raise UserError(
                f"stage {self.name!r}: its method keeps its model under another name than 'model': make the method "
                "anew and give it its weights with previous.restore(method, best=True)."
            )
        sharding.load_tensors(model.state_dict(), inside)
        for name, value in run_checkpoint.learned(folder).items():
            if hasattr(model, name):
                setattr(model, name, value)
        return model

    def save_best(self) -> Path:
        """Write the model of its best checkpoint into `model-best`, once, and return the folder. Every process calls
        it."""
        folder = self.folder / BEST_MODEL
        if not folder.is_dir():
            processes.barrier()  # all have read before one writes
            model = self.best
            if processes.is_main():
                with files.new_folder(folder) as temporary:
                    model.save_pretrained(temporary)
        processes.barrier()
        return folder

    @property
    def results(self) -> dict[str, Any]:
        """The results of its evaluation, by protocol; empty where there was none."""
        from nearfar.evaluation import load_results

        path = self.folder / "results.json"
        return load_results(path) if path.exists() else {}

    @property
    def measured_on(self) -> str | None:
        """What its results are of; None where there are none, or they do not say so."""
        path = self.folder / "results.json"
        return json.loads(path.read_text("utf-8")).get("about", {}).get("about") if path.exists() else None

    @property
    def remarks(self) -> list[str]:
        """What must be known of its figures: that they are not above chance."""
        from nearfar.evaluation.chance import warnings

        return list(warnings(self.results))

    def restore(self, method: Method, *, best: bool = False) -> Method:
        """Put the weights and buffers that this stage's method ended with (those of its best checkpoint, if so it was
        to end), or had at its best checkpoint, averaged where it kept a moving average, into `method`, which is made
        as it was."""
        folder = self._checkpoint(best=best)
        if best or run_checkpoint.settings(folder).get("final") == "best":
            run_checkpoint.load_weights(self._checkpoint(best=True), method)
        else:
            run_checkpoint.load_weights(folder, method)
            dense_average.put_in_from(folder, method)
        return method

    def join(self, source: Any, names: Mapping[str, str], *, part: Part = "training") -> Any:
        """`source` with columns that this stage kept, by record id: `{key of the record: column}`. `part` says whether
        it is the stage's training or validation data."""
        return join(source, {key: (self.folder, column) for key, column in names.items()}, part=part)

    def _checkpoint(self, *, best: bool) -> Path:
        if best:
            if not (self.folder / "checkpoints" / "best").is_dir():
                raise UserError(
                    f"stage {self.name!r} has no best checkpoint, as it was not validated: give it validation data, or "
                    "go on from its last one."
                )
            return (self.folder / "checkpoints" / "best").resolve()
        latest = run_checkpoint.Checkpoints(self.folder / "checkpoints", keep=1).latest()
        if latest is None:
            raise UserError(f"{self.folder} holds no checkpoint any more, from which {self.name!r} could be restored.")
        return latest


def run_in_order(
    out: Path,
    names: Sequence[str],
    run_one: Callable[[int, Path, tuple[FinishedStage, ...]], None],
    *,
    resume: bool,
    device: str | None = None,
    config: str | None = None,
) -> list[FinishedStage]:
    """Run each stage that is not finished.

    Args:
        out: the run folder.
        names: of the stages, in their order.
        run_one: runs the stage of this number in this folder, after those; goes on where the folder holds a part of it.
        resume: whether `out` may hold a part of the run.
        device: as in `TrainConfig`.
        config: the recipe, to be kept in `out`.

    Raises:
        UserError: a name that is none, `out` holds a run already, or another process trains in it.
    """
    check_names(names)
    folders = [out / f"{number}-{name}" for number, name in enumerate(names, start=1)]
    with alone(out, device):
        started = [folder for folder in folders if is_finished(folder) or list(folder.glob("checkpoints/step-*"))]
        if (started or list(out.glob("checkpoints/step-*"))) and not resume:
            raise UserError(f"{out} already holds a run: resume it (resume=True, --resume), or name another folder.")
        processes.barrier()  # all have checked before one writes
        if processes.is_main():
            with files.writing(out):
                files.remove_leftovers(out)
            if config is not None and not started:
                files.write(out / "config.yaml", config)
        finished: tuple[FinishedStage, ...] = ()
        for number, (name, folder) in enumerate(zip(names, folders, strict=True)):
            if not is_finished(folder):
                run_one(number, folder, finished)
                if processes.is_main():
                    files.write(folder / MARK, json.dumps({"stage": name, "finished": True}))
                processes.barrier()
            finished = (*finished, FinishedStage(name, folder, finished))
        if processes.is_main() and (folders[-1] / "model").is_dir():
            files.point(out / "model", f"{folders[-1].name}/model")
        processes.barrier()
    return list(finished)


def is_finished(folder: Path) -> bool:
    """Whether the stage in this folder was run to its end."""
    return (folder / MARK).is_file()


def check_names(names: Sequence[str]) -> None:
    """Raise a `UserError` where a stage's name is no plain word, or is there twice.

    >>> check_names(["heads", "heads"])
    Traceback (most recent call last):
    nearfar.errors.UserError: two stages are called 'heads': give each a name of its own.
    """
    if not names:
        raise UserError("there is no stage: name at least one.")
    for number, name in enumerate(names, start=1):
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name) or name == PREVIOUS:
            raise UserError(
                f"stage {number} is called {name!r}: a name is of letters, digits, - and _ (64 at most), and not "
                f"{PREVIOUS!r}."
            )
        if name in names[: number - 1]:
            raise UserError(f"two stages are called {name!r}: give each a name of its own.")


def write_report(out: Path, title: str, stages: Sequence[FinishedStage]) -> None:
    """Write `report.html` of all stages. Only the main process does."""
    if processes.is_main():
        from nearfar.evaluation.report.stages_report import write_stages_report

        write_stages_report(out, {stage.name: stage.folder for stage in stages}, title=title)
    processes.barrier()
