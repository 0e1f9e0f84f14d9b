"""The table of papers for the terminal, for README and docs, and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from nearfar.papers.paper import KINDS, Paper
from nearfar.tally import tally

if TYPE_CHECKING:
    from rich.table import Table

UNRECORDED = "not re-run yet"
"""In the place of a verdict: the reproduction is there, and no run of it is recorded."""


def in_order(papers: Iterable[Paper]) -> list[Paper]:
    """Papers in the order of `KINDS`, then by name.

    >>> from nearfar.papers import find
    >>> [paper.slug for paper in in_order([find("x-clip"), find("contrastive-search"), find("align")])]
    ['align', 'contrastive-search', 'x-clip']
    """
    return sorted(papers, key=lambda paper: (KINDS.index(paper.kind), paper.name.lower()))


def as_markdown(papers: Iterable[Paper], pages: str = "docs/papers/") -> str:
    """The table of papers, sorted by kind; `pages` is the folder of their pages, as a link needs it."""
    lines = ["| kind | paper | arXiv | where | recipes | verdict of its claims |", "|---|---|---|---|---|---|"]
    for paper in in_order(papers):
        name = f"[{paper.name}]({pages}{paper.slug}.md)"
        arxiv = f"[{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})"
        recipes = ", ".join(f"`{recipe}`" for recipe in paper.recipes)
        cells = (paper.kind, name, arxiv, f"`{paper.home[0]}`", recipes, paper.verdict or UNRECORDED)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"All together: {_all_together(papers)}."])


def _all_together(papers: Iterable[Paper]) -> str:
    return tally([claim for paper in papers for claim in paper.claims])


def as_json(papers: Iterable[Paper]) -> str:
    """The table for programs."""
    rows = [{**asdict(paper), "verdict": paper.verdict} for paper in in_order(papers)]
    return json.dumps(rows, indent=1, ensure_ascii=False)


def as_table(papers: Sequence[Paper]) -> Table:
    """The table for the terminal, by kind."""
    from rich.table import Table

    caption = f"All claims: {_all_together(papers)}"
    table = Table(title=f"{len(papers)} papers", caption=caption, box=None, pad_edge=False)
    for column in ("slug", "arXiv", "module, recipes, verdict of its claims"):
        table.add_column(column, no_wrap=True)  # what is typed stays in one piece, also in 80 columns
    kind = None
    for paper in in_order(papers):
        if paper.kind != kind:
            kind = paper.kind
            table.add_row(kind, style="bold")
        verdict = [f" {part}" for part in (paper.verdict or UNRECORDED).split("; ")]
        where = [paper.home[0].removeprefix("nearfar."), *paper.recipes, *verdict]
        table.add_row(paper.slug, paper.arxiv, "\n".join(where))
    return table
