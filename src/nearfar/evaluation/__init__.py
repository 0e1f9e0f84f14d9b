"""Evaluation: one file a protocol, each for anything with `encode_image` and `encode_text`."""

from nearfar.evaluation.answering import answering
from nearfar.evaluation.embed import embed, embed_images, embed_texts
from nearfar.evaluation.embeddings import Embeddings
from nearfar.evaluation.entailment import entailment
from nearfar.evaluation.evaluate import PROTOCOLS, USUAL, Job, evaluate, left_out
from nearfar.evaluation.geometry import geometry
from nearfar.evaluation.grounding import grounding
from nearfar.evaluation.probes import knn, linear_probe
from nearfar.evaluation.ranks import Ranks, nearest, rank, rank_scores
from nearfar.evaluation.reranked import reranked_retrieval
from nearfar.evaluation.result import Metric, Result, load_results, save_results
from nearfar.evaluation.retrieval import rank_metrics, retrieval
from nearfar.evaluation.templates import TEMPLATES, templates
from nearfar.evaluation.zero_shot import ZeroShotClassifier, class_prototypes, zero_shot

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
