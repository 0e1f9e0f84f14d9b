"""The end of a run: the model to use, and the report to read."""

from __future__ import annotations

from nearfar.training import files, processes, sharding
from nearfar.training.run import Run


def save_model(run: Run) -> None:
    """Write `model/` in the run folder, if the model can be saved (`save_pretrained`)."""
    if run.out and hasattr(run.model, "save_pretrained"):
        with sharding.whole(run.method):
            if processes.is_main():
                with files.new_folder(run.out / "model") as folder:
                    run.model.save_pretrained(folder)
        processes.barrier()


def save_report(run: Run) -> str | None:
    """Write the HTML report; returns why not, where it could not be written: a finished run must not fail over it."""
    if not (run.out and processes.is_main()):
        return None
    try:
        from nearfar.evaluation.report import write_report

        write_report(run.out)
    except Exception as error:
        return f"the report was not written: {type(error).__name__}: {error}"
    return None


def save_skipped(run: Run) -> None:
    """List in `skipped.txt` what the loader could not use."""
    if run.out and run.skipped and processes.is_main():
        files.write_text(run.out / "skipped.txt", f"{run.skipped.count} skipped:\n{run.skipped.listing()}\n")
