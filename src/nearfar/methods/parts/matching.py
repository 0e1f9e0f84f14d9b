"""The losses of a fusion encoder: image-text matching with hard negatives, and distilled masked language modelling
(ALBEF, arXiv 2107.07651)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nearfar.distributed import mean_weight
from nearfar.methods.parts.token_masking import IGNORED, mask_tokens
from nearfar.models.fusion.fusion_model import FusionModel


def matching_loss(
    model: FusionModel,
    image: Tensor,
    text: Tensor,
    mask: Tensor,
    *,
    hard_text: Tensor,
    hard_image: Tensor,
) -> tuple[Tensor, Tensor]:
    """Image-text matching (ITM): the batch's pairs against one hard image a text and one hard text an image.

    Args:
        model: gives `match`.
        image, text: image tokens `[B, 1 + P, W]` and text states `[B, L, W]`; the loss's gradient reaches both.
        mask: `[B, L]` of the texts.
        hard_text: `[B]` long, for each image the row of a text that does not belong to it, as
            `nearfar.ops.sample_hard_negatives` draws it; -1 adds none.
        hard_image: `[B]` long, the same for each text.

    Returns the mean cross-entropy over the pairs, and the share judged rightly. In training both are weighted by this
    process's share of the pairs of all processes, so that their mean over processes is the mean over all pairs; every
    process must call it.
    """
    texts_with, images_with = hard_image >= 0, hard_text >= 0
    own = torch.arange(len(image), device=image.device)
    pictures = torch.cat([own, hard_image[texts_with], own[images_with]])
    captions = torch.cat([own, own[texts_with], hard_text[images_with]])
    logits = model.match(image, text[captions], mask[captions], rows=pictures)
    labels = (torch.arange(len(logits), device=logits.device) < len(image)).long()
    weight = mean_weight(labels.new_tensor(len(labels))) if model.training else 1.0
    return weight * cross_entropy(logits, labels), weight * (logits.detach().argmax(1) == labels).float().mean()


def masked_language_loss(
    model: FusionModel,
    teacher: FusionModel,
    tokens: Mapping[str, Tensor],
    image: Tensor,
    teacher_image: Tensor,
    *,
    alpha: float,
    probability: float = 0.15,
) -> Tensor:
    """Masked language modelling (MLM) with the picture in view: `(1 - alpha) CE(words) + alpha CE(teacher's words)`.

    Takes `tokens` of texts `[B, L]` int64, `image` and `teacher_image` tokens `[B, 1 + P, W]` in floating point;
    returns a scalar.

    Teacher and student read the same masked ids; the student sees `image` tokens, the teacher `teacher_image`. Zero,
    with a graph, where no token of the batch was masked. In training it is weighted by this process's share of the
    masked tokens of all processes, as `matching_loss` is.
    """
    ids, labels = mask_tokens(tokens["input_ids"], model.tokenizer, probability=probability)
    masked = {**tokens, "input_ids": ids}
    where = labels != IGNORED
    weight = mean_weight(where.sum()) if model.training else 1.0
    if not bool(where.any()):
        return image.sum() * 0
    logits = model.masked_language_logits(masked, image, where)
    hard = cross_entropy(logits, labels[where])
    if not alpha:
        return weight * hard
    with torch.no_grad():
        soft = teacher.masked_language_logits(masked, teacher_image, where).softmax(1)
    return weight * ((1 - alpha) * hard + alpha * cross_entropy(logits, soft))
