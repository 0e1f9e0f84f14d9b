"""Towers and how they are joined.

`create` makes a dual encoder from a preset, from names or from configs; `load` opens a saved or pretrained one; both
give an *encoder*: `encode_image`, `encode_text`, `preprocess`, `tokenize`. The parts that fusion and momentum methods
are made of stand beside it. Importing this package imports none of the libraries behind it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearfar.models.answering import AnswerDecoder, answer_loss, rank_answers
    from nearfar.models.dual_encoder import DualEncoder
    from nearfar.models.fusion import FusionEncoder
    from nearfar.models.fusion_answerer import FusionAnswerer
    from nearfar.models.fusion_classifier import FusionClassifier
    from nearfar.models.fusion_model import FusionModel
    from nearfar.models.grounding import ground
    from nearfar.models.hard_negatives import sample_hard_negatives
    from nearfar.models.heads import MaskedLanguageHead, MatchingHead
    from nearfar.models.loading import load
    from nearfar.models.masking import mask_tokens
    from nearfar.models.momentum import MomentumEncoder
    from nearfar.models.presets import PRESETS, create
    from nearfar.models.queue import FeatureQueue
    from nearfar.models.reranker import MatchScorer, Reranker, rerank

_HOME = {
    "AnswerDecoder": "answering",
    "DualEncoder": "dual_encoder",
    "FeatureQueue": "queue",
    "FusionAnswerer": "fusion_answerer",
    "FusionClassifier": "fusion_classifier",
    "FusionEncoder": "fusion",
    "FusionModel": "fusion_model",
    "MaskedLanguageHead": "heads",
    "MatchScorer": "reranker",
    "MatchingHead": "heads",
    "MomentumEncoder": "momentum",
    "PRESETS": "presets",
    "Reranker": "reranker",
    "answer_loss": "answering",
    "create": "presets",
    "ground": "grounding",
    "load": "loading",
    "mask_tokens": "masking",
    "rank_answers": "answering",
    "rerank": "reranker",
    "sample_hard_negatives": "hard_negatives",
}
MAKERS = {"language_model": "nearfar.models.language:language_model"}
"""What a recipe's `model.make` may name beside modules that the user trusts: its name -> where it lives."""

__all__ = [
    "MAKERS",
    "PRESETS",
    "AnswerDecoder",
    "DualEncoder",
    "FeatureQueue",
    "FusionAnswerer",
    "FusionClassifier",
    "FusionEncoder",
    "FusionModel",
    "MaskedLanguageHead",
    "MatchScorer",
    "MatchingHead",
    "MomentumEncoder",
    "Reranker",
    "answer_loss",
    "create",
    "ground",
    "load",
    "mask_tokens",
    "rank_answers",
    "rerank",
    "sample_hard_negatives",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"nearfar.models.{_HOME[name]}"), name)
    raise AttributeError(f"module 'nearfar.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
