"""Search: index a source of pictures, query by text, by picture, or by both, and serve the page.

import nearfar
from nearfar.search import build, query

encoder = nearfar.load("runs/demo")
index = build(encoder, nearfar.data.open_source("photos/"), "index/")
for hit in query(index, encoder, text="a red car", minus=["people"], top=5):
    print(f"{hit.score:.3f}", hit.path, hit.caption)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearfar.search.index.building import build
    from nearfar.search.index.items import Hit
    from nearfar.search.index.stored_index import Index
    from nearfar.search.kinds.exact import exact_search
    from nearfar.search.lists.vector_index import VectorIndex
    from nearfar.search.querying.fused_scores import fused_with
    from nearfar.search.querying.labels import zero_shot_labels
    from nearfar.search.querying.many_queries import search_many
    from nearfar.search.querying.matching_items import matching_rows
    from nearfar.search.querying.query import Query, Results, compose_query, query
    from nearfar.search.querying.reranking import match_reranker

_LAZY = {
    "Hit": "index.items",
    "Index": "index.stored_index",
    "Query": "querying.query",
    "Results": "querying.query",
    "VectorIndex": "lists.vector_index",
    "build": "index.building",
    "compose_query": "querying.query",
    "exact_search": "kinds.exact",
    "fused_with": "querying.fused_scores",
    "match_reranker": "querying.reranking",
    "matching_rows": "querying.matching_items",
    "query": "querying.query",
    "search_many": "querying.many_queries",
    "zero_shot_labels": "querying.labels",
}
__all__ = [
    "Hit",
    "Index",
    "Query",
    "Results",
    "VectorIndex",
    "build",
    "compose_query",
    "exact_search",
    "fused_with",
    "match_reranker",
    "matching_rows",
    "query",
    "search_many",
    "zero_shot_labels",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"nearfar.search.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'nearfar.search' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
