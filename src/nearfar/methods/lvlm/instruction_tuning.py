"""Learning to answer: next-token prediction on the answer alone, after a picture and an instruction, as LLaVA tunes
(arXiv 2304.08485) and CG-VLM's second stage does (arXiv 2311.17945)."""

from __future__ import annotations

from torch import Tensor

from nearfar.distributed import mean_weight
from nearfar.errors import UserError
from nearfar.methods.base import Batch
from nearfar.methods.lvlm.captioning import Captioning


class InstructionTuning(Captioning):
    """Next-token prediction on answers, each after its own question as the prompt:

        L = - mean over tokens of log P(a_i | picture, question, a_<i)

    over the tokens of all answers, their ends among them; picture and question have no loss. Of a question with several
    answers each counts by its share. What is trained is what the model does not freeze: LLaVA and CG-VLM freeze the
    tower (`model.freeze: [image]` in a recipe).

    Args:
        model: a `nearfar.models.VisionLanguageModel`; its own prompt is not used, the question stands in its place.
        reduction: "tokens", or "captions" for the mean of each answer's own mean.

    The batch has `image` `[B, 3, S, S]` float32, `text`, the questions' tokens `[B, L]` int64, `answers`
    `[B * K, L]` int64 and `answer_weight` `[B, K]` float32, which a loader makes of records with `answers`. Logs
    `token_loss`, the mean over the tokens of all answers alike.

    Raises:
        UserError: a model that writes no captions, or batches without answers.

    Example:
        >>> import torch
        >>> from nearfar.data import train_tokenizer
        >>> from nearfar.models import vision_language_model
        >>> model = vision_language_model("tiny", tokenizer=train_tokenizer(["what colour is it? red", "blue"], 300))
        >>> batch = {"image": torch.rand(2, 3, 64, 64), "text": model.tokenize(["what colour is it?"] * 2)}
        >>> batch |= {"answers": model.tokenize(["red", "blue"]), "answer_weight": torch.ones(2, 1)}
        >>> sorted(InstructionTuning(model)(batch))
        ['loss', 'token_loss']
    """

    answers = True

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if "answers" not in batch or "answer_weight" not in batch:
            raise UserError("instruction needs answers to its questions: name their column with answers=NAME")
        share = batch["answer_weight"]  # [B, K]
        kept = share.flatten().nonzero().flatten()  # where a question has fewer than K answers, the rest is empty
        of = kept // share.shape[1]
        answers = {name: value[kept] for name, value in batch["answers"].items()}
        questions = {name: value[of] for name, value in batch["text"].items()}
        likelihood, mask = self.model.likelihoods(
            self.model.picture_tokens(batch["image"])[of.to(self.model.device)], answers, questions
        )
        weights = share.flatten()[kept].to(likelihood)[:, None] * mask
        if self.reduction == "captions":
            weights = weights / mask.sum(1, keepdim=True)
        loss, plain = (-(likelihood * each).sum() / each.sum() for each in (weights, mask))
        if self.training:  # the mean over the tokens, or answers, of all processes
            loss, plain = loss * mean_weight(weights.sum()), plain * mean_weight(mask.sum())
        return {"loss": loss, "token_loss": plain.detach()}
