"""SimCTG (arXiv 2202.06417): fine-tune a language model so that the states of different tokens spread out, which is
what contrastive search (arXiv 2210.14140) needs of an anisotropic model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nearfar.distributed import mean_weight
from nearfar.losses.simctg_loss import Reduction, SimCTGLoss
from nearfar.methods.base import Batch, Method


class SimCTG(Method):
    """L = L_MLE + weight * L_CL over texts: next-token cross-entropy, and the hinge on cosines inside a text.

    Args:
        model: a `nearfar.models.language.model.LanguageModel`; `.model.lm` is what to decode with.
        margin: rho, 0.5 in the paper.
        weight: of L_CL; 1 in the paper, 0 trains by likelihood alone (the baseline).
        reduction: see `nearfar.losses.simctg_loss.SimCTGLoss`.

    The batch's `text` holds `input_ids` and `attention_mask` `[B, T]`, padded on the right. The mask says what is
    padding: an end token inside a text counts, even where it doubles as the padding token. With several processes both
    terms are means over the words of all of them, however long each process's texts are.

    Example:
        >>> import torch
        >>> from nearfar.data.fields.text import train_tokenizer
        >>> from nearfar.models.language import language_model
        >>> model = language_model("tiny", tokenizer=train_tokenizer(["a red car", "a red cat"], 300))
        >>> ids = torch.randint(5, 100, (2, 6))
        >>> sorted(SimCTG(model)({"text": {"input_ids": ids, "attention_mask": torch.ones_like(ids)}}))
        ['contrastive_loss', 'loss', 'mle_loss']
    """

    views = "none"

    def __init__(
        self, model: nn.Module, *, margin: float = 0.5, weight: float = 1.0, reduction: Reduction = "pairs"
    ) -> None:
        super().__init__()
        self.model = model
        self.weight = weight
        self.contrastive = SimCTGLoss(margin, reduction=reduction)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        ids, mask = batch["text"]["input_ids"], batch["text"]["attention_mask"]
        logits, hidden = self.model({"input_ids": ids, "attention_mask": mask})
        targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        words = (targets != -100).sum()
        mle = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets.flatten(), reduction="sum")
        mle = mle / words.clamp(min=1)  # texts of one token have none that follows
        contrastive = self.contrastive(hidden, mask)
        if self.training:  # the mean over the words, and pairs of words, of all processes
            texts = mask.sum(1)
            pairs = texts * (texts - 1) if self.contrastive.reduction == "pairs" else texts > 1
            mle, contrastive = mle * mean_weight(words), contrastive * mean_weight(pairs.sum())
        return {
            "loss": mle + self.weight * contrastive,
            "mle_loss": mle.detach(),
            "contrastive_loss": contrastive.detach(),
        }
