"""Towers and how they are joined.

`create` makes a dual encoder from a preset, from names or from configs; `load` opens a saved or pretrained one; both
give an *encoder*: `encode_image`, `encode_text`, `preprocess`, `tokenize`. The parts of methods that stood here before
(`FeatureQueue`, `MomentumEncoder`, ...) are still importable from here; they live in `nearfar.methods.parts`. Importing
this package imports none of the libraries behind it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearfar.methods.parts.feature_queue import FeatureQueue
    from nearfar.methods.parts.momentum_encoder import MomentumEncoder
    from nearfar.methods.parts.token_masking import mask_tokens
    from nearfar.models.concat_encoder import ConcatDualEncoder, ConcatImageEncoder, concatenated
    from nearfar.models.detection.detector import Detector, detector
    from nearfar.models.dual.dual_encoder import DualEncoder
    from nearfar.models.dual.student import student_encoder
    from nearfar.models.fusion.answer_decoder import AnswerDecoder, answer_loss, rank_answers
    from nearfar.models.fusion.attention_maps import ground
    from nearfar.models.fusion.fusion_answerer import FusionAnswerer
    from nearfar.models.fusion.fusion_classifier import FusionClassifier
    from nearfar.models.fusion.fusion_encoder import FusionEncoder
    from nearfar.models.fusion.fusion_model import FusionModel
    from nearfar.models.fusion.heads import MaskedLanguageHead, MatchingHead
    from nearfar.models.fusion.reranker import MatchScorer, Reranker, rerank
    from nearfar.models.grounded.grounded_encoder import GroundedEncoder, grounded_encoder
    from nearfar.models.grounded.relation_encoder import RelationEncoder, relation_encoder
    from nearfar.models.grounded.search_encoder import SearchEncoder, search_encoder
    from nearfar.models.image.common_salient_encoder import CommonSalientEncoder, common_salient
    from nearfar.models.image.image_encoder import ImageEncoder, image_encoder
    from nearfar.models.language.label_matcher import LabelMatcher, label_matcher
    from nearfar.models.language.text_model import text_encoder
    from nearfar.models.language.whitening_transform import WhiteningTransform, whitened_encoder
    from nearfar.models.loading import load
    from nearfar.models.presets import PRESETS, create
    from nearfar.models.prompts.prompt_maker import prompted_encoder
    from nearfar.models.prompts.prompted_encoder import PromptedEncoder
    from nearfar.models.shorter import shortened
    from nearfar.models.sound.sound_encoder import SoundEncoder, sound_encoder
    from nearfar.models.sound.sound_transcriber import SoundTranscriber, sound_transcriber
    from nearfar.models.video.frame_mean import FrameMean
    from nearfar.models.video.video_encoder import VideoEncoder, video_encoder
    from nearfar.models.vlm.interleaved.interleaved_maker import interleaved_model
    from nearfar.models.vlm.interleaved.interleaved_model import InterleavedModel
    from nearfar.models.vlm.lvlm_embedder import LVLMEmbedder, lvlm_embedder
    from nearfar.models.vlm.transformers_captioner import load_captioner
    from nearfar.models.vlm.vision_language_model import VisionLanguageModel
    from nearfar.models.vlm.vlm_maker import vision_language_model

_HOME = {
    "AnswerDecoder": "fusion.answer_decoder",
    "CommonSalientEncoder": "image.common_salient_encoder",
    "ConcatDualEncoder": "concat_encoder",
    "ConcatImageEncoder": "concat_encoder",
    "Detector": "detection.detector",
    "DualEncoder": "dual.dual_encoder",
    "FrameMean": "video.frame_mean",
    "FeatureQueue": "methods.parts.feature_queue",
    "FusionAnswerer": "fusion.fusion_answerer",
    "FusionClassifier": "fusion.fusion_classifier",
    "FusionEncoder": "fusion.fusion_encoder",
    "FusionModel": "fusion.fusion_model",
    "GroundedEncoder": "grounded.grounded_encoder",
    "ImageEncoder": "image.image_encoder",
    "InterleavedModel": "vlm.interleaved.interleaved_model",
    "LVLMEmbedder": "vlm.lvlm_embedder",
    "LabelMatcher": "language.label_matcher",
    "MaskedLanguageHead": "fusion.heads",
    "MatchScorer": "fusion.reranker",
    "MatchingHead": "fusion.heads",
    "MomentumEncoder": "methods.parts.momentum_encoder",
    "PRESETS": "presets",
    "PromptedEncoder": "prompts.prompted_encoder",
    "RelationEncoder": "grounded.relation_encoder",
    "Reranker": "fusion.reranker",
    "SearchEncoder": "grounded.search_encoder",
    "SoundEncoder": "sound.sound_encoder",
    "SoundTranscriber": "sound.sound_transcriber",
    "VideoEncoder": "video.video_encoder",
    "VisionLanguageModel": "vlm.vision_language_model",
    "WhiteningTransform": "language.whitening_transform",
    "answer_loss": "fusion.answer_decoder",
    "common_salient": "image.common_salient_encoder",
    "concatenated": "concat_encoder",
    "create": "presets",
    "detector": "detection.detector",
    "ground": "fusion.attention_maps",
    "grounded_encoder": "grounded.grounded_encoder",
    "image_encoder": "image.image_encoder",
    "interleaved_model": "vlm.interleaved.interleaved_maker",
    "label_matcher": "language.label_matcher",
    "load": "loading",
    "load_captioner": "vlm.transformers_captioner",
    "lvlm_embedder": "vlm.lvlm_embedder",
    "mask_tokens": "methods.parts.token_masking",
    "prompted_encoder": "prompts.prompt_maker",
    "rank_answers": "fusion.answer_decoder",
    "relation_encoder": "grounded.relation_encoder",
    "rerank": "fusion.reranker",
    "search_encoder": "grounded.search_encoder",
    "shortened": "shorter",
    "sound_encoder": "sound.sound_encoder",
    "sound_transcriber": "sound.sound_transcriber",
    "student_encoder": "dual.student",
    "text_encoder": "language.text_model",
    "video_encoder": "video.video_encoder",
    "vision_language_model": "vlm.vlm_maker",
    "whitened_encoder": "language.whitening_transform",
}
MAKERS = {
    "common_salient": "nearfar.models.image.common_salient_encoder:common_salient",
    "detector": "nearfar.models.detection.detector:detector",
    "grounded_encoder": "nearfar.models.grounded.grounded_encoder:grounded_encoder",
    "image_encoder": "nearfar.models.image.image_encoder:image_encoder",
    "interleaved_model": "nearfar.models.vlm.interleaved.interleaved_maker:interleaved_model",
    "label_matcher": "nearfar.models.language.label_matcher:label_matcher",
    "language_model": "nearfar.models.language:language_model",
    "lvlm_embedder": "nearfar.models.vlm.lvlm_embedder:lvlm_embedder",
    "prompted_encoder": "nearfar.models.prompts.prompt_maker:prompted_encoder",
    "relation_encoder": "nearfar.models.grounded.relation_encoder:relation_encoder",
    "search_encoder": "nearfar.models.grounded.search_encoder:search_encoder",
    "sound_encoder": "nearfar.models.sound.sound_encoder:sound_encoder",
    "sound_transcriber": "nearfar.models.sound.sound_transcriber:sound_transcriber",
    "student_encoder": "nearfar.models.dual.student:student_encoder",
    "text_encoder": "nearfar.models.language.text_model:text_encoder",
    "video_encoder": "nearfar.models.video.video_encoder:video_encoder",
    "vision_language_model": "nearfar.models.vlm.vlm_maker:vision_language_model",
}
"""What a recipe's `model.make` may name beside modules that the user trusts: its name -> where it lives."""

__all__ = [
    "MAKERS",
    "PRESETS",
    "AnswerDecoder",
    "CommonSalientEncoder",
    "ConcatDualEncoder",
    "ConcatImageEncoder",
    "Detector",
    "DualEncoder",
    "FeatureQueue",
    "FrameMean",
    "FusionAnswerer",
    "FusionClassifier",
    "FusionEncoder",
    "FusionModel",
    "GroundedEncoder",
    "ImageEncoder",
    "InterleavedModel",
    "LVLMEmbedder",
    "LabelMatcher",
    "MaskedLanguageHead",
    "MatchScorer",
    "MatchingHead",
    "MomentumEncoder",
    "PromptedEncoder",
    "RelationEncoder",
    "Reranker",
    "SearchEncoder",
    "SoundEncoder",
    "SoundTranscriber",
    "VideoEncoder",
    "VisionLanguageModel",
    "WhiteningTransform",
    "answer_loss",
    "common_salient",
    "concatenated",
    "create",
    "detector",
    "ground",
    "grounded_encoder",
    "image_encoder",
    "interleaved_model",
    "label_matcher",
    "load",
    "load_captioner",
    "lvlm_embedder",
    "mask_tokens",
    "prompted_encoder",
    "rank_answers",
    "relation_encoder",
    "rerank",
    "search_encoder",
    "shortened",
    "sound_encoder",
    "sound_transcriber",
    "student_encoder",
    "text_encoder",
    "video_encoder",
    "vision_language_model",
    "whitened_encoder",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        home = _HOME[name]
        return getattr(
            import_module(f"nearfar.{home}" if home.startswith("methods.") else f"nearfar.models.{home}"), name
        )
    raise AttributeError(f"module 'nearfar.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
