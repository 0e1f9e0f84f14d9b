"""COCONUT (arXiv 2310.02699): learning to understand speech class by class. New classes are learned with a few
rehearsed samples of the old ones, which find their class where a frozen teacher saw it; sounds are drawn to texts."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from nearfar.errors import UserError, at_least
from nearfar.losses.supcon import rehearsal_contrastive_loss, supervised_cross_modal_loss
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.speech.transcription import check_transcribes, mean_token_loss, token_losses
from nearfar.models.sound.sound_tower import masked_mean


class COCONUT(EmbeddingMethod):
    """One task of class-incremental learning: `L = L_ASR + lambda_MM L_MM + lambda_NSPT L_NSPT`. With both weights 0 it
    is experience replay, to the bit (`Transcription`); without rehearsed samples there is no L_NSPT, so that the first
    task is ordinary training, and may set its weight to 0, which saves the teacher's pass. The teacher is the model as
    it is given, the end of the task before: frozen, in evaluation mode.

    The paper's body was not readable to those who wrote this: what its abstract and reviews leave open is a setting.

    Args:
        model: a `nearfar.models.SoundTranscriber`, as the task before left it, or any model with its `encode`,
            `decode`, `embed`, `sequences` and the two projections.
        lambda_mm: weight of the contrast of new sounds and their texts; 0 for none.
        lambda_nspt: weight of the contrast of rehearsed sounds with the teacher; 0 for none.
        temperature: of both.
        negatives_from: "student" (NSPT, the paper's), or "teacher" (NTPT, its baseline).
        denominator, negatives, self_positive: of that contrast, as `nearfar.losses.RehearsalContrastive` has them.
        positives: which texts are positives of a sound: those of its "class", or its own ("instance").
        mm: in which tasks sounds are drawn to texts: "all", or the "first", in which nothing is rehearsed.
        distil: "none", or "sequence" (S-KD, arXiv 2305.13899): of a rehearsed sound the student learns the words and
            the class that the teacher writes, in place of the true ones.
        beams: of the teacher's search then (the paper searches by beams; 1, greedy, costs least).

    Raises:
        UserError: the model writes no words, or a choice that there is not.

    Example:
        >>> from nearfar.data import train_tokenizer
        >>> from nearfar.models import sound_transcriber
        >>> model = sound_transcriber(tokenizer=train_tokenizer(["stop now"], 300), classes=2)
        >>> batch = {"audio": {"input_features": torch.rand(2, 40, 40)}, "text": model.tokenize(["stop now", "now"])}
        >>> batch |= {"label": torch.tensor([0, 1]), "is_memory": torch.tensor([1, 0])}
        >>> sorted(COCONUT(model)(batch))
        ['asr', 'loss', 'mm', 'nspt']
    """

    reads = ("label", "is_memory")

    def __init__(
        self,
        model: Any,
        *,
        lambda_mm: float = 0.1,
        lambda_nspt: float = 1.0,
        temperature: float = 0.1,
        negatives_from: str = "student",
        denominator: str = "softmax",
        negatives: str = "all",
        self_positive: bool = True,
        positives: str = "class",
        mm: str = "all",
        distil: str = "none",
        beams: int = 1,
    ) -> None:
        super().__init__()
        check_transcribes(model)
        for name, value, known in (
            ("negatives_from", negatives_from, ("student", "teacher")),
            ("denominator", denominator, ("softmax", "literal")),
            ("negatives", negatives, ("all", "current")),
            ("positives", positives, ("class", "instance")),
            ("mm", mm, ("all", "first")),
            ("distil", distil, ("none", "sequence")),
        ):
            if value not in known:
                raise UserError(f"{name}={value!r}: choose one of {', '.join(known)}")
        for name, weight in (("lambda_mm", lambda_mm), ("lambda_nspt", lambda_nspt)):
            if not weight >= 0:
                raise UserError(f"{name}={weight}: must be 0 or above")
        if not temperature > 0:
            raise UserError(f"temperature={temperature}: must be above 0")
        self.model, self.temperature = model, temperature
        self.lambda_mm, self.lambda_nspt = lambda_mm, lambda_nspt
        at_least(1, beams=beams)
        self.positives, self.mm, self.distil, self.beams = positives, mm, distil, beams
        self.rehearsal: dict[str, Any] = {
            "negatives_from": negatives_from,
            "denominator": denominator,
            "negatives": negatives,
            "self_positive": self_positive,
        }
        self.teacher: Any = None
        if lambda_nspt or distil != "none":
            self.teacher = deepcopy(model).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> COCONUT:
        """The student's mode; the teacher stays in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        states, mask = self.model.encode(batch["audio"])
        made = token_losses(self.model, states, mask, self._targets(batch))
        pooled = masked_mean(states, mask)
        if self.lambda_mm:
            made["a"] = self.model.sound_projection(pooled)
            made["t"] = self.model.text_projection(masked_mean(*self.model.embed(batch["text"])))
        if self.lambda_nspt:
            with torch.no_grad():
                made["a_teacher"] = masked_mean(*self.teacher.encode(batch["audio"]))  # a_k^{n-1}
            made["a_student"] = pooled  # a_k^n
        return made

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        asr, label = mean_token_loss(embeddings), batch["label"].to(embeddings["tokens"].device)
        memory = _rehearsed(batch).to(label.device)
        out = {"loss": asr, "asr": asr.detach()}
        if self.lambda_mm and not memory.all() and (self.mm == "all" or not memory.any()):
            new = (each[~memory] for each in (embeddings["a"], embeddings["t"], label))
            mm = supervised_cross_modal_loss(*new, temperature=self.temperature, positives=self.positives)
            out |= {"loss": out["loss"] + self.lambda_mm * mm, "mm": mm.detach()}
        if self.lambda_nspt and memory.any():
            nspt = rehearsal_contrastive_loss(
                embeddings["a_student"],
                embeddings["a_teacher"],
                label,
                memory,
                temperature=self.temperature,
                **self.rehearsal,
            )
            out |= {"loss": out["loss"] + self.lambda_nspt * nspt, "nspt": nspt.detach()}
        return out

    def _targets(self, batch: Batch) -> Batch:
        """The batch's classes and words; with S-KD those that the teacher writes of what is rehearsed."""
        memory = _rehearsed(batch)
        if self.distil == "none" or not memory.any():
            return batch
        rehearsed = {name: value[memory] for name, value in batch["audio"].items()}
        heard = self.teacher.transcribe(rehearsed, beams=self.beams)
        label = batch["label"].clone()
        words = self.model.tokenizer.batch_decode(batch["text"]["input_ids"].tolist(), skip_special_tokens=True)
        for row, transcript in zip(memory.nonzero().flatten().tolist(), heard, strict=True):
            label[row], words[row] = transcript.label, transcript.text
        return {**batch, "label": label, "text": self.model.tokenize(words)}

    def learned(self) -> dict[str, float]:
        return {"temperature": self.temperature} if self.lambda_mm else {}


def _rehearsed(batch: Batch) -> Tensor:
    """Which samples are rehearsed, bool `[B]`; none where the batch does not say."""
    if "is_memory" not in batch:
        return torch.zeros(len(batch["label"]), dtype=torch.bool)
    memory: Tensor = batch["is_memory"]
    return memory > 0
