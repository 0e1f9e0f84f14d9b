"""The end of a run: the model to use, and the report to read."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np

from nearfar import distributed as processes
from nearfar import files
from nearfar.data.sources.skipped import Skipped
from nearfar.data.sources.source import Records, Source, Stream
from nearfar.training.loop.run import Run
from nearfar.training.state import sharding

SAMPLE = 500
"""Training records that are embedded for the report: enough for a gallery and a map, little beside the training."""

VALIDATION = "the validation data"
TRAINING = "training data, which the model has seen"


def save_model(run: Run) -> None:
    """Write `model/` in the run folder, if the model can be saved (`save_pretrained`), and what the method leaves there
    beside it."""
    if run.out and processes.is_main() and not sharding.enabled():
        run.method.leave(run.out)
    # Around a model that was given to peft stands another, which would write its adapters alone.
    model = run.model.get_base_model() if hasattr(run.model, "get_base_model") else run.model
    if not run.out or not hasattr(model, "save_pretrained"):
        return
    # A split model cannot say its weights alone: all processes put them together first.
    weights = {"state_dict": sharding.full_tensors(model.state_dict())} if sharding.enabled() else {}
    if processes.is_main():
        with files.new_folder(run.out / "model") as folder:
            model.save_pretrained(folder, **weights)
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
        options: further arguments of `write_report`.

    Returns:
        What could not be written or shown, and why: a finished run must not fail over its report.
    """
    if not (run.out and processes.is_main()):
        return None
    from nearfar.evaluation.report import whose, write_report

    problem, measured = None, {}
    try:
        measured = report_contents(model, validation, training, seed=seed, captions=captions)
    except Exception as error:
        problem = f"the report shows no pictures: {type(error).__name__}: {error}"
    try:
        if data := measured.get("embeddings"):
            note_skipped(run, data.source, data.skipped)
            run.measured_on = whose(data, measured["about"])
            save_card(run, model, measured["results"], trained_on=training, measured_on=run.measured_on)
            if measured["about"] == TRAINING:
                options["title"] = f"{options.get('title') or run.out.resolve().name}, on its own training data"
                run.remarks.append(
                    f"the report shows {data.counted} of the {TRAINING}: its figures say nothing of new ones. "
                    "data.validation=0.1 (validation=...) holds a share out to measure on"
                )
        # Results that lie in the folder are of other data than what this report shows.
        write_report(
            run.out,
            skipped=Skipped.by_source(run.left_out) or None,
            trained_on=named(training),
            **{"encoder": model, "results": {}, **measured},
            **options,
        )
    except Exception as error:
        problem = f"the report was not written: {type(error).__name__}: {error}"
    return problem


def named(data: Any) -> str | None:
    """The name and number of the training data, a source or a loader; None for other batches."""
    source = _source(data)
    if source is None:
        return None
    return source.name if isinstance(source, Stream) else f"{len(source):,} records of {source.name}"


def save_card(run: Run, model: Any, results: Mapping[str, Any], *, trained_on: Any, measured_on: str) -> None:
    """Write the card of the saved model anew, with its data and figures.

    Args:
        run: the finished run.
        model: its whole model.
        results: what was measured, by protocol.
        trained_on: the training data, a source or its loader.
        measured_on: what to call the data of the results.
    """
    from nearfar.evaluation.measures.result import as_markdown
    from nearfar.models.card import card

    if not (run.out and results and (run.out / "model" / "README.md").is_file()):
        return
    name = named(trained_on)
    data = "" if name is None else f" on {name}"
    about = (
        f"Trained by the method {type(run.method).__name__}{data}: {run.step:,} steps, {run.seconds / 60:.1f} minutes."
    )
    figures = f"Measured on {measured_on}:\n\n{as_markdown(results.values())}"
    files.write(
        run.out / "model" / "README.md", card(model, title=f"A model of {run.out.name}", about=about, figures=figures)
    )


def note_skipped(run: Run, name: str, skipped: Skipped | None) -> None:
    """Note what could not be used of some data, where nothing of them is noted, and list in `skipped.txt` all that was
    noted."""
    if not skipped or name in dict(run.left_out):
        return
    run.left_out.append((name, skipped))
    if run.out and processes.is_main():
        Skipped.by_source(run.left_out).write(run.out / "skipped.txt")


def report_contents(
    model: Any, validation: Any, training: Any, *, seed: int = 0, captions: int | None = None
) -> dict[str, Any]:
    """The part of `write_report`'s arguments that is measured now.

    Args:
        model: what was trained.
        validation: the validation data, a source or its loader; taken whole, as each validation took it.
        training: the training data likewise; `SAMPLE` records of it are taken where there are no validation data: drawn
            by `seed`, or the first of a stream.
        seed: of the sample and the intervals.
        captions: how many captions of each image count; None: all.

    Returns:
        Embeddings, results, and `about`: what the data is to the model. Nothing where the model is no encoder, or
        where neither data has what it reads: pictures, or texts for a model of texts alone.
    """
    from nearfar.evaluation import embed, evaluate
    from nearfar.models.loading import ENCODES

    if not any(all(hasattr(model, name) for name in names) for names in ENCODES):
        return {}

    side = "image" if hasattr(model, "encode_image") else "text"

    for data, about, most in ((validation, VALIDATION, None), (training, TRAINING, SAMPLE)):
        source = _source(data)
        if source is None or side not in source.columns:
            continue
        source = sample_of(source, most, seed=seed)
        # Whether too many are broken was judged in training, on all of them.
        embeddings = embed(model, source, captions=captions, max_skipped=1.0)
        results = evaluate(model, source, embeddings=embeddings, seed=seed)
        return {"encoder": model, "source": source, "embeddings": embeddings, "results": results, "about": about}
    return {}


def sample_of(source: Source | Stream, most: int | None, *, seed: int = 0) -> Source:
    """At most so many records: of a source drawn by `seed`, in their order; of a stream the first. None takes all, but
    of a stream no more than `SAMPLE`, as they are held in memory.

    >>> numbers = Records([{"text": str(i)} for i in range(1000)], name="numbers")
    >>> sample = sample_of(numbers, 3, seed=1)
    >>> sample.name, [int(record["text"]) for record in sample] == sorted(int(text) for text in sample.texts())
    ('3 of the 1,000 records of numbers', True)
    >>> sample_of(numbers, 1000) is numbers
    True
    """
    if isinstance(source, Stream):
        first = list(islice(source, most or SAMPLE))
        name = f"the first {len(first):,} records of {source.name}"
        return Records(first, name=name, classes=source.classes, domains=source.domains)
    if most is None or len(source) <= most:
        return source
    rows = sorted(np.random.default_rng(seed).choice(len(source), most, replace=False).tolist())
    return source.select(rows, name=f"{most:,} of the {len(source):,} records of {source.name}")


def _source(data: Any) -> Source | Stream | None:
    """The source itself, or that of a loader; None for other batches, and for functions."""
    data = getattr(data, "source", data) if not isinstance(data, Source | Stream) else data
    return data if isinstance(data, Source | Stream) else None
