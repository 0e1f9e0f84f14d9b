"""From pairs to adapt to and pairs to measure on: what is tried, the best of it as a model, and the figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nearfar.adaptation import opened_inputs as inputs
from nearfar.adaptation import trials as tried
from nearfar.adaptation.adapted_model import adapted
from nearfar.adaptation.frozen_features import FrozenFeatures, note_captionless
from nearfar.adaptation.kept_reading import Readings, agreed
from nearfar.adaptation.outcome import Adapted
from nearfar.adaptation.trainable import may_train, refusal
from nearfar.adaptation.trained_trials import Training
from nearfar.adaptation.training_plan import Cost, Kind, Train, TrainSetting, planned
from nearfar.data.batches.held_out import folds
from nearfar.data.sources.skipped import Skipped
from nearfar.data.sources.source import Source
from nearfar.embedding.embed_source import embed
from nearfar.embedding.embeddings import Embeddings
from nearfar.evaluation.protocols.retrieval import retrieval
from nearfar.machine import give_back
from nearfar.models.dual.dual_encoder import DualEncoder

SAME = 1 - 1e-5
"""Pictures whose embeddings have a cosine above this are the same picture."""

AFTERWARDS = 1.3
"""Readings of all pairs that follow training: by the trained towers, for the figures and the index."""


@dataclass(frozen=True)
class Work:
    """What is adapted, to what, and how.

    Attributes:
        start: the model.
        readings: what towers made of pictures.
        fitted_on, measured_on: the pairs to adapt to, and those to measure on.
        folder: where all is written; None where nothing is.
        reading: arguments of `nearfar.evaluation.embed`.
        share: of the pairs that are held out; None where others are measured on.
        train: whether to train; see `nearfar.adapt`.
        until: when it must be done, by `time.perf_counter`; None: whenever it is.
        seed: of folds and draws.
        say: takes a sentence on each step.
    """

    start: DualEncoder
    readings: Readings
    fitted_on: Source
    measured_on: Source
    folder: Path | None
    reading: dict[str, Any]
    share: float | None
    train: Train
    until: float | None
    seed: int
    say: Callable[[str], None]

    def done(self) -> tuple[Adapted, dict[str, Embeddings]]:
        """The outcome, and the pairs that were measured on as the model embeds them "before" and "after"."""
        features, each = self._read()
        give_back()  # each part leaves free memory between what it keeps: the next one would come on top of it
        fold = torch.tensor(folds(self.fitted_on, tried.FOLDS, seed=self.seed))[features.data.row]
        training = self._training(features)
        settings = self._settings(len(features), each)
        candidates = [*tried.try_all(features, fold, seed=self.seed), *training.trials(settings, fold)]
        self._say_tried(candidates)
        give_back()
        best, after = next(self._models(features, training, candidates))
        give_back()
        linear = next(trial for trial in candidates if trial.name == tried.LINEAR)
        models = {"before": self.start, "ridge": adapted(self.start, features, linear, seed=self.seed), "after": after}
        embedded = {
            name: embed(self.readings.of(model), self.measured_on, **self.reading) for name, model in models.items()
        }
        note_captionless(embedded["before"])
        figures = {name: retrieval(data, seed=self.seed) for name, data in embedded.items()}
        outcome = Adapted(
            model=after,
            tried=candidates,
            chosen=best,
            before=figures["before"],
            ridge=figures["ridge"],
            after=figures["after"],
            pairs=len(features),
            data=self.fitted_on.name,
            measured_on=self.measured_on.name,
            skipped=Skipped.by_source(
                [
                    *((source.name, source.skipped) for source in (self.fitted_on, self.measured_on)),
                    (self.fitted_on.name, features.data.skipped),
                    (self.measured_on.name, embedded["before"].skipped),
                ]
            ),
            copies=copies(embedded["before"].image, features.data.image),
        )
        return outcome, embedded

    def _read(self) -> tuple[FrozenFeatures, float]:
        """The pairs to adapt to through the towers, and the seconds that one took."""
        mirror = len(self.fitted_on) <= inputs.MIRROR_UP_TO
        reader, began = self.readings.of(self.start), time.perf_counter()
        features = FrozenFeatures.read(reader, self.fitted_on, mirror=mirror, **self.reading).captioned()
        each = reader.kept.each(time.perf_counter() - began, len(self.fitted_on))
        self.readings.write()  # what is tried may take longer than the reading did
        inputs.check_numbers(len(features), len(self.measured_on), share=self.share, name=self.fitted_on.name)
        inputs.check_captions(features.data.captions, self.fitted_on.name)
        held = len(self.measured_on)
        self.say(f"data: {len(features):,} pairs of {self.fitted_on.name} to adapt to, {held:,} to measure on")
        if skipped := features.data.skipped:
            self.say(str(skipped))
        return features, each

    def _settings(self, pairs: int, each: float) -> list[TrainSetting]:
        """What is trained; what a run that was killed had settled on."""
        plan = {"data": self.fitted_on.name, "records": pairs, "train": self.train, "device": self.start.device.type}
        plain, why = agreed(self.folder, plan, "training", lambda: self._planned(pairs, each))
        self.say(why)
        return [TrainSetting(**setting) for setting in plain]

    def _planned(self, pairs: int, each: float) -> tuple[list[dict[str, Any]], str]:
        kinds: tuple[Kind, ...] = ("lora", "towers")
        device, may = self.start.device.type, may_train(self.train, self.start)
        possible = {kind: refusal(self.start, kind) if may else None for kind in kinds}
        left = None
        if self.until is not None:
            left = self.until - time.perf_counter() - AFTERWARDS * each * (pairs + len(self.measured_on))
        cost = Cost(pairs, each, self.reading["batch_size"])
        settings, why = planned(self.train, device, cost, possible, left)
        return [asdict(setting) for setting in settings], why

    def _training(self, features: FrozenFeatures) -> Training:
        return Training(
            self.start,
            self.readings.folder,
            self.fitted_on,
            features,
            chunk=self.reading["batch_size"],
            seed=self.seed,
            progress=self.reading["progress"],
            say=self.say,
        )

    def _models(
        self, features: FrozenFeatures, training: Training, candidates: list[tried.Trial]
    ) -> Iterator[tuple[tried.Trial, DualEncoder]]:
        """The candidates as models, the best first; not those whose training on all pairs fails."""
        for trial in tried.ranked(candidates):
            if not isinstance(trial.setting, TrainSetting):
                yield trial, adapted(self.start, features, trial, seed=self.seed)
            elif (model := training.final(trial.setting)) is not None:
                yield trial, model

    def _say_tried(self, candidates: list[tried.Trial]) -> None:
        trained = any(isinstance(trial.setting, TrainSetting) for trial in candidates)
        each = [f"{trial.name} {trial.first if trained else trial.score:.3f}" for trial in candidates]
        where = " (on the first fold, the one that training is measured on)" if trained else ""
        self.say(f"tried{where}: {'; '.join(each)}. Best: {tried.ranked(candidates)[0].name}")


def copies(image: torch.Tensor, known: torch.Tensor) -> int:
    """How many pictures `[N, D]` are also among known ones `[M, D]`; unit rows both."""
    return sum(int((part @ known.T).amax(1).gt(SAME).sum()) for part in image.split(1024))
