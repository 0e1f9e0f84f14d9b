"""PRIOR (arXiv 2505.08971): caption pre-training that dwells on the tokens which a model without the picture cannot
guess."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.methods.base import Batch
from nearfar.methods.lvlm.captioning import Captioning
from nearfar.methods.lvlm.reference_scorer import ReferenceScorer
from nearfar.methods.lvlm.token_weights import Reduction, prior_token_weights


class PRIOR(Captioning):
    """Next-token prediction in which each token counts by how badly a text-only reference P_r predicts it:

        L = - sum_i k (w_i / sum_j w_j) log P(t_i | picture, t_<i)          w_i = (1 - P_r(t_i | t_<i)) ** alpha

    over the k tokens of a caption, its end among them; then the mean over tokens, as plain next-token prediction has
    it. The weights of a caption have mean 1, whatever stands beside it in a batch.

    The reference is a language model trained on the captions alone, with the same tokenizer, and frozen:
    `nearfar.methods.SimCTG(language_model, weight=0)`, or a stage of the recipe `prior`. It scores each batch anew, for
    a further pass without pictures and without gradients.

    Args:
        model: a `nearfar.models.VisionLanguageModel`.
        reference: a language model, or the folder of one; `previous` in stages. Of several, which are cross-fitted
            (`nearfar.methods.lvlm.reference_scorer.cross_fitted`), each caption has the one that was not trained on it.
        alpha: exponent of the weights (paper: 1); 0 is plain next-token prediction.
        reduction: "tokens" (the paper does not say), or "captions" for the mean of each caption's own mean.

    The batch has `image` `[B, 3, S, S]` float32, `text`, tokens `[B, L]` int64, and with several references `index`
    `[B]` int64. Logs `token_loss`, the mean without weights: losses of PRIOR and of plain prediction do not compare.

    What is rare is hard for the reference, whether the picture shows it or not: names, numbers, typing errors get high
    weights too.

    Raises:
        UserError: a model that writes no captions, a reference with another tokenizer, `alpha` below 0.

    Example:
        >>> import torch
        >>> from nearfar.data import train_tokenizer
        >>> from nearfar.models import vision_language_model
        >>> from nearfar.models.language import language_model
        >>> tokenizer = train_tokenizer(["a red car", "a red cat"], 300)
        >>> model = vision_language_model("tiny", tokenizer=tokenizer)
        >>> batch = {"image": torch.rand(2, 3, 64, 64), "text": model.tokenize(["a red car", "a red cat"])}
        >>> sorted(PRIOR(model, reference=language_model("tiny", tokenizer=tokenizer))(batch))
        ['loss', 'token_loss']
    """

    def __init__(self, model: Any, *, reference: Any, alpha: float = 1.0, reduction: Reduction = "tokens") -> None:
        super().__init__(model, reduction=reduction)
        prior_token_weights(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), alpha=alpha)
        self.alpha = alpha
        self.reference = ReferenceScorer(reference, model.tokenizer)

    def token_weights(self, batch: Batch, mask: Tensor) -> Tensor:
        """PRIOR's weight of each token `[B, T]`, floating point, where `mask` `[B, T]` bool says that there is one."""
        score, own = self.reference.score(batch["text"], batch.get("index"))
        weights = prior_token_weights(score, own, alpha=self.alpha)
        if own.sum() != mask.sum():
            raise UserError("the reference and the model cut captions at different places")
        # The same tokens in the same order; the model's may stand behind a prompt.
        placed = weights.new_zeros(mask.shape)
        placed[mask] = weights[own]
        return placed
