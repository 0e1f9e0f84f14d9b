"""How the page shows hits: their pictures and titles in the gallery, and the chosen one large, a video playing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from nearfar.search.index.items import Hit
from nearfar.search.index.kept import short
from nearfar.search.page.clips import clip_of
from nearfar.search.page.pictures import animation, hit_thumbnail
from nearfar.search.page.uploads import Uploads

if TYPE_CHECKING:
    from PIL.Image import Image

    Shown = list[tuple[Image | str, str]]

LARGE = 1024
"""Pixels of the longer side of the larger view."""
MOST_WORDS = 160
"""Letters of a caption that stand under a picture; the larger view has all of them."""
VIDEO = Markup('<video src="/gradio_api/file={}" aria-label="{}" controls autoplay loop muted playsinline></video>')
SOUND = Markup('<audio src="/gradio_api/file={}" aria-label="{}" controls></audio>')
PICTURE = Markup('<img src="/gradio_api/file={}" alt="{}">')


def shown(hits: list[Hit], uploads: Uploads) -> Shown:
    """What the gallery takes: of each hit its picture, of a video a file that moves, and its title."""
    return [
        (uploads.share(kept, "webp") if (kept := animation(hit)) else hit_thumbnail(hit), title(hit)) for hit in hits
    ]


def title(hit: Hit) -> str:
    """What stands under a picture of the gallery: score and caption, and on a line of their own the kept columns."""
    caption = hit.caption
    if len(caption) > MOST_WORDS:
        caption = caption[: MOST_WORDS - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
    line = f"{hit.score:.3f}  {caption}" + (f" ({hit.domain_name})" if hit.domain_name else "")
    # A name is not parted from its value at the end of a line.
    kept = [f"{name}\N{NO-BREAK SPACE}{short(value)}" for name, value in hit.kept.items() if value is not None]
    return "\n".join([line, " \N{MIDDLE DOT} ".join(kept)] if kept else [line])


def larger(hit: Hit, uploads: Uploads) -> str:
    """A hit's picture, large, or its video, with captions and columns, as HTML."""
    known: dict[str, Any] = {"id": hit.id, "label": hit.label_name, "domain": hit.domain_name, **hit.kept}
    known = {name: short(value) for name, value in known.items() if value is not None} | {"from": hit.place}
    rows = Markup("").join(Markup("<dt>{}</dt><dd>{}</dd>").format(*each) for each in known.items())
    captions = Markup("").join(Markup("<p>{}</p>").format(caption) for caption in hit.captions[:6])
    return Markup(
        '<figure id="larger" aria-label="hit {}, large">{}<figcaption>{}<dl>{}</dl></figcaption><button type="button" '
        'title="close (Escape)" aria-label="close the larger view" onclick="this.parentElement.remove()">&times;'
        "</button></figure>"
    ).format(hit.rank, medium(hit, uploads), captions, rows)


def medium(hit: Hit, uploads: Uploads) -> Markup:
    """The picture or the video itself; nothing of a text."""
    if hit.is_text:
        return Markup()
    if clip := clip_of(hit):
        return VIDEO.format(uploads.share(*clip), hit.caption)
    if hit.sounds and hit.picture is not None:
        drawn = PICTURE.format(uploads.show(hit_thumbnail(hit, LARGE)), hit.caption)
        return drawn + SOUND.format(uploads.share(hit.picture(), "ogg"), hit.caption)
    kept = animation(hit)
    path = uploads.share(kept, "webp") if kept else uploads.show(hit_thumbnail(hit, LARGE))
    return PICTURE.format(path, hit.caption)
