"""From somebody's own pairs to the best model that they allow, an honest figure for it, and a search over them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.adaptation import opened_inputs as inputs
from nearfar.adaptation.best_model import Work
from nearfar.adaptation.kept_reading import alone, keeping
from nearfar.adaptation.outcome import Adapted
from nearfar.adaptation.trainable import may_train
from nearfar.adaptation.training_plan import Train
from nearfar.adaptation.written import write_folder
from nearfar.data.batches.held_out import hold_out
from nearfar.errors import UserError
from nearfar.machine import give_back

STARTER = "starter"


def adapt(
    data: Any,
    model: Any = STARTER,
    out: str | Path | None = None,
    *,
    test: Any = None,
    test_split: str | None = None,
    share: float = 0.2,
    minutes: float | None = None,
    train: Train = "auto",
    device: str | None = None,
    keep_worse: bool = False,
    index: bool = True,
    seed: int = 0,
    batch_size: int = 32,
    max_skipped: float = 0.1,
    progress: bool = False,
    say: Callable[[str], None] | None = None,
    **columns: Any,
) -> Adapted:
    """Fit a model to your own pairs of pictures and texts, and measure what that brought on pairs held out.

    The towers read the data once. What is tried on them, by cross-validation on the pairs that are adapted on: the
    model as it is; a linear and a kernel ridge map from its pictures to your captions, both in closed form; and the
    model beside the better map, their similarities added. On a GPU also the model trained on the pairs by CLIP's loss:
    with low-rank adapters on its towers, from 10,000 pairs on with all its weights, too. The best becomes the model.

    Args:
        data: a source, or what `nearfar.data.open_source` opens: a folder, a table, shards, `hub:NAME`.
        model: what `nearfar.load` opens, or a `DualEncoder`; by default the starter model that comes with nearfar.
        out: a folder for the model with its card, report, figures and search index; None writes nothing. What the
            image tower made of pictures is kept there until all is done, so that a run that was killed goes on.
        test: data to measure on, instead of a share of `data`.
        test_split: which split of `test`.
        share: how much of `data` is held out, by `nearfar.data.hold_out`: whole things (one picture, one caption, one
            `group`), chosen by their content, so that data added later move none of them.
        minutes: roughly how long it may take: where the towers need longer to read all pairs, fewer are taken. The
            first pictures tell how fast they are. What is trained gets the time that is left. None takes all.
        train: "auto" trains on a GPU; "none" never; "lora" and "towers" (all weights) on a CPU, too.
        device: where the model runs: "cpu", "cuda", ...; None takes the accelerator if there is one.
        keep_worse: take the adapted model even where the held-out pairs say that it is worse than it was.
        index: make a search index of the pictures in `out`.
        seed: of folds and draws.
        batch_size: pictures that go through a tower at a time.
        max_skipped: share of records that may be unusable.
        progress: show progress bars.
        say: takes a sentence on each step as it is done, `print` say.
        columns: `image`, `text`, `label` and other options of `nearfar.data.open_source`.

    Returns:
        An `Adapted`: `model`, what was `tried`, and `before`, `ridge` and `after`, each a `Result` of retrieval on the
        pairs held out.

    Raises:
        UserError: data or model of a kind that cannot be adapted, too few pairs, too many broken ones.

    >>> import nearfar
    >>> outcome = nearfar.adapt("world/emoji", split="val", styles=["noto"])
    >>> outcome.after["text_to_image_R@10"] > outcome.after.metrics["text_to_image_R@10"].chance
    True
    """
    say, began = say or (lambda _: None), time.perf_counter()
    if test is None and test_split is not None:
        raise UserError(f"test_split={test_split!r} is a split of the data to measure on: name them with test=DATA")
    with ExitStack() as held:
        folder = None if out is None else files.folder(out)  # before the work, not after it
        if folder is not None:
            held.callback(alone(folder).release)
        source = inputs.pairs(data, columns, max_skipped)
        for remark in inputs.remarks(source):
            say(f"note: {remark}")
        if source.skipped:
            say(str(source.skipped))
        start = inputs.dual_encoder(model, device)
        readings = held.enter_context(keeping(folder))
        if before := readings.of(start).kept.before:
            say(f"reading: {before:,} pictures were read by a run here that did not end: it goes on")
        spent = {"fitted": 1 - share if test is None else 1.0, "part": 1 / 3 if may_train(train, start) else 2 / 3}
        source = inputs.affordable(source, readings.of(start), minutes, batch_size, say, folder, **spent)
        if test is None:
            fitted_on, measured_on = hold_out(source, share)
        else:
            fitted_on, measured_on = source, inputs.pairs(test, {**columns, "split": test_split}, max_skipped)
            for remark in inputs.remarks(measured_on):
                say(f"note: {remark}")
        reading: dict[str, Any] = {"batch_size": batch_size, "max_skipped": max_skipped, "progress": progress}
        outcome, shown = Work(
            start,
            readings,
            fitted_on,
            measured_on,
            folder,
            reading,
            share=share if test is None else None,
            train=train,
            until=None if minutes is None else began + 60 * minutes,
            seed=seed,
            say=say,
        ).done()
        if outcome.is_worse and not keep_worse:
            outcome = outcome.undone(start)
        give_back()
        outcome.seconds = time.perf_counter() - began
        if folder is not None:
            embeddings = shown["before" if outcome.kept_start else "after"]
            write_folder(
                outcome,
                folder,
                source,
                measured_on,
                embeddings,
                encoder=readings.of(outcome.model),
                start=inputs.name_of(model),
                index=index,
                **reading,
            )
    outcome.seconds = time.perf_counter() - began
    return outcome
