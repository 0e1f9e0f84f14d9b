"""`nearfar papers`."""

from __future__ import annotations

from typing import Literal


def papers(format: Literal["table", "markdown", "json"] = "table", only_in: bool = False) -> None:
    """List the papers by kind, those that are in first: where each lives, and what its recorded reproduction found.

    Args:
        format: "table" for the terminal, "markdown" for a page, "json" for programs.
        only_in: leave out those that are not in yet.
    """
    from nearfar.papers import PAPERS, as_json, as_lists, as_markdown, as_table

    chosen = [paper for paper in PAPERS if paper.is_in or not only_in]
    if format == "markdown":
        print(as_markdown(chosen))
        if coming := as_lists(chosen):
            print(f"\nNot in yet:\n\n{coming}")
    elif format == "json":
        print(as_json(chosen))
    else:
        from rich.console import Console

        Console().print(as_table(chosen))
