"""The end of a run: the model to use, and the report to read."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from nearfar import files
from nearfar.data.source import Source
from nearfar.training import processes, sharding
from nearfar.training.config import TrainConfig
from nearfar.training.run import Run


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


def save_report(run: Run, config: TrainConfig, held_out: Any) -> str | None:
    """Write the HTML report, with what `held_out` shows if it is a source. Returns why not, where it could not be
    written: a finished run must not fail over its report."""
    if not (run.out and processes.is_main()):
        return None
    shown = {"encoder": run.model, "source": held_out} if _can_be_shown(run, held_out) else {}
    try:
        from nearfar.evaluation.report import write_report

        write_report(run.out, config=asdict(config), skipped=run.skipped or None, **shown)
    except Exception as error:
        return f"the report was not written: {type(error).__name__}: {error}"
    return None


def _can_be_shown(run: Run, held_out: Any) -> bool:
    """A split model needs every process to embed, so its pictures are left to `nearfar evaluate --report`."""
    encodes = hasattr(run.model, "encode_image") and hasattr(run.model, "encode_text")
    return isinstance(held_out, Source) and encodes and not sharding.wanted()


def save_skipped(run: Run) -> None:
    """List in `skipped.txt` what the loader could not use."""
    if run.out and run.skipped and processes.is_main():
        files.write(run.out / "skipped.txt", f"{run.skipped.count} skipped:\n{run.skipped.listing()}\n")
