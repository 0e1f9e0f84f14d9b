"""Claims of papers, re-run: same data, same encoders, same budget, only the paper's idea differs.

One file a paper, in the room of its kind, holds `reproduction`, a `nearfar.reproductions.shared.claims.Reproduction`;
`results/` holds the recorded runs. `nearfar reproduce SLUG` runs one.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from nearfar import lookup
from nearfar.reproductions.shared.choosing import Grid
from nearfar.reproductions.shared.claims import Claim, Reproduction
from nearfar.reproductions.shared.per_query import PerQuery

if TYPE_CHECKING:
    from nearfar.papers import Paper


def find(slug: str) -> Reproduction:
    """The reproduction of a paper by its slug.

    Raises:
        UserError: that paper has none, or there is no such paper.
    """
    from nearfar.papers import PAPERS

    there = {paper.slug: module for paper in PAPERS if _is_there(module := module_of(paper))}
    return import_module(lookup.find("reproduction", slug, there)).reproduction


def module_of(paper: Paper) -> str:
    """Where a paper's reproduction is, or would be."""
    room = paper.kind.replace("-", "_").replace(" ", "_")
    return f"nearfar.reproductions.{room}.{paper.slug.replace('-', '_')}_reproduction"


def _is_there(module: str) -> bool:
    room = module.rpartition(".")[0]
    return bool(find_spec(room) and find_spec(module))  # a module in a room that is not there would raise


__all__ = ["Claim", "Grid", "PerQuery", "Reproduction", "find"]
