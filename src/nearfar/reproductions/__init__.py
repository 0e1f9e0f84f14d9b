"""Claims of papers, re-run: same data, same encoders, same budget, only the paper's idea differs.

One file a paper holds `reproduction`, a `nearfar.reproductions.shared.harness.Reproduction`; `results/` holds the
recorded runs. `nearfar reproduce SLUG` runs one.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from nearfar.errors import UserError
from nearfar.reproductions.shared.harness import Claim, Reproduction


def find(slug: str) -> Reproduction:
    """The reproduction of a paper by its slug.

    Raises:
        UserError: that paper has none, or there is no such paper.
    """
    from nearfar.papers import PAPERS

    module = f"nearfar.reproductions.{slug.replace('-', '_')}"
    if slug not in {paper.slug for paper in PAPERS} or find_spec(module) is None:
        known = [p.slug for p in PAPERS if find_spec(f"nearfar.reproductions.{p.slug.replace('-', '_')}")]
        raise UserError(f"no reproduction of {slug!r}; there are: {', '.join(known)}")
    return import_module(module).reproduction


__all__ = ["Claim", "Reproduction", "find"]
