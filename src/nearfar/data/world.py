"""The embedded world: real pictures with real words that ship inside the package, so that no hub is needed.

- `emoji`: 1,852 concepts, each drawn in five styles, with names and tags in 33 languages.
- `clipart`: 2,260 drawings with the titles, keywords and descriptions that their makers gave them, noise included.
- `words`: the concepts' names and keywords as pairs of texts, without pictures.
- `topics`: the same as one text a concept, with its subject as class: 97 of them, some rare.

Splits are fixed by a hash of the concept. A concept of val or test appears in training in no style, no language and no
clip art. Where each picture comes from and under which licence: `provenance`, and the notices beside the tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from nearfar.data.sources.source import Record, Records, Source
from nearfar.errors import UserError

FILES = Path(__file__).with_name("world_files")
STYLES = ["noto", "twemoji", "openmoji", "openmoji-line", "fluent-3d"]
SPLITS = ["train", "val", "test"]
LANGUAGES = [
    *("ar", "bg", "bn", "cs", "da", "de", "el", "en", "es", "et", "fa", "fi", "fr", "he", "hi", "hu", "id"),
    *("it", "ja", "ko", "lt", "nl", "pl", "pt", "ro", "ru", "sv", "sw", "th", "tr", "uk", "vi", "zh"),
]

TAGS_A_CAPTION = 4
_PACKAGE_OF_STYLE = {"openmoji-line": "openmoji"}


def emoji(
    split: str = "train",
    *,
    styles: Sequence[str] | None = None,
    language: str = "en",
    tags: bool = True,
    subjects: bool = False,
) -> Source:
    """The emojis of a split, one record for each concept and style, the styles of a concept next to one another.

    Args:
        split: "train", "val", "test" or "all".
        styles: some of `STYLES`; by default all five.
        language: one of `LANGUAGES`; concepts without a name in it are left out.
        tags: adds captions made of the tags after the name.
        subjects: takes for classes the 97 subjects that Unicode files concepts under (`animal mammal`), the same in
            every split, in place of the concepts themselves.

    `classes` are the names of the split's concepts and `label` counts them; `group` is the concept's number in the
    whole world, equal in every style, split and language; `domain` the style's place in `STYLES`, whichever were chosen
    for. Raises `UserError` for a split, style or language that is not there.

    >>> from nearfar.data import world
    >>> source = world.emoji("test", styles=["noto", "openmoji-line"])
    >>> len(source), len(source.classes)
    (638, 319)
    >>> source[0]["text"][0] == source[1]["text"][0] == source.classes[0]
    True
    """
    chosen = [_known(style, STYLES, "style") for style in (STYLES if styles is None else styles)]
    named = names(_known(language, LANGUAGES, "language"))
    members = [c for c, concept in enumerate(concepts()) if _in_split(concept, split) and c in named]
    return EmojiSource(members, chosen, language=language, tags=tags, split=split, subjects=subjects)


def clipart(split: str = "train", *, clean: bool = False) -> Source:
    """The clip art of a split: val and test hold the drawings whose words name a concept of val or test.

    Captions are the title, the description if there is a real one, and the keywords, as their makers wrote them.
    `label` is the category, `group` is equal for drawings of the same title.

    Args:
        split: "train", "val", "test" or "all".
        clean: keeps the drawings with a short title that their keywords bear out.

    >>> from nearfar.data import world
    >>> pie = next(r for r in world.clipart("all") if r["title"] == "Apple Pie")
    >>> pie["text"]
    ['Apple Pie', 'dessert, food, pie, apple, fruit, menu']
    """
    rows = _rows("clipart")
    members = [i for i, row in enumerate(rows) if _in_split(row, split) and (row["clean"] or not clean)]
    return ClipartSource(members, name=f"world/clipart:{split}{'-clean' if clean else ''}")


def words(split: str = "train", *, language: str = "en") -> Source:
    """The emojis' names and keywords, one pair a concept: `text` is the name, `text2` its keywords.

    Args:
        split: "train", "val", "test" or "all".
        language: one of `LANGUAGES`; concepts without name or keywords in it are left out.

    >>> from nearfar.data import world
    >>> pair = next(r for r in world.words("all") if r["text"] == "sauropod")
    >>> pair["text2"]
    'brachiosaurus, brontosaurus, dinosaur, diplodocus'
    """
    named = _words(_known(language, LANGUAGES, "language"))
    members = [c for c, concept in enumerate(concepts()) if _in_split(concept, split) and c in named]
    pairs = [(c, named[c]["name"], ", ".join(_other_tags(named[c]))) for c in members]
    records = [{"index": c, "text": name, "text2": tags, "group": c} for c, name, tags in pairs if tags]
    return Records(records, name=f"world/words:{split}" + ("" if language == "en" else f":{language}"))


def topics(split: str = "train", *, language: str = "en") -> Source:
    """The emojis' names and keywords, one text a concept, with the subject that Unicode files it under as class: 97
    subjects, from 1 concept to 245. `subject` is the class's name, `category` that of the nine groups above.

    Args:
        split: "train", "val", "test" or "all".
        language: one of `LANGUAGES`; concepts without a name in it are left out. Subjects are English.

    >>> from nearfar.data import world
    >>> entry = next(r for r in world.topics("all") if r["text"].startswith("sauropod"))
    >>> entry["text"], entry["subject"], entry["category"]
    ('sauropod, brachiosaurus, brontosaurus, dinosaur, diplodocus', 'animal reptile', 'animals nature')
    """
    named = _words(_known(language, LANGUAGES, "language"))
    subjects = _subjects()
    records = []
    for c, concept in enumerate(concepts()):
        if _in_split(concept, split) and c in named:
            subject = concept["subcategory"].replace("-", " ")
            text = ", ".join([named[c]["name"], *_other_tags(named[c])])
            category = concept["category"].replace("-", " ")
            row = {"index": c, "text": text, "label": subjects.index(subject), "group": c}
            records.append(row | {"subject": subject, "category": category})
    suffix = "" if language == "en" else f":{language}"
    return Records(records, name=f"world/topics:{split}{suffix}", classes=subjects)


def names(language: str = "en") -> dict[int, str]:
    """The concepts' names in a language, by concept number.

    >>> [names("fr")[number] for number, name in names("en").items() if name == "sauropod"]
    ['sauropode']
    """
    return {concept: entry["name"] for concept, entry in _words(language).items()}


@lru_cache(maxsize=1)
def concepts() -> list[dict[str, Any]]:
    """What is known of each concept, in order of its number: `hexcode`, `emoji`, `name`, `tags`, `category`,
    `subcategory`, `base` (what it shares with its variants, and what its split hangs on), `split`, `synonyms`.

    >>> [(c["base"], c["split"]) for c in concepts() if c["name"] in ("woman cook", "cook")]
    [('cook', 'train'), ('cook', 'train')]
    """
    return _rows("emoji")


def picture(concept: int, style: str) -> bytes:
    """The encoded picture (WebP with transparency, 64 or 96 pixels a side) of one concept in one style."""
    return _images("emoji_images")[concept * len(STYLES) + STYLES.index(_known(style, STYLES, "style"))].as_py()


def provenance(record: Record) -> dict[str, str]:
    """Where the picture of a record of `emoji` or `clipart` comes from: `package`, `version`, `file` inside it,
    `licence`, `attribution` and, where known, the `author`.

    >>> where = provenance(emoji("test", styles=["twemoji"])[0])
    >>> where["package"], where["licence"]
    ('emoji-datasource-twitter', 'CC-BY-4.0')
    """
    if "style" in record:
        row = _rows("emoji_images")[record["group"] * len(STYLES) + STYLES.index(record["style"])]
        key = _PACKAGE_OF_STYLE.get(record["style"], record["style"])
    elif record.get("source", "").endswith(".png"):
        row, key = _rows("clipart")[record["index"]], "clipart-png"
    else:
        raise UserError("provenance needs a record of world.emoji or world.clipart, with its 'style' or 'source'")
    package = next(p for p in _rows("packages") if p["key"] == key)
    return {
        "package": package["name"],
        "version": package["version"],
        "file": row["source"],
        "licence": package["licence"],
        "attribution": package["attribution"],
        "author": row["author"],
    }


class EmojiSource(Source):
    """What `emoji` returns. Holds numbers only, so that a worker process gets it cheaply."""

    columns = (
        *("index", "image", "text", "label", "group", "domain"),
        *("name", "style", "hexcode", "emoji", "category", "subcategory", "tags"),
    )
    domains = STYLES

    def __init__(
        self, members: list[int], styles: list[str], *, language: str, tags: bool, split: str, subjects: bool = False
    ) -> None:
        self.members, self.styles, self.language, self.tags = members, styles, language, tags
        self.name = f"world/emoji:{split}" + ("" if language == "en" else f":{language}")
        named = names(language)
        self.subjects = _subjects() if subjects else None
        self.classes = self.subjects or [named[concept] for concept in members]

    def __len__(self) -> int:
        return len(self.members) * len(self.styles)

    def record(self, index: int) -> Record:
        label, style_number = divmod(index, len(self.styles))
        number, style = self.members[label], self.styles[style_number]
        concept, words = concepts()[number], _words(self.language)[number]
        if self.subjects:
            label = self.subjects.index(concept["subcategory"].replace("-", " "))
        return {
            "index": number * len(STYLES) + STYLES.index(style),
            "image": picture(number, style),
            "text": [words["name"], *(_tag_captions(words) if self.tags else [])],
            "label": label,
            "group": number,
            "domain": STYLES.index(style),
            "name": words["name"],
            "style": style,
            "hexcode": concept["hexcode"],
            "emoji": concept["emoji"],
            "category": concept["category"],
            "subcategory": concept["subcategory"],
            "tags": list(words["tags"]),
        }


class ClipartSource(Source):
    """What `clipart` returns."""

    columns = (
        *("index", "image", "text", "label", "group", "domain"),
        *("title", "description", "keywords", "category", "subcategory", "source"),
    )
    domains = ["clipart"]  # noqa: RUF012

    def __init__(self, members: list[int], *, name: str) -> None:
        self.members, self.name = members, name
        self.classes = _categories()

    def __len__(self) -> int:
        return len(self.members)

    def record(self, index: int) -> Record:
        number = self.members[index]
        row = _rows("clipart")[number]
        words = [row["title"], row["description"], ", ".join(row["keywords"])]
        return {
            "index": number,
            "image": _images("clipart")[number].as_py(),
            "text": list(dict.fromkeys(text for text in words if text)),
            "label": _categories().index(row["category"]),
            "group": _title_groups()[number],
            "domain": 0,
            **{key: row[key] for key in ("title", "description", "keywords", "category", "subcategory", "source")},
        }


def _tag_captions(words: dict[str, Any]) -> list[str]:
    tags = _other_tags(words)
    return [", ".join(tags[i : i + TAGS_A_CAPTION]) for i in range(0, len(tags), TAGS_A_CAPTION)]


def _other_tags(words: dict[str, Any]) -> list[str]:
    return [tag for tag in words["tags"] if tag.lower() != words["name"].lower()]


def _in_split(row: dict[str, Any], split: str) -> bool:
    return _known(split, [*SPLITS, "all"], "split") == "all" or row["split"] == split


def _known(value: str, allowed: Sequence[str], kind: str) -> str:
    if value not in allowed:
        raise UserError(f"the world has no {kind} {value!r}; choose from: {', '.join(allowed)}")
    return value


@cache
def _table(name: str) -> Any:
    import pyarrow.parquet as parquet

    return parquet.read_table(FILES / f"{name}.parquet", memory_map=True).combine_chunks()


@cache
def _rows(name: str) -> list[dict[str, Any]]:
    table = _table(name)
    return table.drop_columns([c for c in table.column_names if c == "image"]).to_pylist()


@cache
def _images(name: str) -> Any:
    return _table(name)["image"].chunk(0)


@cache
def _words(language: str) -> dict[int, dict[str, Any]]:
    import pyarrow.compute as compute

    table = _table("emoji_names")
    rows = table.filter(compute.equal(table["language"], _known(language, LANGUAGES, "language"))).to_pylist()
    return {row["concept"]: row for row in rows}


@lru_cache(maxsize=1)
def _subjects() -> list[str]:
    return sorted({concept["subcategory"].replace("-", " ") for concept in concepts()})


@lru_cache(maxsize=1)
def _categories() -> list[str]:
    return sorted({row["category"] for row in _rows("clipart")})


@lru_cache(maxsize=1)
def _title_groups() -> list[int]:
    """Drawings of the same title have the number of the first; one without a title is a group of its own."""
    first: dict[str, int] = {}
    titles = (row["title"].casefold() for row in _rows("clipart"))
    return [first.setdefault(title, number) if title else number for number, title in enumerate(titles)]
