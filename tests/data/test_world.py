"""The embedded world: its splits leak nothing, its pictures are what they say, its licences are there."""

from __future__ import annotations

import io
import pickle
import re
from collections import Counter

import pytest
from PIL import Image, ImageChops

from nearfar.data import world
from nearfar.errors import UserError


def test_sizes_of_the_splits() -> None:
    assert [len(world.emoji(s).classes or []) for s in ("train", "val", "test", "all")] == [1382, 151, 319, 1852]
    assert [len(world.emoji(s)) // 5 for s in ("train", "val", "test", "all")] == [1382, 151, 319, 1852]
    parts = [len(world.clipart(s)) for s in ("train", "val", "test")]
    assert sum(parts) == len(world.clipart("all")) > 2000
    assert parts[0] > 1500
    assert parts[2] > 250


def test_every_category_is_tested_in_about_its_share() -> None:
    test, whole = (Counter(world.concepts()[c]["category"] for c in group) for group in (_members("test"), range(1852)))
    for category in set(whole) - {"flags"}:
        assert 0.12 < test[category] / whole[category] < 0.28, category


def test_no_concept_base_or_name_is_in_two_splits() -> None:
    for what in ("hexcode", "name", "base"):
        splits: dict[str, str] = {}
        for concept in world.concepts():
            assert splits.setdefault(concept[what], concept["split"]) == concept["split"], concept[what]


def test_variants_of_one_thing_share_a_split() -> None:
    split = {c["name"]: c["split"] for c in world.concepts()}
    for family in (
        ("cook", "man cook", "woman cook"),
        ("dog", "dog face"),
        ("red apple", "green apple"),
        ("green book", "blue book", "orange book"),
        ("Santa Claus", "Mrs. Claus", "Mx Claus"),
        ("merman", "mermaid", "merperson"),
        ("prince", "princess"),
    ):
        assert len({split[name] for name in family}) == 1, family
    assert len({s for name, s in split.items() if re.search("o.clock|-thirty", name)}) == 1
    assert {s for name, s in split.items() if name.startswith("flag:")} == {"train"}


def test_no_language_lets_a_concept_cross_the_splits() -> None:
    for language in world.LANGUAGES:
        groups = [set(world.emoji(s, styles=["noto"], language=language).column("group")) for s in world.SPLITS]
        assert not groups[0] & groups[1]
        assert not groups[0] & groups[2]
        assert not groups[1] & groups[2]


def test_no_picture_of_a_held_out_concept_is_drawn_the_same_in_training() -> None:
    looks = {s: {r["image"] for r in world.emoji(s)} for s in world.SPLITS}
    assert not looks["train"] & (looks["val"] | looks["test"])


def test_clip_art_in_training_names_no_held_out_concept() -> None:
    """Its own reading of the words: plurals undone, one pattern of all names and base names of val and test."""

    def words(text: str) -> str:
        matches = re.findall(r"[^\W\d_]+|\d+", text.lower())
        return " ".join(w[:-1] if w.endswith("s") and len(w) > 3 and w[-2] not in "sui" else w for w in matches)

    def said(record: dict) -> str:
        return " | ".join(words(text) for text in (record["title"], record["description"], *record["keywords"]))

    held = {words(c[k]) for c in world.concepts() if c["split"] != "train" for k in ("name", "base")}
    names = "|".join(re.escape(name) for name in held if max(map(len, name.split()), default=0) > 2)
    held_out = re.compile(rf"\b({names})\b")
    assert not [(r["source"], matches) for r in world.clipart("train") if (matches := held_out.findall(said(r)))]
    # The others are named by the concepts' other names: "car" for "automobile".
    test = world.clipart("test")
    assert sum(bool(held_out.search(said(r))) for r in test) > len(test) / 2


def test_every_picture_opens_and_shows_something_on_white() -> None:
    sizes = {"noto": 64, "twemoji": 64, "openmoji": 96, "openmoji-line": 96, "fluent-3d": 96}
    for record in [*world.emoji("val"), *world.clipart("val")]:
        picture = Image.open(io.BytesIO(record["image"])).convert("RGBA")
        if "style" in record:
            assert picture.size == (sizes[record["style"]],) * 2
        else:
            assert max(picture.size) <= 128
        ground = Image.new("RGBA", picture.size, "white")
        shown = Image.alpha_composite(ground, picture).convert("RGB")
        assert ImageChops.difference(shown, Image.new("RGB", picture.size, "white")).getbbox(), record["index"]


def test_captions_are_name_then_tags_and_never_blank() -> None:
    record = next(r for r in world.emoji("all", styles=["noto"]) if r["name"] == "sauropod")
    assert record["text"] == ["sauropod", "brachiosaurus, brontosaurus, dinosaur, diplodocus"]
    assert world.emoji("all", tags=False)[0]["text"] == [world.concepts()[0]["name"]]
    for source in (world.emoji("all"), world.clipart("all"), world.emoji("all", language="ja")):
        assert all(text and all(t.strip() for t in text) for text in source.column("text"))


def test_labels_count_the_classes_and_groups_count_the_world() -> None:
    source = world.emoji("test", styles=["twemoji", "fluent-3d"])
    assert [r["label"] for r in source][:4] == [0, 0, 1, 1]
    assert source[2]["domain"] == world.STYLES.index("twemoji")
    for record in source:
        assert (source.classes or [])[record["label"]] == record["name"]
        assert world.concepts()[record["group"]]["hexcode"] == record["hexcode"]
    assert source.columns == tuple(source[0])
    art = world.clipart("all")
    assert art.columns == tuple(art[0])
    assert all((art.classes or [])[r["label"]] == r["category"] for r in art)


def test_at_least_twenty_languages_name_most_concepts() -> None:
    assert len(world.LANGUAGES) >= 20
    assert all(len(world.names(language)) > 1500 for language in world.LANGUAGES)
    number = next(i for i, c in enumerate(world.concepts()) if c["name"] == "octopus")
    assert [world.names(x)[number] for x in ("de", "fr", "ja")] == ["Oktopus", "pieuvre", "タコ"]


def test_provenance_names_package_licence_and_author() -> None:
    licences = {r["style"]: world.provenance(r)["licence"] for r in world.emoji("test")[:5]}
    assert licences == {
        "noto": "Apache-2.0",
        "twemoji": "CC-BY-4.0",
        "openmoji": "CC-BY-SA-4.0",
        "openmoji-line": "CC-BY-SA-4.0",
        "fluent-3d": "MIT",
    }
    assert world.provenance(world.emoji("test", styles=["openmoji"])[0])["author"]
    assert world.provenance(world.clipart("test")[0])["licence"] == "public domain"
    notice = (world.FILES / "licences/NOTICE.md").read_text("utf-8")
    assert all(name in notice for name in ("Noto", "Twemoji", "OpenMoji", "Fluent", "Emojibase", "CLDR", "Clip Art"))
    with pytest.raises(UserError, match="provenance needs"):
        world.provenance({"text": "a cat"})


def test_the_whole_world_stays_small() -> None:
    assert sum(f.stat().st_size for f in world.FILES.rglob("*") if f.is_file()) < 40e6


def test_sources_travel_to_workers_as_numbers() -> None:
    source = world.emoji("train")
    assert len(pickle.dumps(source)) < 100_000
    assert pickle.loads(pickle.dumps(source))[17] == source[17]


@pytest.mark.parametrize(
    "ask",
    [
        lambda: world.emoji("dev"),
        lambda: world.emoji("test", styles=["apple"]),
        lambda: world.emoji("test", language="tlh"),
        lambda: world.clipart("dev"),
    ],
)
def test_what_is_not_there_is_refused_with_the_choices(ask) -> None:
    with pytest.raises(UserError, match="choose from"):
        ask()


def _members(split: str) -> set[int]:
    return set(world.emoji(split, styles=["noto"]).column("group"))
