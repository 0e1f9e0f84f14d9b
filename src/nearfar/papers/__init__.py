"""The papers: `nearfar papers` prints their table, and those of README and docs are generated from it."""

from nearfar import lookup
from nearfar.papers.listing import PAPERS
from nearfar.papers.paper import KINDS, Paper
from nearfar.papers.paper_tables import as_json, as_markdown, as_table, in_order

__all__ = ["KINDS", "PAPERS", "Paper", "as_json", "as_markdown", "as_table", "find", "in_order"]


def find(slug: str) -> Paper:
    """The paper of that slug.

    Raises:
        UserError: no such paper; the message lists those there are.

    >>> find("align").arxiv
    '2102.05918'
    """
    return lookup.find("paper", slug, {paper.slug: paper for paper in PAPERS})
