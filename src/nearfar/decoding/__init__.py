"""Decoding: ways to choose the next token that need more of the model than its next-token probabilities.

`contrastive_search` is the one call to know for texts; `contrastive_search_generate` is the same thing for
transformers' `model.generate(custom_generate=...)`; `contrastive_rerank` is the rule itself, over plain tensors.

`ImageConditions` writes of pictures with fewer things that are not there (RITUAL, VCD, M3ID); `condition_generate` is
the same thing for `model.generate(custom_generate=...)`; `ConditionRule` is the rule itself, over plain tensors.
"""

from nearfar.decoding.conditions.condition_logits import (
    ConditionRule,
    m3id_logits,
    plausibility_mask,
    ritual_logits,
    vcd_logits,
)
from nearfar.decoding.conditions.condition_runs import condition_generate
from nearfar.decoding.conditions.diffusion_noise import diffusion_noise
from nearfar.decoding.conditions.image_conditions import ImageConditions
from nearfar.decoding.conditions.picture_transforms import TransformBank
from nearfar.decoding.conditions.transform_selectors import most_certain
from nearfar.decoding.contrastive.contrastive_search import contrastive_search, contrastive_search_generate
from nearfar.decoding.contrastive.rerank import Ranking, contrastive_rerank, degeneration_penalty

__all__ = [
    "ConditionRule",
    "ImageConditions",
    "Ranking",
    "TransformBank",
    "condition_generate",
    "contrastive_rerank",
    "contrastive_search",
    "contrastive_search_generate",
    "degeneration_penalty",
    "diffusion_noise",
    "m3id_logits",
    "most_certain",
    "plausibility_mask",
    "ritual_logits",
    "vcd_logits",
]
