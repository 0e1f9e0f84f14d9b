"""The gallery: a search's hits as one HTML file that holds its pictures and needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nearfar import files, templates
from nearfar.search.index.items import Hit
from nearfar.search.page.pictures import data_uri, hit_thumbnail, hit_uri, thumbnail
from nearfar.search.querying.query import Query, Results


def gallery(results: Results) -> str:
    """The hits as a page.

    >>> gallery(Results(query=Query(text="<a>"), hits=[])).count("&lt;a&gt;")
    2
    """
    query = results.query
    return templates.render(
        __package__,
        "gallery.html.jinja",
        title=describe(query),
        note=f"{len(results)} hits. {results.cost}",
        picture=_picture(query),
        cards=[card(hit, best=results.hits[0].score) for hit in results],
    )


def write_gallery(results: Results, path: Path) -> None:
    """Write the page to a file, atomically."""
    files.write(path, gallery(results))


def describe(query: Query) -> str:
    """The query in one line.

    >>> describe(Query(text="a car", plus=("red",), minus=("people",)))
    'a car + red − people'
    """
    media = {"the picture": query.image, "the sound": query.audio}
    parts = [query.text] if query.text else []
    parts += [name for name, content in media.items() if content is not None]
    line = " + ".join([*parts, *query.plus])
    return " \N{MINUS SIGN} ".join([line, *query.minus])


def _picture(query: Query) -> str:
    """The query's picture, or the spectrogram of its sound, as a URL; empty without either."""
    if query.image is not None:
        return data_uri(thumbnail(query.picture(), 160))
    if query.audio is not None:
        from nearfar.data.sound.sound_preview import spectrogram

        return data_uri(thumbnail(spectrogram(query.audio), 160))
    return ""


def card(hit: Hit, *, best: float) -> dict[str, Any]:
    """What the page says of one hit. Its bar is drawn against the best hit's: cosines of text and picture are small
    numbers."""
    return {
        "picture": hit_uri(hit),
        "still": data_uri(hit_thumbnail(hit)) if hit.moves else "",
        "caption": hit.caption or "(no caption)",
        "name": hit.path or hit.key,
        "rank": hit.rank,
        "domain": hit.domain_name,
        "score": f"{hit.score:.3f}",
        "share": f"{max(0.0, min(1.0, hit.score / best)) if best > 0 else 0.0:.3f}",
    }
