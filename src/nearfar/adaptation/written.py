"""The folder of an adapted model: all that is needed to use it, and to believe it."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.adaptation.model_card import model_card
from nearfar.adaptation.outcome import Adapted
from nearfar.data.sources.source import Source
from nearfar.embedding.embeddings import Embeddings
from nearfar.evaluation.measures.result import Result

MOST_CLASSES = 1000
"""Classes above which their names are not compared with each picture."""


def write_folder(
    outcome: Adapted,
    out: Path,
    source: Source,
    measured_on: Source,
    embeddings: Embeddings,
    *,
    encoder: Any,
    start: str,
    index: bool,
    **reading: Any,
) -> None:
    """Write `model/` (with its card), `adapt.json`, `results.json`, `report.html`, `skipped.txt` and `index/`.
    `encoder` embeds as the model does."""
    from nearfar.evaluation import save_results
    from nearfar.evaluation.report import write_report
    from nearfar.search.index.building import build

    with ExitStack() as finished:
        model = finished.enter_context(files.new_folder(out / "model"))
        outcome.model.save_pretrained(model)
        files.write(model / "README.md", model_card(outcome, start))
        if index:
            # Made anew: an index in this folder is of another model. Both take their places together.
            build(
                encoder,
                source,
                finished.enter_context(files.new_folder(out / "index")),
                model=str((out / "model").resolve()),
                batch_size=reading["batch_size"],
                max_skipped=1.0,
                progress=reading["progress"],
            )
    files.write(out / "adapt.json", json.dumps(outcome.as_dict(), indent=2, ensure_ascii=False) + "\n")
    outcome.skipped.write(out / "skipped.txt")
    results = {"retrieval": outcome.before if outcome.kept_start else outcome.after}
    for name, result in (("the model as it was", outcome.before), ("a linear ridge map alone", outcome.ridge)):
        results[f"retrieval, {name}"] = replace(result, name=f"retrieval, {name}")
    results |= by_class(outcome.model, embeddings)
    save_results(results, out / "results.json", model=str(out / "model"), data=outcome.measured_on)
    write_report(
        out,
        encoder=outcome.model,
        source=measured_on,
        embeddings=embeddings,
        results=results,
        config=outcome.as_dict(),
        skipped=outcome.skipped or None,
        title=f"adapted to {outcome.data}",
        about="pairs held out",
        trained_on=outcome.adapted_to,
    )


def by_class(model: Any, data: Embeddings) -> dict[str, Result]:
    """How well class names tell the pictures that were measured on, where they have classes: which of them are found
    badly says more than any mean."""
    from nearfar.evaluation import evaluate, left_out

    if "zero_shot" in left_out(model, data) or len(data.classes or ()) > MOST_CLASSES:
        return {}
    return evaluate(model, data, ["zero_shot"])
