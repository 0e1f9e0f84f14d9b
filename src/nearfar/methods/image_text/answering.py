"""Visual question answering, fine-tuned as in ALBEF (arXiv 2107.07651): a decoder on the fused states of question and
picture learns each answer by the share of annotators who gave it, with a momentum teacher's words mixed in.

    L = 1/Q sum_q sum_a w_qa sum_t [(1 - alpha) CE(word t of a) + alpha CE(teacher's words at t)]
"""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.methods.base import Batch, Method
from nearfar.methods.parts.distillation import Distillation
from nearfar.models.fusion.answer_decoder import answer_loss
from nearfar.models.fusion.fusion_answerer import FusionAnswerer
from nearfar.models.fusion.fusion_model import FusionModel


class Answering(Method):
    """Trains a model that answers questions. Needs batches with `answers` and `answer_weight`, which a loader makes of
    records with `answers`; a record's `weight` scales its question (the paper gives Visual Genome's 0.5).

    Args:
        model: a `FusionModel`, trained by ALBEF or TCL, say: its weights are copied into a `FusionAnswerer`, which is
            `.model`; or such an answerer already.
        decoder_layers: of the decoder; None: as many as the fusion layers (paper: 6). An answerer keeps its own.
        momentum: of the teacher, a copy of encoder and decoder.
        alpha: the teacher's share of the targets (paper: 0.4); 0 does without a teacher. The released code never passes
            it on, and so trains without.
        ramp_steps: steps over which alpha grows from 0 (paper: the first epoch).

    Logs `accuracy` (the share of answers, by weight, that the decoder would write word by word), `alpha`. Raises
    `UserError` on batches without answers.
    """

    answers = True
    views = "none"  # a mirrored or cropped picture may have another answer

    def __init__(
        self,
        model: FusionModel,
        *,
        decoder_layers: int | None = None,
        momentum: float = 0.995,
        alpha: float = 0.4,
        ramp_steps: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(model, FusionAnswerer):
            model = FusionAnswerer.of(model, decoder_layers=decoder_layers)
        self.model: FusionAnswerer = model
        self.distillation = (
            Distillation(self.model, momentum=momentum, alpha=alpha, ramp_steps=ramp_steps) if alpha else None
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if "answers" not in batch or "answer_weight" not in batch:
            raise UserError("answering needs answers to its questions: name their column with answers=NAME")
        share = batch["answer_weight"]  # (Q, K)
        questions, most = share.shape
        kept = share.flatten().nonzero().flatten()  # where a question has fewer than K answers, the rest is empty
        of = kept // most
        answers = {name: value[kept] for name, value in batch["answers"].items()}
        weights = share.flatten()[kept]
        if "weight" in batch:
            weights = weights * batch["weight"][of]
        logits = self._logits(self.model, batch, of, answers)
        alpha, soft = 0.0, None
        if self.distillation is not None and (alpha := self.distillation.alpha_now()):
            with torch.no_grad():
                soft = self._logits(self.distillation.teacher.module, batch, of, answers)
        ids, mask = answers["input_ids"], answers["attention_mask"]
        loss = answer_loss(logits, ids, mask, weights=weights, questions=questions, teacher_logits=soft, alpha=alpha)
        wrong = (logits.detach()[:, :-1].argmax(-1) != ids[:, 1:]) & mask[:, 1:].bool()
        accuracy = (share.flatten()[kept] * ~wrong.any(1)).sum() / questions
        return {"loss": loss, "accuracy": accuracy, "alpha": torch.tensor(alpha)}

    @staticmethod
    def _logits(model: FusionAnswerer, batch: Batch, of: Tensor, answers: dict[str, Tensor]) -> Tensor:
        """Each question is fused once, then read by all its answers."""
        states = model.fused_questions(batch["image"], batch["text"])
        return model.answer_logits(states[of], batch["text"]["attention_mask"][of], answers)

    def after_step(self, step: int) -> None:
        super().after_step(step)
        if self.distillation is not None:
            self.distillation.after_step()
