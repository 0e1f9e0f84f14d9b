"""Claims of papers, re-run: same data, same encoders, same budget, only the paper's idea differs.

One file a paper holds `reproduction`, a `nearfar.reproductions.shared.claims.Reproduction`; `results/` holds the
recorded runs. `nearfar reproduce SLUG` runs one.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from nearfar import lookup
from nearfar.reproductions.shared.choosing import Grid
from nearfar.reproductions.shared.claims import Claim, Reproduction
from nearfar.reproductions.shared.per_query import PerQuery


def find(slug: str) -> Reproduction:
    """The reproduction of a paper by its slug.

    Raises:
        UserError: that paper has none, or there is no such paper.
    """
    from nearfar.papers import PAPERS

    modules = {paper.slug: module_of(paper.slug) for paper in PAPERS}
    there = {slug: module for slug, module in modules.items() if find_spec(module)}
    return import_module(lookup.find("reproduction", slug, there)).reproduction


def module_of(slug: str) -> str:
    """Where a paper's reproduction is, or would be."""
    return f"nearfar.reproductions.{slug.replace('-', '_')}_reproduction"


__all__ = ["Claim", "Grid", "PerQuery", "Reproduction", "find"]
