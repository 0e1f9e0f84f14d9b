"""Scenes: the same everywhere, true to their captions, false in their negatives, held out where they say so."""

from __future__ import annotations

import hashlib
import pickle
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from nearfar.data import world
from nearfar.data.scenes import ATTRIBUTES, COLOURS, MOTIONS, RELATIONS, scenes, video
from nearfar.data.scenes.captions import PHRASES
from nearfar.data.scenes.layout import INVERSE
from nearfar.data.scenes.vocabulary import nouns, pair_split
from nearfar.errors import UserError

RECORDED = {
    "shapes": ("7f8aaa86e677135b", "75ad02aeb50d8706"),
    "basic": ("f52b55ef85b10fd1", "74834775bc55001b"),
    "four": ("8969da9d4fc631b1", "227daf680e9c9f2d"),
}


def _questions(which: str):
    if which == "shapes":
        return scenes("train", vocabulary="shapes")
    if which == "basic":
        return scenes("train", vocabulary="basic", styles=["noto"])
    looks = {"attributes": ("size", "turned"), "ground": "varied", "styles": ["openmoji"]}
    return scenes("test", objects=4, **looks)


@pytest.mark.parametrize("which", RECORDED)
def test_pixels_and_words_are_those_recorded(which: str) -> None:
    """Every machine and every version must make the same scenes: these are digests of the first forty."""
    source, pixels, words = _questions(which), hashlib.sha256(), hashlib.sha256()
    for record in source[:40]:
        pixels.update(record["image"].tobytes())
        words.update("\n".join(record["text"] + record["negative_text"]).encode())
    assert (pixels.hexdigest()[:16], words.hexdigest()[:16]) == RECORDED[which]


def test_a_record_depends_on_seed_split_and_number_alone() -> None:
    a, b = scenes("train", n=20, vocabulary="basic"), scenes("train", n=2000, vocabulary="basic")
    backwards = [b[i] for i in reversed(range(20))][::-1]
    assert [r["image"].tobytes() for r in a] == [r["image"].tobytes() for r in backwards]
    assert a[3]["text"] == pickle.loads(pickle.dumps(a))[3]["text"]
    assert a[3]["text"] != scenes("train", n=20, vocabulary="basic", seed=1)[3]["text"]


@pytest.mark.parametrize(
    ("relation", "objects"), [(r, o) for r in RELATIONS for o in (2, 3) if (r, o) != ("inside", 3)]
)
def test_the_relation_is_to_be_seen_in_the_boxes(relation: str, objects: int) -> None:
    for record in scenes("train", n=60, vocabulary="shapes", relations=[relation], objects=objects):
        a, b = (thing["box"] for thing in record["objects"][:2])
        centre = [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in (a, b)]
        area = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b)]
        holds = {
            "left of": a[2] <= b[0],
            "right of": a[0] >= b[2],
            "above": a[3] <= b[1],
            "below": a[1] >= b[3],
            "inside": a[0] > b[0] and a[1] > b[1] and a[2] < b[2] and a[3] < b[3],
            "bigger than": area[0] > 1.8 * area[1],
            "smaller than": area[1] > 1.8 * area[0],
        }
        assert holds[relation], record["text"]
        if relation in ("left of", "right of"):
            assert abs(centre[0][0] - centre[1][0]) > abs(centre[0][1] - centre[1][1])
        if relation in ("above", "below"):
            assert abs(centre[0][1] - centre[1][1]) > abs(centre[0][0] - centre[1][0])


def test_boxes_masks_and_colours_agree_with_the_pixels() -> None:
    for record in scenes("train", n=40, vocabulary="shapes", objects=3, relations=["left of", "above"], size=96):
        pixels = np.asarray(record["image"]).astype(int)
        masks = [thing["mask"] for thing in record["objects"]]
        assert not (sum(mask.astype(int) for mask in masks) > 1).any()
        for thing in record["objects"]:
            rows, columns = np.flatnonzero(thing["mask"].any(1)), np.flatnonzero(thing["mask"].any(0))
            assert thing["box"] == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            shown = np.median(pixels[thing["mask"]], axis=0)
            assert np.abs(shown - COLOURS[thing["colour"]]).max() <= 3, thing["name"]
        ground = ~np.any(masks, axis=0)
        assert np.median(pixels[ground]) == 255


def test_nothing_is_cut_off_and_what_is_inside_covers_what_is_around() -> None:
    for record in scenes("val", n=80, vocabulary="basic", ground="varied"):
        for thing in record["objects"]:
            x0, y0, x1, y1 = thing["box"]
            assert 0 <= x0 < x1 <= 64
            assert 0 <= y0 < y1 <= 64
            assert thing["mask"].shape == (64, 64)
            assert thing["mask"].sum() > 8
        first, second = record["objects"]
        assert not (first["mask"] & second["mask"]).any()


def test_captions_say_what_is_there_and_negatives_swap_one_thing() -> None:
    kinds: Counter[str] = Counter()
    for record in scenes("train", n=150, vocabulary="basic"):
        first, second = record["objects"]
        for caption in record["text"]:
            assert first["name"] in caption
            assert second["name"] in caption
        assert f"{first['colour']} {first['name']}" in record["text"][0]
        assert f"{second['colour']} {second['name']}" in record["text"][0]
        assert any(phrase in record["text"][1] for phrase in PHRASES[record["relation"]])
        assert any(phrase in record["text"][3] for phrase in PHRASES[INVERSE[record["relation"]]])
        assert record["text"][3].index(second["name"]) < record["text"][3].index(first["name"])
        for of, kind, false in zip(
            record["negative_of"], record["negative_kind"], record["negative_text"], strict=True
        ):
            kinds[kind] += 1
            true = record["text"][of]
            assert false != true
            # The same words (but for "a" and "an"), so that word counts do not tell them apart.
            assert _bag(false) == _bag(true)
            if kind == "attribution":
                assert f"{second['colour']} {first['name']}" in false
            else:
                assert (true.index(first["name"]) < true.index(second["name"])) == (
                    false.index(first["name"]) > false.index(second["name"])
                )
    assert kinds["attribution"] == kinds["relation"] == 300


def test_articles_and_long_captions_are_english() -> None:
    for record in scenes("train", n=200, objects=3):
        words = record["text"][0].split()
        for article, after in pairwise(words):
            if article in ("a", "an"):
                assert (article == "an") == (after[0].lower() in "aeiou"), record["text"][0]
        assert len(words) >= 9


@pytest.mark.parametrize("attribute", ["size", "turned"])
def test_each_attribute_is_worn_and_swapped(attribute: str) -> None:
    for record in scenes("train", n=60, attributes=[attribute], relations=["left of", "above"]):
        values = [thing[attribute] for thing in record["objects"]]
        assert sorted(values) == sorted(ATTRIBUTES[attribute])
        assert [thing["colour"] for thing in record["objects"]] == [None, None]
        assert f"{values[1]} {record['objects'][0]['name']}" in record["negative_text"][0]
        if attribute == "size":
            sides = [max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in (t["box"] for t in record["objects"])]
            assert (sides[0] > 1.5 * sides[1]) == (values[0] == "big")


def test_without_attributes_only_the_relation_is_falsified() -> None:
    record = scenes("train", attributes=(), vocabulary="basic")[0]
    assert record["negative_kind"] == ["relation", "relation"]
    assert record["negative_of"] == [1, 3]


def test_one_thing_alone_has_a_name_and_no_relation() -> None:
    record = scenes("val", objects=1)[0]
    assert record["relation"] is None
    assert record["negative_text"] == []
    assert record["objects"][0]["name"] in record["text"][0]


def test_splits_share_no_concept_and_with_a_shared_vocabulary_no_pair() -> None:
    owner = {c["name"]: c["split"] for c in world.concepts()}
    vocabularies = {split: set(nouns(None, split)) for split in world.SPLITS}
    for split, names in vocabularies.items():
        assert {owner[name] for name in names} == {split}
        assert len(names) > 50
    assert {owner[name] for name in nouns("basic", "test")} == {"train"}
    for split in world.SPLITS:
        for record in scenes(split, n=150, vocabulary="basic"):
            assert pair_split(*(thing["name"] for thing in record["objects"])) == split


def test_a_style_can_be_held_out() -> None:
    train = scenes("train", n=120, vocabulary="basic", held_out_style="fluent-3d").column("style")
    test = scenes("test", n=40, vocabulary="basic", held_out_style="fluent-3d").column("style")
    assert set(train) == set(world.STYLES) - {"fluent-3d"}
    assert set(test) == {"fluent-3d"}


def test_groups_are_equal_exactly_where_the_same_is_to_be_seen() -> None:
    shown: dict[int, tuple] = {}
    for record in scenes("train", n=600, vocabulary="shapes"):
        what = (record["relation"], *((t["name"], t["colour"]) for t in record["objects"]))
        assert shown.setdefault(record["group"], what) == what
    assert len(shown) == len(set(shown.values())) < 600
    assert max(shown) < 2**63


def test_columns_and_classes_are_those_of_the_records() -> None:
    source = scenes("test", n=30)
    assert source.columns == tuple(source[0])
    assert all((source.classes or [])[r["label"]] == r["objects"][0]["name"] for r in source)


def test_motions_are_seen_in_the_boxes_and_falsified_by_their_opposite() -> None:
    shown = set()
    for record in video("train", n=80, vocabulary="basic"):
        assert record["video"].shape == (8, 64, 64, 3)
        assert record["video"].dtype == np.uint8
        (x0, y0, x1, _), (u0, v0, u1, _) = record["boxes"][0], record["boxes"][-1]
        holds = {
            "moving to the left": u0 < x0 - 20,
            "moving to the right": u0 > x0 + 20,
            "moving up": v0 < y0 - 20,
            "moving down": v0 > y0 + 20,
            "growing": u1 - u0 > 2 * (x1 - x0),
            "shrinking": x1 - x0 > 2 * (u1 - u0),
        }
        motion = record["motion"]
        assert holds.get(motion, (u0, v0) == (x0, y0))
        assert motion in record["text"][0]
        assert motion not in record["negative_text"][0]
        assert list(MOTIONS)[record["label"]] == motion
        still = (record["video"] == record["video"][0]).all()
        assert still == (motion == "standing still") or motion.startswith("turning")
        shown.add(motion)
    assert shown == set(MOTIONS)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"split": "dev"}, "split has no 'dev'"),
        ({"objects": 6}, "1 to 5"),
        ({"size": 8}, "32 pixels"),
        ({"attributes": ("weight",)}, "attributes has no 'weight'"),
        ({"relations": ("near",)}, "relations has no 'near'"),
        ({"relations": ("inside",), "objects": 3}, "no relation left"),
        ({"vocabulary": "all"}, "vocabulary='all'"),
        ({"vocabulary": ["cat", "gryphon"]}, "no emoji is called 'gryphon'"),
        ({"vocabulary": ["cat", "dog"]}, "at least 6"),
        ({"vocabulary": "shapes", "attributes": ("turned",)}, "upside-down"),
        ({"styles": ["apple"]}, "no style 'apple'"),
        ({"held_out_style": "noto", "styles": ["noto"]}, "leaves no style"),
        ({"ground": "black"}, "ground has no 'black'"),
    ],
)
def test_what_cannot_be_made_is_refused(wrong: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        scenes(**wrong)
    if "split" in wrong:
        with pytest.raises(UserError, match="no split"):
            video("dev")


def _bag(caption: str) -> list[str]:
    return sorted("a" if word == "an" else word for word in caption.split())


def test_of_opposite_motions_the_one_is_the_other_backwards() -> None:
    """So no frame, and no mean over frames, tells which it is: the same frames in another order."""
    from nearfar.data.scenes.motions import ALL, EVENTS, ONLY_IN_TIME, OPPOSITE

    assert len(ONLY_IN_TIME) == 10
    for name in ONLY_IN_TIME:
        for frames in (2, 3, 5, 8, 16):
            poses = [ALL[name](t, frames - 1) for t in range(frames)]
            assert [ALL[OPPOSITE[name]](t, frames - 1) for t in range(frames)] == poses[::-1]
            assert len({*poses}) > 1
    hop = [ALL["hopping and then swelling"](t, 7) for t in range(8)]
    assert [y for _, y, _, _ in hop] == [375, 250, 250, 375, 500, 500, 500, 500]
    assert [side for _, _, side, _ in hop] == [380, 380, 380, 380, 610, 840, 840, 610]
    assert {*EVENTS} < {*ONLY_IN_TIME}


def test_videos_of_chosen_motions() -> None:
    chosen = ("hopping and then swelling", "swelling and then hopping")
    source = video("train", n=30, vocabulary="basic", motions=chosen)
    assert source.classes == list(chosen)
    for record in source:
        assert record["motion"] == chosen[record["label"]]
        assert record["negative_text"][0].endswith(chosen[1 - record["label"]])
    assert {record["label"] for record in source} == {0, 1}
    with pytest.raises(UserError, match="no motion 'flying'"):
        video("train", motions=["flying"])


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("val", ["airplane", "balloon", "bell", "bicycle", "butterfly", "cactus"]),
        ("test", ["airplane", "balloon", "bird", "camera", "castle", "chair"]),
    ],
)
def test_nouns_of_which_a_split_has_no_pair_are_named(split, names):
    """Else a scene were looked for without end. One thing a scene needs no pair."""
    with pytest.raises(UserError, match=f"no two of these 6 are one of '{split}': name more nouns"):
        scenes(split, n=2, vocabulary=names)
    assert len(scenes("train", n=2, vocabulary=names)[0]["objects"]) == 2
    assert len(scenes(split, n=2, vocabulary=names, objects=1)[1]["objects"]) == 1
