"""Evaluation: one file a protocol, each for anything with `encode_image` and `encode_text`."""

from nearfar.embedding.embed_source import embed, embed_images, embed_texts
from nearfar.embedding.embeddings import Embeddings
from nearfar.evaluation.evaluate import PROTOCOLS, USUAL, Job, evaluate, left_out
from nearfar.evaluation.measures.ranks import Ranks, nearest, rank, rank_scores
from nearfar.evaluation.measures.result import Metric, Result, load_results, save_results
from nearfar.evaluation.protocols.answering import answering
from nearfar.evaluation.protocols.entailment import entailment
from nearfar.evaluation.protocols.geometry import geometry
from nearfar.evaluation.protocols.grounding import grounding
from nearfar.evaluation.protocols.probes import knn, linear_probe
from nearfar.evaluation.protocols.reranked_retrieval import reranked_retrieval
from nearfar.evaluation.protocols.retrieval import rank_metrics, retrieval
from nearfar.evaluation.protocols.zero_shot import ZeroShotClassifier, class_prototypes, zero_shot
from nearfar.prompting.templates import TEMPLATES, templates

__all__ = [
    "PROTOCOLS",
    "TEMPLATES",
    "USUAL",
    "Embeddings",
    "Job",
    "Metric",
    "Ranks",
    "Result",
    "ZeroShotClassifier",
    "answering",
    "class_prototypes",
    "embed",
    "embed_images",
    "embed_texts",
    "entailment",
    "evaluate",
    "geometry",
    "grounding",
    "knn",
    "left_out",
    "linear_probe",
    "load_results",
    "nearest",
    "rank",
    "rank_metrics",
    "rank_scores",
    "reranked_retrieval",
    "retrieval",
    "save_results",
    "templates",
    "zero_shot",
]
