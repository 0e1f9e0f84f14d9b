"""The gallery: a search's hits as one HTML file that holds its pictures and asks nothing of the network."""

from __future__ import annotations

from html import escape
from pathlib import Path

from nearfar import files
from nearfar.search.index.items import Hit
from nearfar.search.page.pictures import data_uri, hit_thumbnail, thumbnail
from nearfar.search.querying.query import Query, Results

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1c1c22; --soft: #6b6b76; --ground: #fafafa; --card: #fff; --line: #e4e4ea;
  --bar: #4f46e5; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #ececf1; --soft: #a0a0ab; --ground: #17171b; --card: #212127;
  --line: #33333b; --bar: #818cf8; }} }}
body {{ margin: 0 auto; max-width: 72rem; padding: 2rem 1.25rem 4rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }}
header {{ display: flex; gap: 1rem; align-items: center; margin-bottom: 1.5rem; }}
header img {{ width: 5rem; height: 5rem; object-fit: contain; background: #fff; border-radius: .5rem;
  border: 1px solid var(--line); }}
h1 {{ font-size: 1.4rem; margin: 0; }}
p {{ margin: 0; color: var(--soft); }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1rem; }}
figure {{ margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: .6rem; overflow: hidden; }}
figure img {{ display: block; width: 100%; height: 11rem; object-fit: contain; background: #fff; }}
figcaption {{ padding: .6rem .75rem .75rem; overflow-wrap: anywhere; }}
figcaption small {{ color: var(--soft); display: block; }}
meter {{ width: 100%; height: .4rem; display: block; background: var(--line); border: 0; border-radius: 1rem;
  overflow: hidden; }}
meter::-webkit-meter-bar {{ background: var(--line); border: 0; border-radius: 1rem; }}
meter::-webkit-meter-optimum-value {{ background: var(--bar); }}
meter::-moz-meter-bar {{ background: var(--bar); }}
</style>
<header>{picture}<div><h1>{title}</h1><p>{note}</p></div></header>
<main>
{cards}
</main>
</html>
"""
CARD = """<figure><img src="{picture}" alt="{caption}" title="{key}">
<figcaption>{caption}<small>{rank}. score {score:.3f}{domain}</small>
<meter min="0" max="1" value="{share:.3f}"></meter></figcaption></figure>"""


def gallery(results: Results) -> str:
    """The hits as a page.

    >>> gallery(Results(query=Query(text="<a>"), hits=[])).count("&lt;a&gt;")
    2
    """
    asked = results.query
    picture = ""
    if asked.image is not None:
        picture = f'<img src="{data_uri(thumbnail(asked.picture(), 160))}" alt="the query\'s picture">'
    title = escape(describe(asked))
    cards = "\n".join(card(hit, best=results.hits[0].score) for hit in results)
    note = escape(f"{len(results)} hits. {results.cost}")
    return PAGE.format(title=title, picture=picture, cards=cards, note=note)


def write_gallery(results: Results, path: Path) -> None:
    """Write the page to a file, atomically."""
    files.write(path, gallery(results))


def describe(asked: Query) -> str:
    """The query in one line.

    >>> describe(Query(text="a car", plus=("red",), minus=("people",)))
    'a car + red − people'
    """
    parts = [text for text in (asked.text, "the picture" if asked.image is not None else None) if text]
    line = " + ".join([*parts, *asked.plus])
    return " \N{MINUS SIGN} ".join([line, *asked.minus])


def card(hit: Hit, *, best: float) -> str:
    """One hit. Its bar is drawn against the best hit's: cosines of text and picture are small numbers."""
    return CARD.format(
        picture=data_uri(hit_thumbnail(hit)),
        caption=escape(hit.caption or "(no caption)"),
        key=escape(hit.path or hit.key),
        rank=hit.rank,
        domain=escape(f", {hit.domain_name}" if hit.domain_name else ""),
        score=hit.score,
        share=max(0.0, min(1.0, hit.score / best)) if best > 0 else 0.0,
    )
