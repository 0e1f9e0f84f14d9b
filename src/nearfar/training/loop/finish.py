"""The end of a run: the model to use, and the report to read."""

from __future__ import annotations

from typing import Any

from nearfar import distributed as processes
from nearfar import files
from nearfar.training.loop.report_data import report_contents
from nearfar.training.loop.run import Run
from nearfar.training.state import sharding


def save_model(run: Run) -> None:
    """Write `model/` in the run folder, if the model can be saved (`save_pretrained`)."""
    if not run.out or not hasattr(run.model, "save_pretrained"):
        return
    # A split model cannot say its weights alone: all processes put them together first.
    weights = {"state_dict": sharding.full_tensors(run.model.state_dict())} if sharding.wanted() else {}
    if processes.is_main():
        with files.new_folder(run.out / "model") as folder:
            run.model.save_pretrained(folder, **weights)
    processes.barrier()


def save_report(
    run: Run, model: Any, validation: Any, training: Any, *, seed: int, captions: int | None = None, **options: Any
) -> str | None:
    """Write the HTML report, with pictures and figures of the validation data, else of some training data.

    Args:
        run: the finished run.
        model: its whole model; None, where it is split over the processes, shows curves alone (the pictures are left to
            `nearfar evaluate --report`).
        validation, training: the data, as sources or loaders.
        seed: of what is drawn.
        captions: how many captions of each image count.
        told: further arguments of `write_report`.

    Returns:
        What could not be written or shown, and why: a finished run must not fail over its report.
    """
    if not (run.out and processes.is_main()):
        return None
    from nearfar.evaluation.report import write_report

    problem, measured = None, {}
    try:
        measured = report_contents(model, validation, training, seed=seed, captions=captions)
    except Exception as error:
        problem = f"the report shows no pictures: {type(error).__name__}: {error}"
    try:
        # Results that lie in the folder are of other data than what is shown here.
        write_report(run.out, skipped=run.skipped or None, **{"results": {}, **measured}, **options)
    except Exception as error:
        problem = f"the report was not written: {type(error).__name__}: {error}"
    return problem


def save_skipped(run: Run) -> None:
    """List in `skipped.txt` what the loader could not use."""
    if run.out and run.skipped and processes.is_main():
        files.write(run.out / "skipped.txt", f"{run.skipped.count} skipped:\n{run.skipped.listing()}\n")
