"""Evaluation: one file a protocol, each for anything with `encode_image` and `encode_text`.

Names are imported when they are first used: the command line reads the table of protocols, and must not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearfar.classifiers.zero_shot import ZeroShotClassifier, class_prototypes
    from nearfar.embedding.embed_source import embed, embed_images, embed_texts
    from nearfar.embedding.embeddings import Embeddings
    from nearfar.evaluation.dense.segmentation import segmentation
    from nearfar.evaluation.measures.modality_gap import modality_gap
    from nearfar.evaluation.measures.paired_images import paired_images
    from nearfar.evaluation.measures.positive_ranks import positive_ranks, recall_at_k
    from nearfar.evaluation.measures.result import Metric, Result, load_results, save_results
    from nearfar.evaluation.measures.retrieval_ranks import Ranks, rank, rank_scores
    from nearfar.evaluation.measures.teacher_agreement import agreement
    from nearfar.evaluation.protocols import PROTOCOLS, Protocol, register
    from nearfar.evaluation.protocols.answer_accuracy import answering
    from nearfar.evaluation.protocols.entailment_accuracy import entailment
    from nearfar.evaluation.protocols.few_shot_accuracy import few_shot
    from nearfar.evaluation.protocols.geometry import geometry
    from nearfar.evaluation.protocols.grounding import grounding
    from nearfar.evaluation.protocols.probes import knn, linear_probe
    from nearfar.evaluation.protocols.reranked_retrieval import reranked_retrieval
    from nearfar.evaluation.protocols.retrieval import rank_metrics, retrieval
    from nearfar.evaluation.protocols.zero_shot_accuracy import zero_shot
    from nearfar.evaluation.run_protocols import USUAL, EvaluationInputs, evaluate, left_out
    from nearfar.nearest import nearest
    from nearfar.prompting.prompt_templates import TEMPLATES, templates

_HOME = {
    "Embeddings": "nearfar.embedding.embeddings",
    "EvaluationInputs": "nearfar.evaluation.run_protocols",
    "Metric": "nearfar.evaluation.measures.result",
    "PROTOCOLS": "nearfar.evaluation.protocols",
    "Protocol": "nearfar.evaluation.protocols",
    "Ranks": "nearfar.evaluation.measures.retrieval_ranks",
    "Result": "nearfar.evaluation.measures.result",
    "TEMPLATES": "nearfar.prompting.prompt_templates",
    "USUAL": "nearfar.evaluation.run_protocols",
    "ZeroShotClassifier": "nearfar.classifiers.zero_shot",
    "agreement": "nearfar.evaluation.measures.teacher_agreement",
    "answering": "nearfar.evaluation.protocols.answer_accuracy",
    "class_prototypes": "nearfar.classifiers.zero_shot",
    "embed": "nearfar.embedding.embed_source",
    "embed_images": "nearfar.embedding.embed_source",
    "embed_texts": "nearfar.embedding.embed_source",
    "entailment": "nearfar.evaluation.protocols.entailment_accuracy",
    "evaluate": "nearfar.evaluation.run_protocols",
    "few_shot": "nearfar.evaluation.protocols.few_shot_accuracy",
    "geometry": "nearfar.evaluation.protocols.geometry",
    "grounding": "nearfar.evaluation.protocols.grounding",
    "knn": "nearfar.evaluation.protocols.probes",
    "left_out": "nearfar.evaluation.run_protocols",
    "linear_probe": "nearfar.evaluation.protocols.probes",
    "load_results": "nearfar.evaluation.measures.result",
    "modality_gap": "nearfar.evaluation.measures.modality_gap",
    "nearest": "nearfar.nearest",
    "positive_ranks": "nearfar.evaluation.measures.positive_ranks",
    "recall_at_k": "nearfar.evaluation.measures.positive_ranks",
    "paired_images": "nearfar.evaluation.measures.paired_images",
    "rank": "nearfar.evaluation.measures.retrieval_ranks",
    "rank_metrics": "nearfar.evaluation.protocols.retrieval",
    "rank_scores": "nearfar.evaluation.measures.retrieval_ranks",
    "register": "nearfar.evaluation.protocols",
    "reranked_retrieval": "nearfar.evaluation.protocols.reranked_retrieval",
    "retrieval": "nearfar.evaluation.protocols.retrieval",
    "save_results": "nearfar.evaluation.measures.result",
    "segmentation": "nearfar.evaluation.dense.segmentation",
    "templates": "nearfar.prompting.prompt_templates",
    "zero_shot": "nearfar.evaluation.protocols.zero_shot_accuracy",
}
__all__ = [
    "PROTOCOLS",
    "TEMPLATES",
    "USUAL",
    "Embeddings",
    "EvaluationInputs",
    "Metric",
    "Protocol",
    "Ranks",
    "Result",
    "ZeroShotClassifier",
    "agreement",
    "answering",
    "class_prototypes",
    "embed",
    "embed_images",
    "embed_texts",
    "entailment",
    "evaluate",
    "few_shot",
    "geometry",
    "grounding",
    "knn",
    "left_out",
    "linear_probe",
    "load_results",
    "modality_gap",
    "nearest",
    "paired_images",
    "positive_ranks",
    "rank",
    "rank_metrics",
    "rank_scores",
    "recall_at_k",
    "register",
    "reranked_retrieval",
    "retrieval",
    "save_results",
    "segmentation",
    "templates",
    "zero_shot",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'nearfar.evaluation' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
