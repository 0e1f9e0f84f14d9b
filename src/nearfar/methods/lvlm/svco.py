"""S-VCO (arXiv 2502.13928): a text is likelier with its picture than without one, and likelier without one than with a
picture that contradicts it; and the same with the parts of both pictures exchanged."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nearfar.methods.lvlm.pair_contrast import PairContrast
from nearfar.methods.lvlm.pair_losses import PairLikelihoods, check_betas, svco, svco_margins


class SVCO(PairContrast):
    """Symmetrical visual contrastive optimization, on pairs of pictures i, i' that hardly differ, with a text each, y
    of i and y' of i', against a frozen reference, the model before:

        D(a, b) = [log P(a) - log P(b)] - [log P_ref(a) - log P_ref(b)]
        L = - log sigmoid(b1 D(y|i, y|none))    - log sigmoid(b2 D(y|none, y|i'))          attend to i, reject i'
            - log sigmoid(b3 D(y'|i', y'|none)) - log sigmoid(b4 D(y'|none, y'|i))         attend to i', reject i

    where log P is the sum over a text's tokens, and `none` is no picture, not a blank one. The mean over the pairs.

    Args:
        model: a `nearfar.models.VisionLanguageModel`; its frozen parts stay as they are. The reference is a frozen copy
            of it as it is here; where nothing but adapters of peft is trained, it is the model with its adapters off.
        betas: b1 to b4 (paper: 0.1 each). 0 leaves a term out: [0.1, 0.1, 0, 0] is one-sided, [0.1, 0, 0.1, 0] attends
            and does not reject.
        anchor: weight of plain next-token prediction on each picture's own text, added to the loss (paper: 0). Without
            it nothing keeps a text's likelihood with its own picture from falling, as long as others fall more.
        cache_reference: compute the reference's likelihoods of a sample once and keep them, six numbers a sample. Its
            pictures and texts must then be the same in each pass (`views: none`, `caption: first`).

    The batch has `image` and `image2` `[B, 3, S, S]` float32, `text` and `text2`, tokens `[B, L]` int64; where the data
    have one a `prompt`, tokens too; and with `cache_reference` `index` `[B]` int64.

    Logs `attend_margin` and `reject_margin`, the means of D over both texts, and how often they are above 0,
    `attend_accuracy` and `reject_accuracy`; `own_reward`, `other_reward` and `alone_reward`, by how much likelier than
    for the reference texts are with their own picture, the other one and none; and `token_loss`, plain next-token
    prediction with the own picture: the figure that should not rise.

    Likelihoods under different conditions are compared, so this is a contrast and not a preference that a reward would
    explain.

    Raises:
        UserError: a model that writes no captions, `betas` that are not four numbers of at least 0, `anchor` below 0;
            in training with `cache_reference`, a sample with other pictures or texts than before.

    Example:
        >>> import torch
        >>> from nearfar.data import train_tokenizer
        >>> from nearfar.models import vision_language_model
        >>> model = vision_language_model("tiny", tokenizer=train_tokenizer(["a red car", "a red cat"], 300))
        >>> batch = {"image": torch.rand(2, 3, 64, 64), "image2": torch.rand(2, 3, 64, 64)}
        >>> batch |= {"text": model.tokenize(["a red car"] * 2), "text2": model.tokenize(["a red cat"] * 2)}
        >>> round(SVCO(model.eval())(batch)["loss"].item(), 4)  # 4 ln 2
        2.7726
    """

    reads_alone = True

    def __init__(
        self,
        model: Any,
        *,
        betas: tuple[float, ...] = (0.1, 0.1, 0.1, 0.1),
        anchor: float = 0.0,
        cache_reference: bool = False,
    ) -> None:
        check_betas(betas)
        super().__init__(model, anchor=anchor, cache_reference=cache_reference)
        self.betas = tuple(betas)

    def loss_of(self, policy: PairLikelihoods, reference: PairLikelihoods) -> Tensor:
        return svco(policy, reference, betas=self.betas)

    def margins_of(self, policy: PairLikelihoods, reference: PairLikelihoods) -> dict[str, Tensor]:
        margins = svco_margins(policy, reference)
        return {"attend": margins[:, [0, 2]], "reject": margins[:, [1, 3]]}
