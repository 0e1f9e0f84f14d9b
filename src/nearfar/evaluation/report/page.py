"""The page around the report: one file of HTML and CSS that needs nothing from outside, for light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files


def page(title: str, lead: str, tiles: str, sections: Sequence[tuple[str, str]], footer: str) -> str:
    """The whole document. `sections` are pairs of heading and HTML; empty ones are left out."""
    shown = [(heading, body) for heading, body in sections if body]
    style = files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    links = "".join(f'<a href="#{_anchor(heading)}">{escape(heading)}</a>' for heading, _ in shown)
    bodies = "\n".join(
        f'<section aria-labelledby="{_anchor(heading)}">'
        f'<h2 id="{_anchor(heading)}">{escape(heading)}</h2>\n{body}</section>'
        for heading, body in shown
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<main>
<header>
<h1>{escape(title)}</h1>
<p class="note">{escape(lead)}</p>
<nav aria-label="Sections">{links}</nav>
{tiles}
</header>
{bodies}
<footer>{escape(footer)}</footer>
</main>
</body>
</html>
"""


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column names the rows. Headings are plain text, cells are HTML."""
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>\n"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{columns}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )


def figure(svg: str, caption: str, after: str = "") -> str:
    """A drawing, HTML (a legend) after it, and its caption, if it has one."""
    told = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{svg}{after}{told}</figure>\n"


def keys(colours: dict[str, str]) -> str:
    """A legend: names and their colours."""
    return (
        '<ul class="keys">'
        + "".join(f'<li><i style="background:{colour}"></i>{escape(name)}</li>' for name, colour in colours.items())
        + "</ul>"
    )


def tiles(entries: Iterable[tuple[str, str, str]]) -> str:
    """Large figures at the top: name, value, remark."""
    items = "".join(
        f"<li><small>{escape(name)}</small><b>{escape(value)}</b><small>{escape(remark)}</small></li>"
        for name, value, remark in entries
    )
    return f'<ul class="tiles">{items}</ul>' if items else ""


def _anchor(heading: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in heading.lower())
