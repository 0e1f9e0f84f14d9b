"""The emoji tables: concepts, pictures in five styles, names in many languages."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import resvg_py
from PIL import Image

from world_build.concepts import base_concepts, split_of

STYLES = ["noto", "twemoji", "openmoji", "openmoji-line", "fluent-3d"]
LANGUAGES = [
    *("ar", "bg", "bn", "cs", "da", "de", "el", "en", "es", "et", "fa", "fi", "fr", "he", "hi", "hu", "id"),
    *("it", "ja", "ko", "lt", "nl", "pl", "pt", "ro", "ru", "sv", "sw", "th", "tr", "uk", "vi", "zh"),
]
VECTOR_SIZE = 96
"""Pixels a side where the source has more than it: OpenMoji is vectors, Fluent has 256. Noto and Twemoji have 64."""

_FOLDERS = {
    "noto": ("noto", "img/google/64", ".png"),
    "twemoji": ("twemoji", "img/twitter/64", ".png"),
    "openmoji": ("openmoji", "color/svg", ".svg"),
    "openmoji-line": ("openmoji", "black/svg", ".svg"),
    "fluent-3d": ("fluent-3d", "assets", ".webp"),
}


def concepts(packages: dict[str, Path]) -> list[dict]:
    """Every emoji that all five styles draw, in the order of the Unicode list, with its base concept and split."""
    files = {style: _files(packages, style) for style in STYLES}
    listed = json.loads((packages["names"] / "en/data.json").read_text("utf-8"))
    groups = json.loads((packages["names"] / "meta/groups.json").read_text("utf-8"))
    short = {
        _plain(entry["unified"]): [entry["name"], *entry["short_names"]]
        for entry in json.loads((packages["noto"] / "emoji.json").read_text("utf-8"))
    }
    kept = [e for e in listed if all(_plain(e["hexcode"]) in files[style] for style in STYLES)]
    base = base_concepts(kept, _drawn_alike(kept, files))
    return [
        {
            "hexcode": e["hexcode"],
            "emoji": e["emoji"],
            "name": e["label"],
            "tags": e.get("tags", []),
            "category": groups["groups"][str(e["group"])],
            "subcategory": groups["subgroups"][str(e["subgroup"])],
            "base": base[e["hexcode"]],
            "split": split_of(base[e["hexcode"]]),
            "synonyms": sorted({s.replace("_", " ").replace("-", " ").lower() for s in short[_plain(e["hexcode"])]}),
        }
        for e in kept
    ]


def pictures(packages: dict[str, Path], emojis: list[dict]) -> Iterator[dict]:
    """One row for each concept and style: encoded picture, the file it was made from, and who drew it if known."""
    files = {style: _files(packages, style) for style in STYLES}
    with (packages["openmoji"] / "data/openmoji.csv").open(encoding="utf-8") as file:
        authors = {_plain(row["hexcode"]): row["openmoji_author"] for row in csv.DictReader(file)}
    for concept, emoji in enumerate(emojis):
        code = _plain(emoji["hexcode"])
        for style in STYLES:
            path = files[style][code]
            yield {
                "concept": concept,
                "style": style,
                "image": _encode(path, style),
                "source": path.relative_to(packages[_FOLDERS[style][0]]).as_posix(),
                "author": authors.get(code, "") if style.startswith("openmoji") else "",
            }


def names(packages: dict[str, Path], emojis: list[dict]) -> Iterator[dict]:
    """One row for each language and concept it has a name for: CLDR's, and where CLDR's file lacks it (sequences,
    flags) Emojibase's. English is Emojibase's throughout, as in the table of concepts."""
    for language in LANGUAGES:
        here = packages["annotations"] / "annotations" / language / "annotations.json"
        cldr = json.loads(here.read_text("utf-8"))["annotations"]["annotations"]
        more = packages["names"] / language / "data.json"
        base = {e["hexcode"]: e for e in json.loads(more.read_text("utf-8"))} if more.exists() else {}
        for concept, emoji in enumerate(emojis):
            row = {"language": language, "concept": concept}
            entry = cldr.get(emoji["emoji"]) or cldr.get(emoji["emoji"].replace("\ufe0f", ""))
            if language == "en":
                yield row | {"name": emoji["name"], "tags": emoji["tags"], "source": "emojibase"}
            elif entry and entry.get("tts"):
                yield row | {"name": entry["tts"][0], "tags": entry.get("default", []), "source": "cldr"}
            elif emoji["hexcode"] in base:
                entry = base[emoji["hexcode"]]
                yield row | {"name": entry["label"], "tags": entry.get("tags", []), "source": "emojibase"}


def _files(packages: dict[str, Path], style: str) -> dict[str, Path]:
    package, folder, suffix = _FOLDERS[style]
    return {_plain(path.stem): path for path in sorted((packages[package] / folder).glob(f"*{suffix}"))}


def _plain(hexcode: str) -> str:
    """File names differ in case and in the variation selector, which changes no picture."""
    return hexcode.lower().replace("-fe0f", "")


def _drawn_alike(emojis: list[dict], files: dict[str, dict[str, Path]]) -> Iterator[tuple[str, str]]:
    for style in STYLES:
        first_code: dict[bytes, str] = {}
        for emoji in emojis:
            path = files[style][_plain(emoji["hexcode"])]
            yield first_code.setdefault(path.read_bytes(), emoji["hexcode"]), emoji["hexcode"]


def _encode(path: Path, style: str) -> bytes:
    if path.suffix == ".svg":
        png = bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=VECTOR_SIZE, height=VECTOR_SIZE))
        picture = Image.open(io.BytesIO(png)).convert("RGBA")
    else:
        picture = Image.open(path).convert("RGBA")
        if picture.width > VECTOR_SIZE:
            picture = picture.resize((VECTOR_SIZE, VECTOR_SIZE), Image.Resampling.LANCZOS)
    # The shaded Fluent pictures would take half of the whole world without loss.
    options = {"quality": 95} if style == "fluent-3d" else {"lossless": True, "quality": 100}
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", method=4, **options)
    return buffer.getvalue()
