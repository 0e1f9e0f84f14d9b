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
    """Papers that are in come first; each part is in the order of `KINDS`, then by name.

    >>> from nearfar.papers import find
    >>> [paper.slug for paper in in_order([find("x-clip"), find("contrastive-search"), find("align")])]
    ['align', 'contrastive-search', 'x-clip']
    """
    return sorted(papers, key=lambda paper: (not paper.is_in, KINDS.index(paper.kind), paper.name.lower()))


def as_markdown(papers: Iterable[Paper], pages: str = "docs/papers/") -> str:
    """The table of papers that are in, sorted by kind; `pages` is the folder of their pages, as a link needs it."""
    lines = ["| kind | paper | arXiv | where | recipes | verdict of its claims |", "|---|---|---|---|---|---|"]
    for paper in in_order(papers):
        if paper.is_in:
            name = f"[{paper.name}]({pages}{paper.slug}.md)"
            recipes = ", ".join(f"`{recipe}`" for recipe in paper.recipes)
            cells = (paper.kind, name, _arxiv(paper), f"`{paper.home[0]}`", recipes, paper.verdict or UNRECORDED)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"All together: {_all_together(papers)}."])


def _all_together(papers: Iterable[Paper]) -> str:
    return tally([claim for paper in papers for claim in paper.claims])


def as_lists(papers: Iterable[Paper]) -> str:
    """The papers that are not in yet, in Markdown: one list, an item for each kind."""
    lines = []
    for kind in KINDS:
        coming = [paper for paper in in_order(papers) if paper.kind == kind and not paper.is_in]
        if coming:
            lines.append(f"- **{kind}**: " + ", ".join(f"{paper.name} ({_arxiv(paper)})" for paper in coming))
    return "\n".join(lines)


def _arxiv(paper: Paper) -> str:
    return f"[{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})"


def as_json(papers: Iterable[Paper]) -> str:
    """The table for programs."""
    rows = [{**asdict(paper), "in": paper.is_in, "verdict": paper.verdict} for paper in in_order(papers)]
    return json.dumps(rows, indent=1, ensure_ascii=False)


def as_table(papers: Sequence[Paper]) -> Table:
    """The table for the terminal: the papers that are in, then the others, each part by kind."""
    from rich.table import Table

    title = f"{sum(paper.is_in for paper in papers)} of {len(papers)} papers are in"
    table = Table(title=title, caption=f"All claims: {_all_together(papers)}", box=None, pad_edge=False)
    for column in ("slug", "arXiv", "module, recipes, verdict of its claims"):
        table.add_column(column, no_wrap=True)  # what is typed stays in one piece, also in 80 columns
    part = None
    for paper in in_order(papers):
        if part != (paper.is_in, paper.kind):
            part = (paper.is_in, paper.kind)
            heading = "bold" if paper.is_in else "bold dim"
            table.add_row(paper.kind, "", "" if paper.is_in else "not in yet", style=heading)
        where = [paper.home[0].removeprefix("nearfar."), *paper.recipes] if paper.is_in else []
        where += [f" {part}" for part in (paper.verdict or UNRECORDED).split("; ")] if paper.is_in else []
        style = None if paper.is_in else "dim"
        table.add_row(paper.slug, paper.arxiv, "\n".join(where), style=style)
    return table
