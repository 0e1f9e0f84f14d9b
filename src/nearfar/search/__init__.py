"""Search: index a source of pictures, ask by text, by picture, or by both, and serve the page.

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
    from nearfar.search.building import build
    from nearfar.search.exact import exact_search
    from nearfar.search.index import Index
    from nearfar.search.items import Hit
    from nearfar.search.querying import Query, Results, compose_query, query
    from nearfar.search.reranking import match_reranker
    from nearfar.search.zero_shot import zero_shot_labels

_LAZY = {
    "Hit": "items",
    "Index": "index",
    "Query": "querying",
    "Results": "querying",
    "build": "building",
    "compose_query": "querying",
    "exact_search": "exact",
    "match_reranker": "reranking",
    "query": "querying",
    "zero_shot_labels": "zero_shot",
}
__all__ = [
    "Hit",
    "Index",
    "Query",
    "Results",
    "build",
    "compose_query",
    "exact_search",
    "match_reranker",
    "query",
    "zero_shot_labels",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"nearfar.search.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'nearfar.search' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
