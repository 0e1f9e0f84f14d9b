"""Candidates that train, by the loop of `nearfar.train`: tried on the first fold, the chosen one on all pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from nearfar.adaptation.frozen_features import FrozenFeatures
from nearfar.adaptation.kept_reading import fingerprint
from nearfar.adaptation.trainable import trainable
from nearfar.adaptation.training_plan import NAMES, WARMUP, TrainSetting
from nearfar.adaptation.trials import FEW, Trial, score
from nearfar.data.batches.data_info import DataInfo
from nearfar.data.sources.source import Source
from nearfar.embedding.embed_source import embed
from nearfar.methods.image_text.clip import CLIP
from nearfar.models.dual.dual_encoder import DualEncoder
from nearfar.models.folder_checks import PARTS
from nearfar.training.loop.guard import NotFinite
from nearfar.training.loop.training_loop import train

CHECKPOINTS = 10
"""Of a run: what one that is killed may lose is a tenth."""


@dataclass(frozen=True)
class Training:
    """What all that is trained in one adaptation has in common.

    Attributes:
        start: the model that each candidate starts from; it stays as it is.
        folder: where runs keep their checkpoints, so that one that was killed goes on.
        source: the pairs, those that `features` are of.
        chunk: pairs whose activations are held at a time.
        seed: of the order, the captions and the views.
        progress: show bars.
        say: takes a sentence on each step.
    """

    start: DualEncoder
    folder: Path
    source: Source
    features: FrozenFeatures
    chunk: int
    seed: int
    progress: bool
    say: Callable[[str], None]

    def trials(self, settings: list[TrainSetting], fold: Tensor) -> list[Trial]:
        """Each setting trained on all folds but the first and measured on that. `fold` `[N]` int64 numbers each
        record's. What fails is named and left out."""
        tried = []
        fit, held = self._records((fold != 0).nonzero()[:, 0]), self._records((fold == 0).nonzero()[:FEW, 0])
        for setting in settings:
            if (model := self.trained(setting, fit)) is not None:
                measured = embed(model, held, batch_size=self.chunk, progress=self.progress)
                tried.append(self._trial(setting, score(measured), model.temperature))
        return tried

    def final(self, setting: TrainSetting) -> DualEncoder | None:
        """The model of a setting, trained on all pairs; None where that fails."""
        return self.trained(setting, self._records(torch.arange(len(self.features))))

    def trained(self, setting: TrainSetting, source: Source) -> DualEncoder | None:
        """A model trained on a source, its adapters folded in, all of it frozen; None where that fails: it
        diverges, or the device has too little memory."""
        steps = setting.steps(len(source))
        method = CLIP(trainable(self.start, setting.kind), exclude_duplicates=True)
        try:
            run = train(
                method,
                source,
                out=self.folder / self._name(setting, source),
                resume=True,
                steps=steps,
                batch_size=setting.batch_size,
                chunk=self.chunk if self.chunk < setting.batch_size else None,
                lr=setting.lr,
                warmup=WARMUP,
                seed=self.seed,
                device=str(self.start.device),
                save_every=max(1, steps // CHECKPOINTS),
                keep=1,
                progress=self.progress,
                report=False,
            )
        except (NotFinite, torch.OutOfMemoryError) as error:
            why = (
                "diverged" if isinstance(error, NotFinite) else "needs more memory (a smaller --batch-size needs less)"
            )
            self.say(f"{NAMES[setting.kind]} at a learning rate of {setting.lr:g} {why}: it is left out")
            return None
        model: DualEncoder = run.model
        return model.merge_lora().freeze(*PARTS).eval()

    def _records(self, rows: Tensor) -> Source:
        return self.source.select(self.features.data.row[rows].tolist())

    def _trial(self, setting: TrainSetting, score: float, temperature: float | None) -> Trial:
        return Trial(NAMES[setting.kind], score, setting, temperature=temperature, first=score)

    def _name(self, setting: TrainSetting, source: Source) -> str:
        """A name that no other model, data or setting has: what an earlier run left under it is of this one."""
        made_of = (fingerprint(self.start), DataInfo.of(source).fingerprint, setting, self.chunk, self.seed)
        return f"training-{blake2b(repr(made_of).encode(), digest_size=8).hexdigest()}"
