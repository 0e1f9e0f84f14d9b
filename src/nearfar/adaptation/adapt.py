"""From somebody's own pairs to the best model that they allow, an honest figure for it, and a search over them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from nearfar import files
from nearfar.adaptation import opened_inputs as inputs
from nearfar.adaptation import trials as tried
from nearfar.adaptation.adapted_model import adapted
from nearfar.adaptation.frozen_features import FrozenFeatures
from nearfar.adaptation.kept_reading import KeptReading, ReadOnce, alone, keeping
from nearfar.adaptation.outcome import Adapted
from nearfar.adaptation.written import write_folder
from nearfar.data.batches.held_out import folds, hold_out
from nearfar.data.sources.source import Source
from nearfar.embedding.embed_source import embed
from nearfar.embedding.embeddings import Embeddings
from nearfar.evaluation.protocols.retrieval import retrieval
from nearfar.models.dual.dual_encoder import DualEncoder

STARTER = "starter"
MIRROR_UP_TO = 1000
"""Of so many records at most, each picture is read in the mirror too: more to learn from, at twice the time."""

SAME = 1 - 1e-5
"""Pictures whose embeddings have a cosine above this are the same picture."""


def adapt(
    data: Any,
    model: Any = STARTER,
    out: str | Path | None = None,
    *,
    test: Any = None,
    share: float = 0.2,
    minutes: float | None = None,
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

    The towers stay as they are and read the data once. What is tried on them, by cross-validation on the pairs that are
    adapted on: the model as it is; a linear and a kernel ridge map from its pictures to your captions, both in closed
    form; and the model beside the better map, their similarities added. The best becomes the model.

    Args:
        data: a source, or what `nearfar.data.open_source` opens: a folder, a table, shards, `hub:NAME`.
        model: what `nearfar.load` opens, or a `DualEncoder`; by default the starter model that comes with nearfar.
        out: a folder for the model with its card, report, figures and search index; None writes nothing. What the
            image tower made of pictures is kept there until all is done, so that a run that was killed goes on.
        test: data to measure on, instead of a share of `data`.
        share: how much of `data` is held out, by `nearfar.data.hold_out`: whole things (one picture, one caption, one
            `group`), chosen by their content, so that data added later move none of them.
        minutes: roughly how long it may take: where the towers need longer to read all pairs, fewer are taken. The
            first pictures tell how fast they are. None takes all.
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
    with ExitStack() as held:
        folder = None if out is None else files.folder(out)  # before the work, not after it
        if folder is not None:
            held.callback(alone(folder).release)
        source = inputs.pairs(data, columns, max_skipped)
        if source.remark:
            say(f"note: {source.remark}")
        start = inputs.dual_encoder(model)
        kept = held.enter_context(keeping(folder, start))
        if kept.before:
            say(f"reading: {kept.before:,} pictures were read by a run here that did not end: it goes on")
        source = inputs.affordable(source, start, minutes, batch_size, say, folder)
        if test is None:
            fitted_on, measured_on = hold_out(source, share)
        else:
            fitted_on, measured_on = source, inputs.pairs(test, {**columns, "split": None}, max_skipped)
        reading: dict[str, Any] = {"batch_size": batch_size, "max_skipped": max_skipped, "progress": progress}
        outcome, shown = _adapted(
            start, kept, fitted_on, measured_on, reading, share if test is None else None, seed, say
        )
        if outcome.is_worse and not keep_worse:
            outcome = outcome.undone(start)
        if folder is not None:
            embeddings = shown["before" if outcome.kept_start else "after"]
            write_folder(
                outcome,
                folder,
                source,
                measured_on,
                embeddings,
                encoder=ReadOnce(outcome.model, kept),
                start=inputs.name_of(model),
                index=index,
                **reading,
            )
    outcome.seconds = time.perf_counter() - began
    return outcome


def _adapted(
    start: DualEncoder,
    kept: KeptReading,
    fitted_on: Source,
    measured_on: Source,
    reading: dict[str, Any],
    share: float | None,
    seed: int,
    say: Callable[[str], None],
) -> tuple[Adapted, dict[str, Embeddings]]:
    """What is tried on some pairs, and measured on others, by the model before and after: the outcome, and the pairs
    that were measured on as each model embeds them."""
    fold = folds(fitted_on, tried.FOLDS, seed=seed)
    mirror = len(fitted_on) <= MIRROR_UP_TO
    features = FrozenFeatures.read(ReadOnce(start, kept), fitted_on, mirror=mirror, **reading).captioned()
    inputs.check_numbers(len(features), len(measured_on), share=share)
    say(f"data: {len(features):,} pairs of {fitted_on.name} to adapt to, {len(measured_on):,} to measure on")
    if skipped := features.data.skipped:
        say(f"{skipped.count:,} records are skipped")
    say("towers: they stay as they are; a map is worked out on what they see (`nearfar train` trains towers as well)")
    candidates = tried.try_all(features, torch.tensor(fold)[features.data.row], seed=seed)
    best = tried.chosen(candidates)
    say("tried: " + "; ".join(f"{each.name} {each.score:.3f}" for each in candidates) + f". Best: {best.name}")
    linear = next(trial for trial in candidates if trial.name == tried.LINEAR)
    models = {name: adapted(start, features, trial, seed=seed) for name, trial in (("ridge", linear), ("after", best))}
    every = {"before": start, **models}
    embedded = {name: embed(ReadOnce(each, kept), measured_on, **reading) for name, each in every.items()}
    figures = {name: retrieval(data, seed=seed) for name, data in embedded.items()}
    outcome = Adapted(
        model=models["after"],
        tried=candidates,
        chosen=best,
        before=figures["before"],
        ridge=figures["ridge"],
        after=figures["after"],
        pairs=len(features),
        data=fitted_on.name,
        measured_on=measured_on.name,
        skipped=skipped,
        copies=copies(embedded["before"].image, features.data.image),
    )
    return outcome, embedded


def copies(image: torch.Tensor, known: torch.Tensor) -> int:
    """How many pictures `[N, D]` are also among known ones `[M, D]`; unit rows both."""
    return sum(int((part @ known.T).amax(1).gt(SAME).sum()) for part in image.split(1024))
