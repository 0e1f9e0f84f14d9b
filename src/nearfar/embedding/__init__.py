"""Embedding data with a model: all at once (`embed`), or frozen towers' features to train on (`precompute`)."""

from nearfar.embedding.embed_source import embed, embed_images, embed_texts
from nearfar.embedding.embeddings import Embeddings
from nearfar.embedding.feature_loader import FeatureLoader
from nearfar.embedding.features import precompute

__all__ = ["Embeddings", "FeatureLoader", "embed", "embed_images", "embed_texts", "precompute"]
