"""`nearfar papers`."""

from __future__ import annotations

from typing import Literal


def papers(format: Literal["table", "markdown", "json"] = "table") -> None:
    """List the papers by kind: where each lives, and what its recorded reproduction found.

    Args:
        format: "table" for the terminal, "markdown" for a page, "json" for programs.
    """
    from nearfar.papers import PAPERS, as_json, as_markdown, as_table

    if format == "markdown":
        print(as_markdown(PAPERS))
    elif format == "json":
        print(as_json(PAPERS))
    else:
        from rich.console import Console

        Console().print(as_table(PAPERS))
