"""Claims of papers, re-run: same data, same encoders, same budget, only the paper's idea differs.

One file a paper holds `reproduction`, a `nearfar.reproductions.shared.claims.Reproduction`; `results/` holds the
recorded runs. `nearfar reproduce SLUG` runs one.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from nearfar.errors import UserError
from nearfar.reproductions.shared.choosing import Grid
from nearfar.reproductions.shared.claims import Claim, Reproduction
from nearfar.reproductions.shared.per_query import PerQuery


def find(slug: str) -> Reproduction:
    """The reproduction of a paper by its slug.

    Raises:
        UserError: that paper has none, or there is no such paper.
    """
    from nearfar.papers import PAPERS

    if slug not in {paper.slug for paper in PAPERS} or find_spec(module_of(slug)) is None:
        known = [paper.slug for paper in PAPERS if find_spec(module_of(paper.slug))]
        raise UserError(f"no reproduction of {slug!r}; there are: {', '.join(known)}")
    return import_module(module_of(slug)).reproduction


def module_of(slug: str) -> str:
    """Where a paper's reproduction is, or would be."""
    return f"nearfar.reproductions.{slug.replace('-', '_')}_reproduction"


__all__ = ["Claim", "Grid", "PerQuery", "Reproduction", "find"]
