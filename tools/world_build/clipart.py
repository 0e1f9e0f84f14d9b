"""The clip art table: drawings with the titles, keywords and descriptions that their makers gave them."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from world_build.concepts import Naming, words_of

SIZE = 128
"""Pixels of the longer side; nothing is enlarged."""

SMALLEST, LARGEST, LONGEST_RATIO = 32, 2000, 4

# Icon themes, near-identical stars, flags and cards: thousands of drawings that the words hardly tell apart.
LEFT_OUT = (
    "shapes",
    "logos",
    "buttons",
    "computer/icons",
    "computer/buttons",
    "computer/folders",
    "recreation/games/cards",
    "signs_and_symbols/flags",
    "signs_and_symbols/led",
    "signs_and_symbols/map_symbols",
    "special/patterns",
    "special/examples",
    "special/gradients",
    "unsorted/duplicates",
    "people/clothing/pantyhose",
)
# Portraits of real persons lie among these; the subfolders (clothing, body parts, smileys, stick figures) are kept.
LOOSE_LEFT_OUT = "people"
# Words of drawings that do not belong before everyone's eyes, whole and in the singular.
_UNWANTED = """
adult bikini bitch blood bloody bomb bondage boob bra breast butt cannabis cigarette coffin corpse crucifix
crucifixion cum dead death devil dick drug erotic execution fetish fuck gallow gore gun hanged hangman hell hitler
kill killer kinky lingerie lust marijuana murder naked nazi nipple nude nudity pantyhose penis pinup pistol porn
porno pregnancy prostitute revolver rifle satan satanic sex sexual sexy shit skeleton skull slave stocking stripper
suicide sunwheel swastika terror terrorist toilet topless torture underwear urinal vagina violence weapon whore
"""
UNWANTED = set(_UNWANTED.split())


def drawings(packages: dict[str, Path], naming: Naming) -> Iterator[dict]:
    """One row for each usable drawing. `naming` finds the held-out concepts that its words name; it decides the split:
    test if one of them is a test concept, else val if one is of val, else train."""
    pictures = packages["clipart-png"] / "usr/share/openclipart/png"
    sources = packages["clipart-svg"] / "usr/share/openclipart/svg"
    looks: set[bytes] = set()
    for path in sorted(pictures.rglob("*.png")):
        place = path.relative_to(pictures)
        if path.is_symlink() or place.as_posix().startswith(LEFT_OUT) or place.parent.as_posix() == LOOSE_LEFT_OUT:
            continue
        words = _words(sources / place.with_suffix(".svg"))
        if not words or _unwanted(words, place):
            continue
        picture = _picture(path)
        if picture is None or (look := _look(picture)) in looks:
            continue
        looks.add(look)
        named = set().union(*(naming.find(t) for t in (words["title"], words["description"], *words["keywords"])))
        splits = {concept.partition(":")[0] for concept in named}
        category, _, rest = place.parent.as_posix().partition("/")
        yield {
            **words,
            "category": category.replace("_", " "),
            "subcategory": rest.replace("_", " "),
            "clean": _clean(words),
            "names": sorted(concept.partition(":")[2] for concept in named),
            "split": "test" if "test" in splits else "val" if "val" in splits else "train",
            "image": _encode(picture),
            "source": place.as_posix(),
        }


def _words(svg: Path) -> dict | None:
    """Title, description, keywords and author out of the drawing's own metadata; None where there are no words."""
    if not svg.exists():
        return None
    text = svg.read_text("utf-8", errors="replace")
    if re.search(r"<image[^>]*href=\"(?!data:)", text, re.S):
        return None  # it shows another file, which is not there
    subject = re.search(r"<dc:subject>(.*?)</dc:subject>", text, re.S)
    creator = re.search(r"<dc:creator>(.*?)</dc:creator>", text, re.S)
    keywords = [_tidy(k) for k in re.findall(r"<rdf:li[^>]*>(.*?)</rdf:li>", subject[1], re.S)] if subject else []
    title = _tidy(_tag(text, "title"))
    description = _tidy(_tag(text, "description"))
    words = {
        "title": title if words_of(title) else "",
        "description": description if len(words_of(description)) >= 4 and description != title else "",
        "keywords": list(dict.fromkeys(k for k in keywords if words_of(k) and k.lower() not in ("unsorted", "hash"))),
        "author": _tidy(_tag(creator[1], "title")) if creator else "",
    }
    return words if words["title"] or words["description"] or words["keywords"] else None


def _tag(text: str, name: str) -> str:
    match = re.search(rf"<dc:{name}[^>/]*>(.*?)</dc:{name}>", text, re.S)
    return match[1] if match else ""


def _tidy(text: str) -> str:
    plain = html.unescape(html.unescape(re.sub(r"<[^>]*>", " ", text)))
    return " ".join(plain.split())


def _unwanted(words: dict, place: Path) -> bool:
    texts = (words["title"], words["description"], *words["keywords"], place.as_posix().replace("_", " "))
    return any(UNWANTED & set(words_of(text)) for text in texts)


def _clean(words: dict) -> bool:
    """A short title that the keywords bear out: the drawings one would keep when curating by hand."""
    title = words_of(words["title"])
    named = {word for keyword in words["keywords"] for word in words_of(keyword) if len(word) > 2}
    return 1 <= len(title) <= 6 and bool(named & set(title)) and not any(word.isdigit() for word in title)


def _picture(path: Path) -> Image.Image | None:
    """The drawing cropped to what is drawn, at most `SIZE` pixels long; None if it is too small, huge, a strip or
    empty."""
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(path) as opened:
        if max(opened.size) > LARGEST:
            return None
        picture = opened.convert("RGBA")
    box = picture.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox()
    if box is None:
        return None
    picture = picture.crop(box)
    if min(picture.size) * LONGEST_RATIO < max(picture.size) or max(picture.size) < SMALLEST:
        return None
    picture.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    return None if _blank(picture) else picture


def _blank(picture: Image.Image) -> bool:
    """White on nothing is nothing: everything in this world is shown on white ground."""
    ground = Image.new("RGBA", picture.size, "white")
    ink = Image.alpha_composite(ground, picture).convert("L").point(lambda v: 255 * (v < 200))
    return ink.histogram()[255] < 0.02 * picture.width * picture.height


def _look(picture: Image.Image) -> bytes:
    """What the drawing looks like at a glance; copies saved at other sizes look the same."""
    ground = Image.new("RGBA", picture.size, "white")
    glance = Image.alpha_composite(ground, picture).convert("RGB").resize((14, 14), Image.Resampling.BOX)
    return glance.point(lambda v: (v + 8) // 16).tobytes()


def _encode(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", method=4, quality=90)
    return buffer.getvalue()
