"""Embedding data with a model: all at once (`embed`), or frozen towers' features to train on (`precompute`). Names are
imported when first used: a query embeds one text, and needs no loader."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearfar.embedding.blocks.block_folder import load_blocks
    from nearfar.embedding.blocks.embed_blocks import embed_blocks
    from nearfar.embedding.curation.curate import curate
    from nearfar.embedding.embed_source import embed, embed_images, embed_texts
    from nearfar.embedding.embeddings import Embeddings
    from nearfar.embedding.feature_loader import FeatureLoader
    from nearfar.embedding.features import precompute

_LAZY = {
    "Embeddings": "embeddings",
    "FeatureLoader": "feature_loader",
    "curate": "curation.curate",
    "embed": "embed_source",
    "embed_blocks": "blocks.embed_blocks",
    "embed_images": "embed_source",
    "embed_texts": "embed_source",
    "load_blocks": "blocks.block_folder",
    "precompute": "features",
}
__all__ = [
    "Embeddings",
    "FeatureLoader",
    "curate",
    "embed",
    "embed_blocks",
    "embed_images",
    "embed_texts",
    "load_blocks",
    "precompute",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"nearfar.embedding.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'nearfar.embedding' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
